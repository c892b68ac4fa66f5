//! Statements.

use super::generate::{Block, Gen, Generator, Label, Var};
use crate::ast::{Expr, ExprKind, Name, Stmt, StmtKind, UnaryOp};
use crate::diag::Span;
use crate::probe::PointKind;
use crate::program::{Op, Reg, SwitchTable};
use crate::value::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// Switches with at least this many constant cases become a lookup table.
const TABLE_MIN: usize = 4;

impl Generator<'_> {
    /// Compiles a statement; true when the code behind it cannot be reached.
    pub(crate) fn statement(&mut self, stmt: &Stmt) -> Gen<bool> {
        let span = stmt.span;
        if probed(&stmt.kind) {
            self.probe(PointKind::Statement, span);
        }
        match &stmt.kind {
            StmtKind::Empty | StmtKind::Function(_) | StmtKind::Class(_) => {}
            StmtKind::Import(_) => {
                return self.stop(span, "'import' is only allowed at the top level of a file");
            }
            StmtKind::Block(body) | StmtKind::Included(body) => return Ok(self.body(body)),
            StmtKind::Debug { stage, point, log, body } => {
                let kind = PointKind::Debug {
                    stage: Arc::from(&*stage.to_text()),
                    point: Arc::from(&*point.to_text()),
                    log: *log,
                };
                self.probe(kind, span);
                return self.statement(body);
            }
            StmtKind::Echo(e) => {
                let src = self.operand(e)?;
                self.emit(Op::Echo { src }, e.span);
            }
            StmtKind::Return(e) => {
                self.return_statement(e.as_ref(), span)?;
                return Ok(true);
            }
            StmtKind::Throw(e) => {
                let src = self.operand(e)?;
                self.emit(Op::Throw { src }, span);
                return Ok(true);
            }
            StmtKind::Yield(e) => {
                if self.function().blocks.iter().any(|b| matches!(b, Block::Barrier { .. })) {
                    return self.stop(span, "'yield' is not allowed inside a barrier");
                }
                let src = match e {
                    Some(e) => self.operand(e)?,
                    None => {
                        let dst = self.temp(span)?;
                        self.emit(Op::None { dst }, span);
                        dst
                    }
                };
                self.probe(PointKind::Pause, span);
                self.emit(Op::Yield { src }, span);
                self.probe(PointKind::Resume, span);
            }
            StmtKind::Break => {
                self.leave(span, true)?;
                return Ok(true);
            }
            StmtKind::Continue => {
                self.leave(span, false)?;
                return Ok(true);
            }
            StmtKind::Global(names) => self.global(names)?,
            StmtKind::Expr(e) => self.effect(e)?,
            StmtKind::If { arms, other } => return self.if_statement(arms, other.as_deref()),
            StmtKind::While { cond, body } => {
                self.warn_condition(cond);
                match self.folded(cond) {
                    Some(v) if !v.truthy() => {
                        self.check_skipped(cond);
                        self.warn(body.span, "Unreachable code");
                        self.check_dead(|g| g.loop_statement(None, None, body));
                    }
                    Some(_) => {
                        self.check_skipped(cond);
                        self.probe(PointKind::Statement, span);
                        return self.endless(body);
                    }
                    None => self.loop_statement(Some(cond), None, body)?,
                }
            }
            StmtKind::For { init, cond, step, body } => {
                if let Some(init) = init {
                    self.effect(init)?;
                }
                if let Some(cond) = cond {
                    self.warn_condition(cond);
                }
                let counter = init.as_ref().and_then(|init| match &*init.kind {
                    ExprKind::Assign { target, .. } => variable_of(target),
                    _ => None,
                });
                return self.with_loop_variables(counter.as_slice(), |g| {
                    g.for_loop(cond.as_ref(), step.as_ref(), body)
                });
            }
            StmtKind::Forever(body) => return self.endless(body),
            StmtKind::Foreach { subject, key, value, body } => {
                let names: Vec<_> = key.iter().chain([value]).filter_map(variable_of).collect();
                self.with_loop_variables(&names, |g| g.foreach(subject, key.as_ref(), value, body, span))?;
            }
            StmtKind::Switch { subject, cases } => self.switch(subject, cases)?,
            StmtKind::Try { body, name, handler, .. } => {
                let exception = self.temp(span)?;
                let mut catch = Label::default();
                let mut end = Label::default();
                self.jump_to(Op::PushTry { dst: exception, to: 0 }, &mut catch, span);
                self.function_mut().blocks.push(Block::Try);
                let ends = self.body(body);
                self.function_mut().blocks.pop();
                self.emit(Op::PopTry, span);
                self.jump_to(Op::Jump { to: 0 }, &mut end, span);
                self.bind(&mut catch);
                self.store_variable(name, exception, span)?;
                let handled = self.body(handler);
                self.bind(&mut end);
                return Ok(ends && handled);
            }
            StmtKind::Barrier { name, var, body } => self.barrier(name, var.as_ref(), body, span)?,
        }
        Ok(false)
    }

    fn return_statement(&mut self, e: Option<&Expr>, span: Span) -> Gen<()> {
        let src = match e {
            None => None,
            Some(e) => Some(self.operand(e)?),
        };
        // Barriers write their variable back on the way out; a returned variable is read before that.
        let blocks = self.function().blocks.len();
        let barrier = self.function().blocks.iter().any(|b| matches!(b, Block::Barrier { .. }));
        let mut src = src;
        if barrier {
            if let Some(reg) = src {
                let copy = self.temp(span)?;
                self.emit(Op::Move { dst: copy, src: reg }, span);
                src = Some(copy);
            }
            for i in (0..blocks).rev() {
                self.leave_block(i, span)?;
            }
        }
        self.probe(PointKind::Leave, span);
        match src {
            Some(src) => self.emit(Op::Return { src }, span),
            None => self.emit(Op::ReturnNone, span),
        };
        Ok(())
    }

    /// Emits what has to happen when control leaves block `i`.
    fn leave_block(&mut self, i: usize, span: Span) -> Gen<()> {
        match self.function().blocks.get(i) {
            Some(Block::Try) => {
                self.emit(Op::PopTry, span);
            }
            Some(Block::Barrier { var }) => {
                let var = var.clone();
                self.barrier_exit(var.as_ref(), span)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, span: Span, stop: bool) -> Gen<()> {
        let found =
            self.function().blocks.iter().rposition(|b| {
                matches!(b, Block::Loop { .. }) || (stop && matches!(b, Block::Switch { .. }))
            });
        let Some(at) = found else {
            let word = if stop { "break" } else { "continue" };
            let needs = if stop { "a loop or switch" } else { "a loop" };
            return self.stop(span, format!("'{word}' needs {needs} around it"));
        };
        for i in (at + 1..self.function().blocks.len()).rev() {
            self.leave_block(i, span)?;
        }
        let jump = self.emit(Op::Jump { to: 0 }, span);
        match self.function_mut().blocks.get_mut(at) {
            Some(Block::Loop { stop: label, .. } | Block::Switch { stop: label }) if stop => label.add(jump),
            Some(Block::Loop { next, .. }) => next.add(jump),
            _ => {}
        }
        Ok(())
    }

    fn global(&mut self, names: &[(Name, Span)]) -> Gen<()> {
        if self.function().main {
            return Ok(());
        }
        for (name, span) in names {
            if self.function().touched.contains(name) {
                return self.stop(
                    *span,
                    format!("Cannot import global '${name}': the variable already exists here"),
                );
            }
            let slot = match self.globals.get(name) {
                Some(slot) => *slot,
                // The module scan collects every name in a `global` statement.
                None => return self.stop(*span, format!("Cannot import global '${name}'")),
            };
            self.function_mut().vars.insert(name.clone(), Var::Global(slot));
        }
        Ok(())
    }

    fn if_statement(&mut self, arms: &[(Expr, Stmt)], other: Option<&Stmt>) -> Gen<bool> {
        let mut end = Label::default();
        let mut ends = true;
        for (i, (cond, body)) in arms.iter().enumerate() {
            self.warn_condition(cond);
            if let Some(v) = self.folded(cond) {
                self.check_skipped(cond);
                if v.truthy() {
                    let e = self.inner(body)?;
                    self.bind(&mut end);
                    if let Some(span) = arms.get(i + 1).map(|(cond, _)| cond.span).or(other.map(|o| o.span)) {
                        self.warn(span, "Unreachable code");
                    }
                    for (cond, body) in &arms[i + 1..] {
                        self.check_dead_expr(cond);
                        self.check_dead(|g| g.inner(body).map(drop));
                    }
                    if let Some(other) = other {
                        self.check_dead(|g| g.inner(other).map(drop));
                    }
                    return Ok(ends && e);
                }
                self.warn(body.span, "Unreachable code");
                self.check_dead(|g| g.inner(body).map(drop));
                continue;
            }
            if i > 0 {
                self.probe(PointKind::Statement, cond.span);
            }
            let mut next = Label::default();
            let mark = self.mark();
            self.branch(cond, false, &mut next)?;
            self.release_to(mark);
            let e = self.inner(body)?;
            ends &= e;
            let last = i + 1 == arms.len() && other.is_none();
            if !e && !last {
                self.jump_to(Op::Jump { to: 0 }, &mut end, cond.span);
            }
            self.bind(&mut next);
        }
        match other {
            Some(other) => ends &= self.inner(other)?,
            None => ends = false,
        }
        self.bind(&mut end);
        Ok(ends)
    }

    fn inner(&mut self, body: &Stmt) -> Gen<bool> {
        let mark = self.mark();
        let ends = self.statement(body);
        self.release_to(mark);
        // The error is recorded; the code around it is still checked.
        Ok(ends.unwrap_or(false))
    }

    fn open_loop(&mut self) {
        self.function_mut().blocks.push(Block::Loop { stop: Label::default(), next: Label::default() });
    }

    fn bind_next(&mut self) {
        if let Some(Block::Loop { next, .. }) = self.function_mut().blocks.last_mut() {
            let mut next = std::mem::take(next);
            self.bind(&mut next);
        }
    }

    /// Binds the exit of the innermost block; true if something jumps there.
    fn close_block(&mut self) -> bool {
        match self.function_mut().blocks.pop() {
            Some(Block::Loop { mut stop, .. } | Block::Switch { mut stop }) => {
                let used = stop.used();
                self.bind(&mut stop);
                used
            }
            _ => false,
        }
    }

    fn endless(&mut self, body: &Stmt) -> Gen<bool> {
        self.open_loop();
        let start = self.here();
        self.inner(body)?;
        self.bind_next();
        self.emit(Op::Jump { to: start }, body.span);
        Ok(!self.close_block())
    }

    /// A loop with its condition at the bottom.
    fn loop_statement(&mut self, cond: Option<&Expr>, step: Option<&Expr>, body: &Stmt) -> Gen<()> {
        self.open_loop();
        let entry = cond.map(|c| self.emit(Op::Jump { to: 0 }, c.span));
        let start = self.here();
        self.inner(body)?;
        self.bind_next();
        if let Some(step) = step {
            let mark = self.mark();
            self.effect(step)?;
            self.release_to(mark);
        }
        match cond {
            Some(cond) => {
                if let Some(entry) = entry {
                    let here = self.here();
                    self.patch(entry, here);
                }
                self.probe(PointKind::Statement, cond.span);
                let mut top = Label::bound(start);
                let mark = self.mark();
                self.branch(cond, true, &mut top)?;
                self.release_to(mark);
            }
            None => {
                self.emit(Op::Jump { to: start }, body.span);
            }
        }
        self.close_block();
        Ok(())
    }

    fn for_loop(&mut self, cond: Option<&Expr>, step: Option<&Expr>, body: &Stmt) -> Gen<bool> {
        let constant = cond.map(|c| self.folded(c));
        if let (Some(cond), Some(Some(_))) = (cond, &constant) {
            self.check_skipped(cond);
        }
        match constant {
            Some(Some(v)) if !v.truthy() => {
                self.warn(body.span, "Unreachable code");
                self.check_dead(|g| g.loop_statement(None, step, body));
            }
            Some(None) => self.loop_statement(cond, step, body)?,
            _ if step.is_none() => return self.endless(body),
            _ => self.loop_statement(None, step, body)?,
        }
        Ok(false)
    }

    fn foreach(
        &mut self,
        subject: &Expr,
        key: Option<&Expr>,
        value: &Expr,
        body: &Stmt,
        span: Span,
    ) -> Gen<()> {
        let iter = self.temps(2, span)?;
        let mark = self.mark();
        let src = self.operand(subject)?;
        self.emit(Op::IterInit { iter, src }, subject.span);
        self.release_to(mark);
        self.open_loop();
        self.bind_next();
        let start = self.here();
        self.probe(PointKind::Statement, value.span);
        let mut end = Label::default();
        let direct = match (key, &*value.kind) {
            (None, ExprKind::Var(name)) => match self.variable(name) {
                Var::Reg(reg) => {
                    self.function_mut().touched.insert(name.clone());
                    Some(reg)
                }
                _ => None,
            },
            _ => None,
        };
        match (direct, key) {
            (Some(dst), _) => {
                self.jump_to(Op::IterNext { iter, dst, to: 0 }, &mut end, span);
            }
            (None, None) => {
                let dst = self.temp(span)?;
                self.jump_to(Op::IterNext { iter, dst, to: 0 }, &mut end, span);
                self.assign_register(value, dst)?;
            }
            (None, Some(key)) => {
                let dst = self.temps(2, span)?;
                self.jump_to(Op::IterNextPair { iter, dst, to: 0 }, &mut end, span);
                self.assign_register(key, dst + 1)?;
                self.assign_register(value, dst)?;
            }
        }
        self.inner(body)?;
        // `continue` goes straight to the next item.
        if let Some(Block::Loop { next, .. }) = self.function_mut().blocks.last_mut() {
            let jumps = next.take_jumps();
            for at in jumps {
                self.patch(at, start);
            }
        }
        self.emit(Op::Jump { to: start }, span);
        self.bind(&mut end);
        self.close_block();
        Ok(())
    }

    fn switch(&mut self, subject: &Expr, cases: &[(Option<Expr>, Vec<Stmt>)]) -> Gen<()> {
        let reg = self.temp(subject.span)?;
        self.into(subject, reg)?;
        let consts: Vec<Option<Value>> =
            cases.iter().map(|(l, _)| l.as_ref().and_then(|e| self.folded(e))).collect();
        self.warn_duplicates(cases.iter().filter_map(|(l, _)| l.as_ref()));
        let table = self.switch_table(reg, cases.iter().map(|(l, _)| l.as_ref()).zip(&consts), subject.span);
        let mut labels: Vec<Label> = cases.iter().map(|_| Label::default()).collect();
        let mut end = Label::default();
        if let Some(table) = table {
            let here = self.here();
            self.function_mut().proto.tables[table].slow = here;
        }
        for (i, (label, _)) in cases.iter().enumerate() {
            if let Some(e) = label {
                let mark = self.mark();
                let value = self.operand(e)?;
                self.jump_to(Op::JumpEq { a: reg, b: value, when: true, to: 0 }, &mut labels[i], e.span);
                self.release_to(mark);
            }
        }
        let default = cases.iter().position(|(l, _)| l.is_none());
        match default {
            Some(i) => self.jump_to(Op::Jump { to: 0 }, &mut labels[i], subject.span),
            None => self.jump_to(Op::Jump { to: 0 }, &mut end, subject.span),
        }
        self.function_mut().blocks.push(Block::Switch { stop: Label::default() });
        let mut starts = Vec::new();
        for (i, (_, body)) in cases.iter().enumerate() {
            starts.push(self.here());
            self.bind(&mut labels[i]);
            self.body(body);
        }
        self.close_block();
        self.bind(&mut end);
        if let Some(table) = table {
            let out = self.here();
            let default = default.map_or(out, |i| starts[i]);
            self.fill_table(table, &consts, &starts, default);
        }
        Ok(())
    }

    /// Emits a table jump when all labels are constants of one type; index of the table.
    pub(crate) fn switch_table<'e>(
        &mut self,
        reg: Reg,
        labels: impl Iterator<Item = (Option<&'e Expr>, &'e Option<Value>)>,
        span: Span,
    ) -> Option<usize> {
        let mut count = 0;
        let (mut numbers, mut strings) = (true, true);
        for (label, value) in labels {
            if label.is_some() {
                count += 1;
                numbers &= matches!(value, Some(Value::Number(n)) if !n.is_nan());
                strings &= matches!(value, Some(Value::Str(_)));
            }
        }
        if count < TABLE_MIN || !(numbers || strings) {
            return None;
        }
        let f = self.function_mut();
        f.proto.tables.push(SwitchTable::default());
        let table = f.proto.tables.len() - 1;
        self.emit(Op::Switch { a: reg, table: table as u32 }, span);
        Some(table)
    }

    pub(crate) fn fill_table(
        &mut self,
        table: usize,
        consts: &[Option<Value>],
        starts: &[u32],
        default: u32,
    ) {
        let t = &mut self.function_mut().proto.tables[table];
        t.default = default;
        for (value, start) in consts.iter().zip(starts) {
            match value {
                // Positive and negative zero are equal.
                Some(Value::Number(n)) => {
                    t.numbers.entry((n + 0.0).to_bits()).or_insert(*start);
                }
                Some(Value::Str(s)) => {
                    t.strings.entry(s.clone()).or_insert(*start);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn warn_duplicates<'e>(&mut self, labels: impl Iterator<Item = &'e Expr>) {
        let mut seen = HashSet::new();
        for e in labels {
            if let Some(v @ (Value::Number(_) | Value::Str(_) | Value::Bool(_) | Value::None)) =
                self.folded(e)
                && !seen.insert((v.type_name(), v.to_str()))
            {
                self.warn(e.span, format!("Duplicate constant '{}'", v.to_string_lossy()));
            }
        }
    }

    fn barrier(&mut self, name: &Expr, var: Option<&Name>, body: &[Stmt], span: Span) -> Gen<()> {
        let reg = self.operand(name)?;
        let shared = self.temp(span)?;
        match var {
            None => {
                self.emit(Op::BarrierEnter { dst: shared, name: reg }, span);
            }
            Some(var) => match self.variable(var) {
                Var::Reg(dst) => {
                    self.emit(Op::BarrierEnter { dst, name: reg }, span);
                }
                place => {
                    self.emit(Op::BarrierEnter { dst: shared, name: reg }, span);
                    let mut set = Label::default();
                    let mut end = Label::default();
                    self.jump_to(Op::JumpIfDefined { a: shared, to: 0 }, &mut set, span);
                    let dst = self.temp(span)?;
                    match place {
                        Var::Global(slot) => self.emit(Op::ClearGlobal { dst, slot }, span),
                        Var::Cell(cell) => self.emit(Op::ClearCell { dst, cell }, span),
                        Var::Reg(reg) => self.emit(Op::ClearReg { dst, reg }, span),
                    };
                    self.jump_to(Op::Jump { to: 0 }, &mut end, span);
                    self.bind(&mut set);
                    self.store_variable(var, shared, span)?;
                    self.bind(&mut end);
                }
            },
        }
        if let Some(var) = var {
            self.function_mut().touched.insert(var.clone());
        }
        self.function_mut().blocks.push(Block::Barrier { var: var.cloned() });
        self.body(body);
        self.function_mut().blocks.pop();
        self.barrier_exit(var, span)
    }

    fn barrier_exit(&mut self, var: Option<&Name>, span: Span) -> Gen<()> {
        match var {
            None => {
                self.emit(Op::BarrierExit { src: 0, write: false }, span);
            }
            Some(var) => {
                let mark = self.mark();
                let src = self.quiet_variable(var, span)?;
                self.emit(Op::BarrierExit { src, write: true }, span);
                self.release_to(mark);
            }
        }
        Ok(())
    }

    /// An assignment that decides is often meant to be a comparison; parentheses around it say that it is not.
    fn warn_condition(&mut self, cond: &Expr) {
        match &*cond.kind {
            ExprKind::Assign { .. } => {
                let message =
                    "Assignment in a condition; write '==' to compare, or put parentheses around it";
                self.warn(cond.span, message);
            }
            ExprKind::And(a, b) | ExprKind::Or(a, b) => {
                self.warn_condition(a);
                self.warn_condition(b);
            }
            ExprKind::Unary { op: UnaryOp::Not, operand } => self.warn_condition(operand),
            _ => {}
        }
    }

    /// Compiles a loop whose variables are `names`.
    fn with_loop_variables<T>(
        &mut self,
        names: &[(Name, Span)],
        compile: impl FnOnce(&mut Self) -> Gen<T>,
    ) -> Gen<T> {
        let before = self.function().loop_variables.len();
        for (name, span) in names {
            if self.function().loop_variables.contains(name) {
                self.warn(*span, format!("Loop variable '${name}' shadows that of the loop around it"));
            }
            self.function_mut().loop_variables.push(name.clone());
        }
        let result = compile(self);
        self.function_mut().loop_variables.truncate(before);
        result
    }
}

/// Statements that begin with a probe. The others have none of their own, or one where they test their condition.
fn probed(kind: &StmtKind) -> bool {
    !matches!(
        kind,
        StmtKind::Empty
            | StmtKind::Function(_)
            | StmtKind::Class(_)
            | StmtKind::Import(_)
            | StmtKind::Block(_)
            | StmtKind::Included(_)
            | StmtKind::Debug { .. }
            | StmtKind::Global(_)
            | StmtKind::While { .. }
    )
}

fn variable_of(e: &Expr) -> Option<(Name, Span)> {
    match &*e.kind {
        ExprKind::Var(name) => Some((name.clone(), e.span)),
        _ => None,
    }
}
