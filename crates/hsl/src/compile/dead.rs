//! Code that can never run: it is checked like any other and leaves no instructions.

use super::fold;
use super::generate::{Block, Gen, Generator};
use crate::ast::{Element, Expr, ExprKind};

impl Generator<'_> {
    /// Compiles something for its errors alone and drops what it emitted.
    pub(super) fn check_dead(&mut self, compile: impl FnOnce(&mut Self) -> Gen<()>) {
        let f = self.function();
        let (code, tables, paths) = (f.proto.code.len(), f.proto.tables.len(), f.proto.paths.len());
        let (next, registers, blocks) = (f.next, f.proto.registers, f.blocks.len());
        let (vars, touched) = (f.vars.clone(), f.touched.clone());
        self.dead += 1;
        // The error is recorded; the code around it is still checked.
        let _recorded = compile(self);
        self.dead -= 1;
        let f = self.function_mut();
        f.proto.code.truncate(code);
        f.proto.spans.truncate(code);
        f.proto.tables.truncate(tables);
        f.proto.paths.truncate(paths);
        (f.next, f.proto.registers) = (next, registers);
        (f.vars, f.touched) = (vars, touched);
        f.blocks.truncate(blocks);
        for block in &mut f.blocks {
            match block {
                Block::Loop { stop, next } => {
                    stop.jumps.retain(|at| *at < code);
                    next.jumps.retain(|at| *at < code);
                }
                Block::Switch { stop } => stop.jumps.retain(|at| *at < code),
                Block::Try | Block::Barrier { .. } => {}
            }
        }
    }

    /// Checks an expression that is never evaluated.
    pub(super) fn check_dead_expr(&mut self, e: &Expr) {
        self.check_dead(|g| g.effect(e));
    }

    /// Checks the operands that the value of a constant expression does not depend on: `true or f()`.
    pub(super) fn check_skipped(&mut self, e: &Expr) {
        match &*e.kind {
            ExprKind::And(a, b) | ExprKind::Or(a, b) => {
                self.check_skipped(a);
                let decides = matches!(&*e.kind, ExprKind::Or(..));
                if fold::constant(a).is_some_and(|v| v.truthy() == decides) {
                    self.check_dead_expr(b);
                } else {
                    self.check_skipped(b);
                }
            }
            ExprKind::Ternary { cond, then, other } => {
                self.check_skipped(cond);
                let yes = fold::constant(cond).is_some_and(|v| v.truthy());
                for (branch, taken) in then.iter().map(|e| (e, yes)).chain([(other, !yes)]) {
                    if taken {
                        self.check_skipped(branch);
                    } else {
                        self.check_dead_expr(branch);
                    }
                }
            }
            ExprKind::Paren(inner) | ExprKind::Unary { operand: inner, .. } => self.check_skipped(inner),
            ExprKind::Binary { left: a, right: b, .. } | ExprKind::Index { base: a, key: b } => {
                self.check_skipped(a);
                self.check_skipped(b);
            }
            ExprKind::Concat(list) => list.iter().for_each(|e| self.check_skipped(e)),
            ExprKind::Slice { base, from, to, step } => {
                self.check_skipped(base);
                for part in [from, to, step].into_iter().flatten() {
                    self.check_skipped(part);
                }
            }
            ExprKind::Array(elements) => {
                for element in elements {
                    match element {
                        Element::Value(v) | Element::Spread(v) => self.check_skipped(v),
                        Element::Pair(k, v) => {
                            self.check_skipped(k);
                            self.check_skipped(v);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
