//! Constant expressions. An operation that would raise is not folded, so errors stay where they happen.

use crate::array::{Array, Key};
use crate::ast::{BinaryOp, Element, Expr, ExprKind, UnaryOp};
use crate::error::Error;
use crate::ops;
use crate::regex::Regex;
use crate::string::Str;
use crate::value::Value;

/// Largest folded string or array; bigger ones are left to run time.
const FOLDED_MAX: usize = 1 << 16;

/// The value of an expression that needs nothing from run time.
pub(crate) fn constant(e: &Expr) -> Option<Value> {
    Some(match &*e.kind {
        ExprKind::None => Value::None,
        ExprKind::Bool(b) => Value::Bool(*b),
        ExprKind::Number(n) => Value::Number(*n),
        ExprKind::Str(s) => Value::Str(s.clone()),
        // A bad pattern is not constant: the code for it reports what is wrong.
        ExprKind::Regex(pattern, flags) => Regex::new(pattern, flags).ok()?.to_value(),
        ExprKind::Paren(e) => constant(e)?,
        ExprKind::Array(elements) => {
            let mut array = Array::new();
            for element in elements {
                match element {
                    Element::Value(v) => {
                        array.push(constant(v)?);
                    }
                    Element::Pair(k, v) => {
                        array.insert(Key::from_value(&constant(k)?).ok()?, constant(v)?);
                    }
                    Element::Spread(v) => match constant(v)? {
                        Value::Array(a) => array.merge(&a),
                        _ => return None,
                    },
                }
            }
            Value::Array(array)
        }
        ExprKind::Unary { op, operand } => {
            let v = constant(operand)?;
            match op {
                UnaryOp::Not => Value::Bool(!v.truthy()),
                UnaryOp::Minus => ops::negate(&v).ok()?,
                UnaryOp::Plus => ops::plus(&v).ok()?,
                UnaryOp::BitNot => ops::bit_not(&v).ok()?,
            }
        }
        ExprKind::Binary { op, left, right } => {
            if matches!(op, BinaryOp::Match | BinaryOp::NoMatch) {
                return None;
            }
            let (a, b) = (constant(left)?, constant(right)?);
            small(binary(*op, &a, &b).ok()?)?
        }
        ExprKind::Concat(list) => {
            let mut out = Vec::new();
            for e in list {
                let v = constant(e)?;
                if v.is_none() || out.len() > FOLDED_MAX {
                    return None;
                }
                v.write_string(&mut out);
            }
            Value::Str(Str::from_vec(out))
        }
        ExprKind::And(a, b) => Value::Bool(constant(a)?.truthy() && constant(b)?.truthy()),
        ExprKind::Or(a, b) => Value::Bool(constant(a)?.truthy() || constant(b)?.truthy()),
        ExprKind::Coalesce(a, b) => match constant(a)? {
            Value::None => constant(b)?,
            value => value,
        },
        ExprKind::Ternary { cond, then, other } => {
            let c = constant(cond)?;
            match (c.truthy(), then) {
                (true, Some(then)) => constant(then)?,
                (true, None) => c,
                (false, _) => constant(other)?,
            }
        }
        ExprKind::Slice { base, from, to, step } => {
            let base = constant(base)?;
            let part = |e: &Option<Expr>| match e {
                Some(e) => constant(e).map(Some),
                None => Some(None),
            };
            let (from, to, step) = (part(from)?, part(to)?, part(step)?);
            ops::slice(&base, from.as_ref(), to.as_ref(), step.as_ref()).ok()?
        }
        ExprKind::Index { base, key } => ops::index(&constant(base)?, &constant(key)?).ok()?,
        _ => return None,
    })
}

/// An operation on constants; too large results are a fatal error, as at run time.
pub(crate) fn binary(op: BinaryOp, a: &Value, b: &Value) -> Result<Value, Error> {
    ops::within(FOLDED_MAX, || ops::binary(op, a, b))
}

fn small(v: Value) -> Option<Value> {
    match &v {
        Value::Str(s) if s.len() > FOLDED_MAX => None,
        Value::Array(a) if a.len() > FOLDED_MAX => None,
        _ => Some(v),
    }
}
