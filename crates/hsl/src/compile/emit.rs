//! Instructions, registers, labels and constants of the function being compiled.

use super::generate::{Function, Gen, Generator, Label, REGISTERS_MAX};
use crate::diag::Span;
use crate::probe::{Point, PointKind};
use crate::program::{Op, Reg};
use crate::string::Str;
use crate::value::Value;

impl Generator<'_> {
    pub(crate) fn function(&self) -> &Function {
        // `generate` pushes the function of a module before any code is made for it.
        self.functions.last().expect("a function is being compiled")
    }

    pub(crate) fn function_mut(&mut self) -> &mut Function {
        self.functions.last_mut().expect("a function is being compiled")
    }

    pub(crate) fn emit(&mut self, op: Op, span: Span) -> usize {
        let f = self.function_mut();
        f.proto.code.push(op);
        f.proto.spans.push(span);
        f.proto.code.len() - 1
    }

    /// Emits a probe if the program is to have them.
    pub(crate) fn probe(&mut self, kind: PointKind, span: Span) {
        if !self.compiler.probes || self.dead > 0 {
            return;
        }
        let point = self.program.points.len() as u32;
        self.program.points.push(Point { kind, span, function: self.function().index });
        self.emit(Op::Probe { point }, span);
    }

    pub(crate) fn here(&self) -> u32 {
        self.function().proto.code.len() as u32
    }

    /// A fresh temporary register.
    pub(crate) fn temp(&mut self, span: Span) -> Gen<Reg> {
        self.temps(1, span)
    }

    /// `n` fresh registers in a row; the first one.
    pub(crate) fn temps(&mut self, n: u16, span: Span) -> Gen<Reg> {
        let f = self.function_mut();
        let first = f.next;
        if first + n > REGISTERS_MAX {
            return self.stop(span, "Expression needs too many intermediate values");
        }
        f.next += n;
        f.proto.registers = f.proto.registers.max(f.next);
        Ok(first as Reg)
    }

    pub(crate) fn mark(&self) -> u16 {
        self.function().next
    }

    pub(crate) fn release_to(&mut self, mark: u16) {
        self.function_mut().next = mark;
    }

    /// True when the register holds a temporary, which reading may consume.
    pub(crate) fn is_temp(&self, reg: Reg) -> bool {
        usize::from(reg) >= self.function().proto.names.len()
    }

    pub(crate) fn bind(&mut self, label: &mut Label) {
        let here = self.here();
        label.target = Some(here);
        for at in std::mem::take(&mut label.jumps) {
            set_target(&mut self.function_mut().proto.code[at], here);
        }
    }

    /// Emits a jump to `label`, which may be bound later.
    pub(crate) fn jump_to(&mut self, op: Op, label: &mut Label, span: Span) {
        let at = self.emit(op, span);
        match label.target {
            Some(to) => set_target(&mut self.function_mut().proto.code[at], to),
            None => label.jumps.push(at),
        }
    }

    pub(crate) fn patch(&mut self, at: usize, to: u32) {
        set_target(&mut self.function_mut().proto.code[at], to);
    }

    /// Index of a constant of the current function.
    pub(crate) fn const_index(&mut self, value: Value) -> u32 {
        let f = self.function_mut();
        let next = f.proto.consts.len() as u32;
        let known = match &value {
            Value::Number(n) => *f.number_consts.entry(n.to_bits()).or_insert(next),
            Value::Str(s) => *f.string_consts.entry(s.clone()).or_insert(next),
            _ => next,
        };
        if known == next {
            f.proto.consts.push(value);
        }
        known
    }

    pub(crate) fn name_const(&mut self, name: &str) -> u32 {
        self.const_index(Value::Str(Str::from(name)))
    }

    pub(crate) fn constant(&mut self, value: Value, dst: Reg, span: Span) {
        let op = match value {
            Value::None | Value::Undef => Op::None { dst },
            Value::Bool(b) => Op::Bool { dst, b },
            Value::Number(n) if n == f64::from(n as i32) && (n != 0.0 || n.is_sign_positive()) => {
                Op::Int { dst, n: n as i32 }
            }
            other => Op::Const { dst, k: self.const_index(other) },
        };
        self.emit(op, span);
    }

    pub(crate) fn move_to(&mut self, dst: Reg, src: Reg, span: Span) {
        if dst != src {
            self.emit(Op::Move { dst, src }, span);
        }
    }
}

pub(super) fn target_mut(op: &mut Op) -> Option<&mut u32> {
    match op {
        Op::Jump { to }
        | Op::JumpIf { to, .. }
        | Op::JumpIfNot { to, .. }
        | Op::JumpIfNone { to, .. }
        | Op::JumpIfDefined { to, .. }
        | Op::JumpLt { to, .. }
        | Op::JumpLe { to, .. }
        | Op::JumpEq { to, .. }
        | Op::JumpNe { to, .. }
        | Op::JumpLtConst { to, .. }
        | Op::JumpNotLtConst { to, .. }
        | Op::JumpLeConst { to, .. }
        | Op::JumpNotLeConst { to, .. }
        | Op::PushTry { to, .. }
        | Op::IterNext { to, .. }
        | Op::IterNextPair { to, .. } => Some(to),
        _ => None,
    }
}

pub(super) fn set_target(op: &mut Op, target: u32) {
    if let Some(to) = target_mut(op) {
        *to = target;
    }
}

/// Lets jumps to jumps go to the final target.
pub(super) fn thread_jumps(code: &mut [Op]) {
    for i in 0..code.len() {
        let mut op = code[i];
        if let Some(to) = target_mut(&mut op) {
            for _ in 0..8 {
                match code.get(*to as usize) {
                    Some(Op::Jump { to: next }) if *next as usize != i => *to = *next,
                    _ => break,
                }
            }
            code[i] = op;
        }
    }
}

impl Label {
    /// A label that is already in place.
    pub(crate) fn bound(target: u32) -> Label {
        Label { target: Some(target), jumps: Vec::new() }
    }

    /// Notes a jump that goes here.
    pub(crate) fn add(&mut self, jump: usize) {
        self.jumps.push(jump);
    }

    pub(crate) fn used(&self) -> bool {
        !self.jumps.is_empty()
    }

    pub(crate) fn take_jumps(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.jumps)
    }
}
