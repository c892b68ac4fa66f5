//! Functions that only give back one operation on their arguments, as most callbacks of sorts and filters do: on numbers
//! and on strings the result is computed where the function is called, without a frame. Such an operation cannot fail,
//! so nothing that reports where an error happened can tell the difference; other operands take the call.

use crate::ast::BinaryOp;
use crate::program::{Op, Proto, Reg};
use crate::value::Value;
use std::cmp::Ordering;

/// The whole of a function: an operation on a parameter and another parameter or a small number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Leaf {
    op: BinaryOp,
    a: Operand,
    b: Operand,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operand {
    /// Parameter number.
    Param(Reg),
    Int(i32),
}

impl Leaf {
    /// Recognizes a function by its code. Probes are instructions, so a function that is watched is none.
    pub(crate) fn find(proto: &Proto) -> Option<Leaf> {
        if !proto.plain || proto.method || proto.class.is_some() || proto.required != proto.params {
            return None;
        }
        let (constant, rest) = match &proto.code[..] {
            [Op::Int { dst, n }, rest @ ..] => (Some((*dst, *n)), rest),
            all => (None, all),
        };
        let [operation, Op::Return { src }, ..] = rest else { return None };
        let operand = |reg: Reg| match constant {
            Some((dst, n)) if dst == reg => Some(Operand::Int(n)),
            _ => (reg < proto.params).then_some(Operand::Param(reg)),
        };
        let (op, dst, a, b) = match *operation {
            Op::Add { dst, a, b } => (BinaryOp::Add, dst, operand(a)?, operand(b)?),
            Op::Sub { dst, a, b } => (BinaryOp::Sub, dst, operand(a)?, operand(b)?),
            Op::Mul { dst, a, b } => (BinaryOp::Mul, dst, operand(a)?, operand(b)?),
            Op::AddInt { dst, a, n } => (BinaryOp::Add, dst, operand(a)?, Operand::Int(n)),
            Op::MulInt { dst, a, n } => (BinaryOp::Mul, dst, operand(a)?, Operand::Int(n)),
            Op::Binary { op, dst, a, b } => (op, dst, operand(a)?, operand(b)?),
            _ => return None,
        };
        let known = {
            use BinaryOp::*;
            matches!(op, Add | Sub | Mul | Lt | Gt | Le | Ge | Eq | Ne | StrictEq | StrictNe)
        };
        (dst == *src && known).then_some(Leaf { op, a, b })
    }

    /// The result for these arguments, which are as many as there are parameters; `None` where it takes the call.
    #[inline]
    pub(crate) fn apply(self, args: &[Value]) -> Option<Value> {
        let (x, y) = match (self.a, self.b) {
            (Operand::Param(a), Operand::Param(b)) => {
                match (args.get(usize::from(a))?, args.get(usize::from(b))?) {
                    (Value::Number(x), Value::Number(y)) => (*x, *y),
                    (Value::Str(x), Value::Str(y)) => return self.order(x.as_bytes().cmp(y.as_bytes())),
                    _ => return None,
                }
            }
            (a, b) => (a.number(args)?, b.number(args)?),
        };
        Some(match self.op {
            BinaryOp::Add => Value::Number(x + y),
            BinaryOp::Sub => Value::Number(x - y),
            BinaryOp::Mul => Value::Number(x * y),
            BinaryOp::Lt => Value::Bool(x < y),
            BinaryOp::Gt => Value::Bool(x > y),
            BinaryOp::Le => Value::Bool(x <= y),
            BinaryOp::Ge => Value::Bool(x >= y),
            BinaryOp::Eq | BinaryOp::StrictEq => Value::Bool(x == y),
            BinaryOp::Ne | BinaryOp::StrictNe => Value::Bool(x != y),
            _ => return None,
        })
    }

    /// Strings that were compared.
    fn order(self, order: Ordering) -> Option<Value> {
        Some(Value::Bool(match self.op {
            BinaryOp::Lt => order.is_lt(),
            BinaryOp::Gt => order.is_gt(),
            BinaryOp::Le => order.is_le(),
            BinaryOp::Ge => order.is_ge(),
            BinaryOp::Eq | BinaryOp::StrictEq => order.is_eq(),
            BinaryOp::Ne | BinaryOp::StrictNe => order.is_ne(),
            _ => return None,
        }))
    }
}

impl Operand {
    #[inline]
    fn number(self, args: &[Value]) -> Option<f64> {
        match self {
            Operand::Int(n) => Some(f64::from(n)),
            Operand::Param(i) => match args.get(usize::from(i))? {
                Value::Number(n) => Some(*n),
                _ => None,
            },
        }
    }
}
