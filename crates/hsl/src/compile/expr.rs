//! Expressions.

use super::fold;
use super::generate::{Gen, Generator, Label, Symbol, Var};
use crate::array::Key;
use crate::ast::{BinaryOp, Element, Expr, ExprKind, Name, UnaryOp};
use crate::diag::Span;
use crate::error::Error;
use crate::probe::PointKind;
use crate::program::{Op, Reg};
use crate::regex::Regex;
use crate::value::Value;

/// Operands joined by one instruction.
const CONCAT_MAX: usize = 32;

impl Generator<'_> {
    /// A register with the value: the variable's own where possible, else a temporary.
    pub(crate) fn operand(&mut self, e: &Expr) -> Gen<Reg> {
        if let ExprKind::Var(name) = &*e.kind {
            if **name == *"this" {
                if let Some(Var::Reg(reg)) = self.function().this {
                    return Ok(reg);
                }
            } else if let Var::Reg(reg) = self.variable(name) {
                return Ok(reg);
            }
        }
        let dst = self.temp(e.span)?;
        self.into(e, dst)?;
        Ok(dst)
    }

    /// As [`operand`](Self::operand), but safe when `later` is evaluated before the value is used.
    pub(crate) fn operand_before(&mut self, e: &Expr, later: &Expr) -> Gen<Reg> {
        let reg = self.operand(e)?;
        if !self.is_temp(reg) && later.writes() {
            let copy = self.temp(e.span)?;
            self.emit(Op::Move { dst: copy, src: reg }, e.span);
            return Ok(copy);
        }
        Ok(reg)
    }

    /// Evaluates for side effects only.
    pub(crate) fn effect(&mut self, e: &Expr) -> Gen<()> {
        match &*e.kind {
            ExprKind::Assign { target, value } => self.assign(target, value, None, e.span),
            ExprKind::Augment { op, target, value } => self.augment(*op, target, value, None, e.span),
            ExprKind::IncDec { target, delta, .. } => self.increment(target, *delta, true, None, e.span),
            ExprKind::Paren(inner) => self.effect(inner),
            _ => {
                let mark = self.mark();
                let dst = self.temp(e.span)?;
                self.into(e, dst)?;
                self.release_to(mark);
                Ok(())
            }
        }
    }

    /// True when compiling `e` into a variable's register writes it only at the very end.
    pub(crate) fn direct(&self, e: &Expr) -> bool {
        match &*e.kind {
            ExprKind::Ternary { then: Some(then), other, .. } => self.direct(then) && self.direct(other),
            ExprKind::Paren(e) => self.direct(e),
            ExprKind::Ternary { .. }
            | ExprKind::Coalesce(..)
            | ExprKind::And(..)
            | ExprKind::Or(..)
            | ExprKind::Match { .. }
            | ExprKind::Array(_)
            | ExprKind::Assign { .. }
            | ExprKind::Augment { .. }
            | ExprKind::Slice { .. }
            | ExprKind::IncDec { .. } => self.folded(e).is_some(),
            _ => true,
        }
    }

    pub(crate) fn load_variable(&mut self, name: &Name, dst: Reg, span: Span) -> Gen<()> {
        let var = if **name == *"this" {
            match self.function().this {
                Some(var) => var,
                None => return self.stop(span, "$this is only available in class functions"),
            }
        } else {
            self.variable(name)
        };
        match var {
            Var::Reg(src) => self.move_to(dst, src, span),
            Var::Cell(cell) => {
                self.emit(Op::LoadCell { dst, quiet: false, cell }, span);
            }
            Var::Global(slot) => {
                self.emit(Op::LoadGlobal { dst, quiet: false, slot }, span);
            }
        }
        Ok(())
    }

    /// A register with the variable's value or nothing.
    pub(crate) fn quiet_variable(&mut self, name: &Name, span: Span) -> Gen<Reg> {
        let var = if **name == *"this" { self.function().this } else { Some(self.variable(name)) };
        match var {
            Some(Var::Reg(reg)) => Ok(reg),
            Some(Var::Cell(cell)) => {
                let dst = self.temp(span)?;
                self.emit(Op::LoadCell { dst, quiet: true, cell }, span);
                Ok(dst)
            }
            Some(Var::Global(slot)) => {
                let dst = self.temp(span)?;
                self.emit(Op::LoadGlobal { dst, quiet: true, slot }, span);
                Ok(dst)
            }
            None => {
                let dst = self.temp(span)?;
                self.emit(Op::None { dst }, span);
                Ok(dst)
            }
        }
    }

    /// Evaluates a path so that missing parts give nothing instead of an error.
    pub(crate) fn quiet(&mut self, e: &Expr) -> Gen<Reg> {
        match &*e.kind {
            ExprKind::Var(name) => self.quiet_variable(name, e.span),
            ExprKind::Index { base, key } => {
                let base = self.quiet(base)?;
                let key = self.operand(key)?;
                let dst = self.temp(e.span)?;
                self.emit(Op::IndexQuiet { dst, base, key }, e.span);
                Ok(dst)
            }
            ExprKind::Prop { base, name } => {
                let base = self.quiet(base)?;
                let k = self.name_const(name);
                let dst = self.temp(e.span)?;
                self.emit(Op::GetProp { dst, base, quiet: true, k }, e.span);
                Ok(dst)
            }
            ExprKind::Slice { base, from, to, step } => {
                let dst = self.temp(e.span)?;
                let mark = self.mark();
                let base = self.quiet(base)?;
                let mut missing = Label::default();
                let mut end = Label::default();
                self.jump_to(Op::JumpIfNone { a: base, to: 0 }, &mut missing, e.span);
                self.slice(base, [from, to, step], dst, e.span)?;
                self.jump_to(Op::Jump { to: 0 }, &mut end, e.span);
                self.bind(&mut missing);
                self.emit(Op::None { dst }, e.span);
                self.bind(&mut end);
                self.release_to(mark);
                Ok(dst)
            }
            ExprKind::StaticVar { class, name } if self.static_missing(class, name) => {
                let dst = self.temp(e.span)?;
                self.emit(Op::None { dst }, e.span);
                Ok(dst)
            }
            _ => self.operand(e),
        }
    }

    fn slice(&mut self, base: Reg, parts: [&Option<Expr>; 3], dst: Reg, span: Span) -> Gen<()> {
        let start = self.temps(4, span)?;
        self.emit(Op::MoveQuiet { dst: start, src: base }, span);
        for (i, part) in parts.into_iter().enumerate() {
            match part {
                Some(e) => self.into(e, start + 1 + i as Reg)?,
                None => {
                    self.emit(Op::None { dst: start + 1 + i as Reg }, span);
                }
            }
        }
        self.emit(Op::Slice { dst, start }, span);
        Ok(())
    }

    /// Evaluates `e` into `dst`.
    pub(crate) fn into(&mut self, e: &Expr, dst: Reg) -> Gen<()> {
        if let Some(value) = self.folded(e) {
            if let ExprKind::Array(elements) = &*e.kind {
                self.check_keys(elements);
            }
            self.check_skipped(e);
            self.constant(value, dst, e.span);
            return Ok(());
        }
        let mark = self.mark();
        let result = self.expr_into(e, dst);
        self.release_to(mark);
        result
    }

    fn check_keys(&mut self, elements: &[Element]) {
        let keys = elements.iter().filter_map(|el| match el {
            Element::Pair(k, _) => Some(k),
            _ => None,
        });
        let mut seen = std::collections::HashSet::new();
        let mut twice = Vec::new();
        for k in keys {
            if let Some(v) = self.folded(k)
                && let Ok(Key::Val(v)) = Key::from_value(&v)
                && !seen.insert(v.to_str())
            {
                twice.push((k.span, v));
            }
        }
        for (span, v) in twice {
            self.warn(span, format!("Duplicate key '{}'", v.to_string_lossy()));
        }
    }

    fn expr_into(&mut self, e: &Expr, dst: Reg) -> Gen<()> {
        let span = e.span;
        match &*e.kind {
            ExprKind::None | ExprKind::Bool(_) | ExprKind::Number(_) | ExprKind::Str(_) => {
                // Literals were folded by the caller.
                let value = self.folded(e).unwrap_or_default();
                self.constant(value, dst, span);
            }
            ExprKind::Template(parts) => self.concat(parts, dst, true, span)?,
            ExprKind::Regex(pattern, flags) => match Regex::new(pattern, flags) {
                Ok(regex) => self.constant(regex.to_value(), dst, span),
                Err(message) => return self.stop(span, message),
            },
            ExprKind::Var(name) => self.load_variable(name, dst, span)?,
            ExprKind::Paren(inner) => self.expr_into(inner, dst)?,
            ExprKind::Array(elements) => self.array(elements, dst, span)?,
            ExprKind::Closure(decl) => self.closure(decl, dst, span)?,
            ExprKind::Match { subject, arms, default } => {
                self.match_into(subject, arms, default.as_ref(), dst, span)?
            }
            ExprKind::Isset(target) => self.isset(target, dst, span)?,
            ExprKind::Unset(target) => self.unset(target, dst, span)?,
            ExprKind::Name { builtin, name } => {
                let symbol = self.lookup(name, *builtin);
                if let Some(symbol) = &symbol {
                    self.check_name(symbol, name, span);
                }
                self.symbol_value(symbol, name, dst, span)?;
            }
            ExprKind::StaticName { class, name } => self.static_value(class, name, dst, span)?,
            ExprKind::StaticVar { class, name } => match self.static_variable(class, name, false, span)? {
                Ok(slot) => {
                    self.emit(Op::LoadStatic { dst, slot }, span);
                }
                Err(slot) => {
                    self.emit(Op::LoadGlobal { dst, quiet: false, slot }, span);
                }
            },
            ExprKind::Cache { options, target, args } => self.cache(options, target, args, dst, span)?,
            ExprKind::Call { callee, args } => self.call(callee, args, dst, span)?,
            ExprKind::Index { base, key } => {
                if let Some(v @ (Value::Number(_) | Value::Bool(_))) = self.folded(base) {
                    self.warn(span, format!("Subscript cannot work on {}", v.type_name()));
                }
                let base = self.operand_before(base, key)?;
                if let Some(Value::Str(s)) = self.folded(key) {
                    let k = self.string_const(&s);
                    self.emit(Op::IndexConst { dst, base, k }, span);
                } else {
                    let key = self.operand(key)?;
                    self.emit(Op::Index { dst, base, key }, span);
                }
            }
            ExprKind::Append { .. } => return self.stop(span, "'[]' can only be written to"),
            ExprKind::Slice { base, from, to, step } => {
                let start = self.operand(base)?;
                self.slice(start, [from, to, step], dst, span)?;
            }
            ExprKind::Prop { base, name } => {
                let base = self.operand(base)?;
                let k = self.name_const(name);
                self.emit(Op::GetProp { dst, base, quiet: false, k }, span);
            }
            ExprKind::Unary { op, operand } => {
                if *op == UnaryOp::Not
                    && let ExprKind::Binary {
                        op:
                            inner @ (BinaryOp::Eq
                            | BinaryOp::Ne
                            | BinaryOp::StrictEq
                            | BinaryOp::StrictNe
                            | BinaryOp::Match
                            | BinaryOp::NoMatch),
                        left,
                        right,
                    } = &*operand.kind
                {
                    let flipped = match inner {
                        BinaryOp::Eq => BinaryOp::Ne,
                        BinaryOp::Ne => BinaryOp::Eq,
                        BinaryOp::StrictEq => BinaryOp::StrictNe,
                        BinaryOp::StrictNe => BinaryOp::StrictEq,
                        BinaryOp::Match => BinaryOp::NoMatch,
                        _ => BinaryOp::Match,
                    };
                    return self.binary(flipped, left, right, dst, operand.span);
                }
                if let Some(v) = self.folded(operand)
                    && !matches!(v, Value::Number(_) | Value::Bool(_))
                    && *op != UnaryOp::Not
                {
                    self.warn(span, format!("Operator '{}' cannot work on {}", op.symbol(), v.type_name()));
                }
                let a = self.operand(operand)?;
                self.emit(
                    match op {
                        UnaryOp::Not => Op::Not { dst, a },
                        UnaryOp::Minus => Op::Negate { dst, a },
                        UnaryOp::Plus => Op::Plus { dst, a },
                        UnaryOp::BitNot => Op::BitNot { dst, a },
                    },
                    span,
                );
            }
            ExprKind::Binary { op, left, right } => self.binary(*op, left, right, dst, span)?,
            ExprKind::Concat(list) => self.concat(list, dst, false, span)?,
            ExprKind::And(a, b) => self.logic(a, b, false, dst)?,
            ExprKind::Or(a, b) => self.logic(a, b, true, dst)?,
            ExprKind::Ternary { cond, then, other } => self.ternary(cond, then.as_ref(), other, dst)?,
            ExprKind::Coalesce(a, b) => {
                let mark = self.mark();
                let value = self.quiet(a)?;
                let mut missing = Label::default();
                let mut end = Label::default();
                self.jump_to(Op::JumpIfNone { a: value, to: 0 }, &mut missing, span);
                self.move_to(dst, value, span);
                self.release_to(mark);
                self.jump_to(Op::Jump { to: 0 }, &mut end, span);
                self.bind(&mut missing);
                self.into(b, dst)?;
                self.bind(&mut end);
            }
            ExprKind::Assign { target, value } => self.assign(target, value, Some(dst), span)?,
            ExprKind::Augment { op, target, value } => self.augment(*op, target, value, Some(dst), span)?,
            ExprKind::IncDec { target, delta, prefix } => {
                self.increment(target, *delta, *prefix, Some(dst), span)?
            }
            ExprKind::Pattern(_) => {
                return self.stop(span, "A destructuring pattern can only be used with '='");
            }
        }
        Ok(())
    }

    fn ternary(&mut self, cond: &Expr, then: Option<&Expr>, other: &Expr, dst: Reg) -> Gen<()> {
        let mut no = Label::default();
        let mut end = Label::default();
        if let Some(v) = self.folded(cond) {
            let (taken, dropped) = match (v.truthy(), then) {
                (true, Some(then)) => (then, Some(other)),
                (true, None) => (cond, Some(other)),
                (false, _) => (other, then),
            };
            self.check_skipped(cond);
            if let Some(dropped) = dropped {
                self.check_dead_expr(dropped);
            }
            return self.into(taken, dst);
        }
        let mark = self.mark();
        match then {
            Some(then) => {
                self.branch(cond, false, &mut no)?;
                self.release_to(mark);
                self.into(then, dst)?;
            }
            None => {
                let value = self.operand(cond)?;
                self.jump_to(Op::JumpIfNot { a: value, to: 0 }, &mut no, cond.span);
                self.move_to(dst, value, cond.span);
                self.release_to(mark);
            }
        }
        self.jump_to(Op::Jump { to: 0 }, &mut end, cond.span);
        self.bind(&mut no);
        self.into(other, dst)?;
        self.bind(&mut end);
        Ok(())
    }

    fn logic(&mut self, a: &Expr, b: &Expr, or: bool, dst: Reg) -> Gen<()> {
        let mut end = Label::default();
        let reg = self.operand(a)?;
        self.emit(Op::Truth { dst, a: reg }, a.span);
        let op = if or { Op::JumpIf { a: dst, to: 0 } } else { Op::JumpIfNot { a: dst, to: 0 } };
        self.jump_to(op, &mut end, a.span);
        let reg = self.operand(b)?;
        self.emit(Op::Truth { dst, a: reg }, b.span);
        self.bind(&mut end);
        Ok(())
    }

    pub(crate) fn binary(
        &mut self,
        op: BinaryOp,
        left: &Expr,
        right: &Expr,
        dst: Reg,
        span: Span,
    ) -> Gen<()> {
        for (e, other) in [(left, right), (right, left)] {
            if matches!(op, BinaryOp::Eq | BinaryOp::Ne)
                && matches!(&*e.kind, ExprKind::Bool(_))
                && !matches!(&*other.kind, ExprKind::Bool(_))
            {
                self.warn(span, "Comparison with a boolean by '=='; use the value itself or '==='");
            }
        }
        self.warn_operands(op, left, right, span);
        let a = self.operand_before(left, right)?;
        self.binary_into(op, dst, a, right, span)
    }

    /// Operands that are known and that the operator can never take draw a warning.
    fn warn_operands(&mut self, op: BinaryOp, left: &Expr, right: &Expr, span: Span) {
        use BinaryOp::{Add, BitAnd, BitOr, BitXor, Div, Match, Mul, NoMatch, Pow, Rem, Shl, Shr, Sub, UShr};
        let (a, b) = (self.folded(left), self.folded(right));
        if let (Some(a), Some(b)) = (&a, &b) {
            // Not folded, so it raises; large results are merely left to run time.
            if let Err(Error::Exception(message)) = fold::binary(op, a, b) {
                self.warn(span, format!("This always fails: {message}"));
            }
            return;
        }
        for (value, first) in [(a, true), (b, false)] {
            let Some(value) = value else { continue };
            let number = matches!(value, Value::Number(_) | Value::Bool(_));
            let text = matches!(value, Value::Str(_));
            let array = matches!(value, Value::Array(_));
            let fits = match op {
                Add => number || text || array || !first,
                // Anything can be removed from an array.
                Sub => number || array || !first,
                Mul => number || text || array,
                Rem => number || (first && text) || (!first && array),
                Div | Pow | BitAnd | BitOr | BitXor | Shl | Shr | UShr => number,
                Match | NoMatch => !value.is_none() || !first,
                _ => true,
            };
            if !fits {
                self.warn(span, format!("Operator '{}' cannot work on {}", op.symbol(), value.type_name()));
            }
        }
    }

    pub(crate) fn binary_into(
        &mut self,
        op: BinaryOp,
        dst: Reg,
        a: Reg,
        right: &Expr,
        span: Span,
    ) -> Gen<()> {
        let folded = self.folded(right);
        if let Some(Value::Number(n)) = folded
            && n == f64::from(n as i32)
            && n != 0.0
        {
            let n = n as i32;
            let short = match op {
                BinaryOp::Add => Some(Op::AddInt { dst, a, n }),
                BinaryOp::Mul => Some(Op::MulInt { dst, a, n }),
                BinaryOp::Rem => Some(Op::RemInt { dst, a, n }),
                _ => None,
            };
            if let Some(op) = short {
                self.emit(op, span);
                return Ok(());
            }
        }
        if let (BinaryOp::Match | BinaryOp::NoMatch, Some(Value::Str(pattern))) = (op, &folded) {
            match Regex::from_string(pattern.as_bytes()) {
                Ok(regex) => {
                    let regex_index = self.program.regexes.len() as u32;
                    self.program.regexes.push(regex);
                    self.emit(
                        Op::MatchRegex { dst, a, negate: op == BinaryOp::NoMatch, regex: regex_index },
                        span,
                    );
                    return Ok(());
                }
                Err(message) => return self.stop(right.span, message),
            }
        }
        if let (BinaryOp::Match | BinaryOp::NoMatch, ExprKind::Regex(pattern, flags)) = (op, &*right.kind) {
            match Regex::new(pattern, flags) {
                Ok(regex) => {
                    let regex_index = self.program.regexes.len() as u32;
                    self.program.regexes.push(regex);
                    self.emit(
                        Op::MatchRegex { dst, a, negate: op == BinaryOp::NoMatch, regex: regex_index },
                        span,
                    );
                    return Ok(());
                }
                Err(message) => return self.stop(right.span, message),
            }
        }
        let b = self.operand(right)?;
        self.emit(
            match op {
                BinaryOp::Add => Op::Add { dst, a, b },
                BinaryOp::Sub => Op::Sub { dst, a, b },
                BinaryOp::Mul => Op::Mul { dst, a, b },
                op => Op::Binary { op, dst, a, b },
            },
            span,
        );
        Ok(())
    }

    /// Joins expressions with one allocation.
    pub(crate) fn concat(&mut self, list: &[Expr], dst: Reg, interpolated: bool, span: Span) -> Gen<()> {
        if !interpolated && list.iter().any(|e| matches!(*e.kind, ExprKind::None)) {
            self.warn(span, "Operator '.' cannot work on none");
        }
        let (head, tail) = list.split_at(list.len().min(CONCAT_MAX));
        let start = self.temps(head.len() as u16, span)?;
        for (i, e) in head.iter().enumerate() {
            self.into(e, start + i as Reg)?;
        }
        if tail.is_empty() {
            self.emit(Op::Concat { dst, start, count: head.len() as u8, interpolated }, span);
            return Ok(());
        }
        let sum = self.temp(span)?;
        self.emit(Op::Concat { dst: sum, start, count: head.len() as u8, interpolated }, span);
        for chunk in tail.chunks(CONCAT_MAX) {
            let mark = self.mark();
            let part = self.temp(span)?;
            let start = self.temps(chunk.len() as u16, span)?;
            for (i, e) in chunk.iter().enumerate() {
                self.into(e, start + i as Reg)?;
            }
            self.emit(Op::Concat { dst: part, start, count: chunk.len() as u8, interpolated }, span);
            self.emit(Op::Append { a: sum, b: part }, span);
            self.release_to(mark);
        }
        self.move_to(dst, sum, span);
        Ok(())
    }

    fn array(&mut self, elements: &[Element], dst: Reg, span: Span) -> Gen<()> {
        self.check_keys(elements);
        // Built in a temporary: the elements may read the variable that is being assigned.
        let array = if self.is_temp(dst) { dst } else { self.temp(span)? };
        self.emit(Op::NewArray { dst: array, capacity: elements.len().min(4096) as u16 }, span);
        for element in elements {
            let mark = self.mark();
            match element {
                Element::Value(v) => {
                    let src = self.operand(v)?;
                    self.emit(Op::Push { array, src }, v.span);
                }
                Element::Pair(k, v) => {
                    let key = self.operand_before(k, v)?;
                    let src = self.operand(v)?;
                    self.emit(Op::PushPair { array, key, src }, k.span);
                }
                Element::Spread(v) => {
                    let src = self.operand(v)?;
                    self.emit(Op::Spread { array, src, values_only: false }, v.span);
                }
            }
            self.release_to(mark);
        }
        self.move_to(dst, array, span);
        Ok(())
    }

    fn match_into(
        &mut self,
        subject: &Expr,
        arms: &[(Vec<Expr>, Expr)],
        default: Option<&Expr>,
        dst: Reg,
        span: Span,
    ) -> Gen<()> {
        let reg = self.temp(subject.span)?;
        self.into(subject, reg)?;
        self.warn_duplicates(arms.iter().flat_map(|(c, _)| c));
        let labels: Vec<&Expr> = arms.iter().flat_map(|(c, _)| c).collect();
        let consts: Vec<Option<Value>> = labels.iter().map(|e| self.folded(e)).collect();
        let table = self.switch_table(reg, labels.iter().map(|e| Some(*e)).zip(&consts), span);
        if let Some(table) = table {
            let here = self.here();
            self.function_mut().proto.tables[table].slow = here;
        }
        let mut bodies: Vec<Label> = arms.iter().map(|_| Label::default()).collect();
        for ((conds, _), label) in arms.iter().zip(&mut bodies) {
            for cond in conds {
                let mark = self.mark();
                let value = self.operand(cond)?;
                self.jump_to(Op::JumpEq { a: reg, b: value, when: true, to: 0 }, label, cond.span);
                self.release_to(mark);
            }
        }
        let mut end = Label::default();
        let otherwise = self.here();
        match default {
            Some(e) => {
                self.probe(PointKind::Statement, e.span);
                self.into(e, dst)?;
                self.jump_to(Op::Jump { to: 0 }, &mut end, span);
            }
            None => {
                self.emit(Op::MatchFail { src: reg }, span);
            }
        }
        let mut starts = Vec::new();
        for ((conds, body), label) in arms.iter().zip(&mut bodies) {
            let here = self.here();
            starts.extend(conds.iter().map(|_| here));
            self.bind(label);
            let mark = self.mark();
            self.probe(PointKind::Statement, body.span);
            self.into(body, dst)?;
            self.release_to(mark);
            self.jump_to(Op::Jump { to: 0 }, &mut end, body.span);
        }
        self.bind(&mut end);
        if let Some(table) = table {
            self.fill_table(table, &consts, &starts, otherwise);
        }
        Ok(())
    }

    pub(crate) fn symbol_value(
        &mut self,
        symbol: Option<Symbol>,
        name: &Name,
        dst: Reg,
        span: Span,
    ) -> Gen<()> {
        let op = match symbol {
            Some(Symbol::Function(proto)) => Op::MakeFunction { dst, proto },
            Some(Symbol::Class(class)) => Op::MakeClass { dst, class },
            Some(Symbol::Native(def)) => Op::MakeNative { dst, native: self.native(&def) },
            Some(Symbol::NativeClass(class)) => Op::MakeNativeClass { dst, class: self.native_class(&class) },
            None => return self.unknown_function(name, span),
        };
        self.emit(op, span);
        Ok(())
    }

    /// Jumps to `label` when the truth of `e` is `when`, else falls through.
    pub(crate) fn branch(&mut self, e: &Expr, when: bool, label: &mut Label) -> Gen<()> {
        let span = e.span;
        if let Some(v) = self.folded(e) {
            self.check_skipped(e);
            if v.truthy() == when {
                self.jump_to(Op::Jump { to: 0 }, label, span);
            }
            return Ok(());
        }
        match &*e.kind {
            ExprKind::Paren(inner) => return self.branch(inner, when, label),
            ExprKind::Unary { op: UnaryOp::Not, operand } => return self.branch(operand, !when, label),
            ExprKind::And(a, b) | ExprKind::Or(a, b) => {
                // For `and`, one false operand decides; for `or`, one true operand.
                let decides = matches!(&*e.kind, ExprKind::Or(..));
                if when == decides {
                    self.branch(a, when, label)?;
                    return self.branch(b, when, label);
                }
                let mut skip = Label::default();
                self.branch(a, decides, &mut skip)?;
                self.branch(b, when, label)?;
                self.bind(&mut skip);
                return Ok(());
            }
            ExprKind::Binary { op, left, right } => {
                if let Some(()) = self.branch_compare(*op, left, right, when, label, span)? {
                    return Ok(());
                }
            }
            _ => {}
        }
        let mark = self.mark();
        let a = self.operand(e)?;
        self.jump_to(if when { Op::JumpIf { a, to: 0 } } else { Op::JumpIfNot { a, to: 0 } }, label, span);
        self.release_to(mark);
        Ok(())
    }

    fn branch_compare(
        &mut self,
        op: BinaryOp,
        left: &Expr,
        right: &Expr,
        when: bool,
        label: &mut Label,
        span: Span,
    ) -> Gen<Option<()>> {
        use BinaryOp::{Eq, Ge, Gt, Le, Lt, Ne};
        if !matches!(op, Eq | Ne | Lt | Gt | Le | Ge) {
            return Ok(None);
        }
        if matches!(op, Eq | Ne)
            && (matches!(&*left.kind, ExprKind::Bool(_)) || matches!(&*right.kind, ExprKind::Bool(_)))
        {
            // The plain form draws the warning.
            return Ok(None);
        }
        let mark = self.mark();
        let a = self.operand_before(left, right)?;
        if let (Lt | Le, Some(Value::Number(n))) = (op, self.folded(right)) {
            let k = self.const_index(Value::Number(n));
            if let Ok(k) = u16::try_from(k) {
                let op = match (op, when) {
                    (Lt, true) => Op::JumpLtConst { a, k, to: 0 },
                    (Lt, false) => Op::JumpNotLtConst { a, k, to: 0 },
                    (_, true) => Op::JumpLeConst { a, k, to: 0 },
                    (_, false) => Op::JumpNotLeConst { a, k, to: 0 },
                };
                self.jump_to(op, label, span);
                self.release_to(mark);
                return Ok(Some(()));
            }
        }
        let b = self.operand(right)?;
        let op = match op {
            Eq => Op::JumpEq { a, b, when, to: 0 },
            Ne => Op::JumpNe { a, b, when, to: 0 },
            Lt => Op::JumpLt { a, b, when, to: 0 },
            Gt => Op::JumpLt { a: b, b: a, when, to: 0 },
            Le => Op::JumpLe { a, b, when, to: 0 },
            _ => Op::JumpLe { a: b, b: a, when, to: 0 },
        };
        self.jump_to(op, label, span);
        self.release_to(mark);
        Ok(Some(()))
    }
}
