//! Targets of assignments: variables, paths through elements and properties, destructuring patterns.

use super::generate::{Gen, Generator, Label, Var};
use crate::ast::{BinaryOp, Expr, ExprKind, Name, Pattern};
use crate::diag::{Span, hint};
use crate::program::{Op, Path, PathOp, Reg, Root, StaticDef, Step};
use crate::string::Str;
use crate::value::Value;

/// A compiled assignable form: where it starts and which steps lead to the place.
pub(crate) struct Place {
    root: Root,
    steps: Vec<Step>,
    arrows: Vec<bool>,
    /// For a single `->name` step: the constant with the name.
    prop: Option<u32>,
}

impl Generator<'_> {
    pub(crate) fn store_variable(&mut self, name: &Name, src: Reg, span: Span) -> Gen<()> {
        if self.readonly.contains(name)
            && matches!(self.variable(name), Var::Global(slot) if self.globals.get(name) == Some(&slot))
        {
            return self.stop(span, format!("Variable '${name}' is read-only"));
        }
        self.function_mut().touched.insert(name.clone());
        match self.variable(name) {
            Var::Reg(dst) => self.move_to(dst, src, span),
            Var::Cell(cell) => {
                self.emit(Op::StoreCell { src, cell }, span);
            }
            Var::Global(slot) => {
                self.emit(Op::StoreGlobal { src, slot }, span);
            }
        }
        Ok(())
    }

    fn check_writable(&mut self, name: &Name, span: Span) -> Gen<()> {
        if **name == *"this" {
            return Ok(());
        }
        if self.readonly.contains(name)
            && matches!(self.variable(name), Var::Global(slot) if self.globals.get(name) == Some(&slot))
        {
            return self.stop(span, format!("Variable '${name}' is read-only"));
        }
        Ok(())
    }

    /// The static variable behind `Cls::$name`, with access checks.
    pub(crate) fn static_variable(
        &mut self,
        class: &Name,
        name: &Name,
        write: bool,
        span: Span,
    ) -> Gen<Result<u32, u32>> {
        let index = if **class == *"static" {
            match self.function().proto.class {
                Some(index) => index,
                None => return self.stop(span, "'static' is only available inside a class"),
            }
        } else {
            if let Some(exports) = self.namespace(class) {
                return match exports.globals.get(name) {
                    Some(slot) => Ok(Err(*slot)),
                    None => {
                        let hint = hint(name, "$", exports.globals.keys().map(|k| &**k));
                        self.stop(span, format!("Namespace '{class}' has no variable '${name}'{hint}"))
                    }
                };
            }
            match self.lookup(class, false) {
                Some(super::generate::Symbol::Class(index)) => index,
                _ => return self.unknown_class(class, span),
            }
        };
        let def = self.program.classes[index as usize].clone();
        let inside = self.function().proto.class == Some(index);
        match def.statics.get(name.as_bytes()) {
            Some(StaticDef { guard, .. }) if guard.private && !inside => {
                self.stop(span, format!("Cannot access private member '{name}' of class '{}'", def.name))
            }
            Some(StaticDef { guard, .. }) if guard.readonly && write && !inside => {
                self.stop(span, format!("Cannot write readonly member '{name}' of class '{}'", def.name))
            }
            Some(StaticDef { slot, .. }) => Ok(Ok(*slot)),
            None => {
                let names: Vec<String> = def.statics.keys().map(|k| k.to_text().into_owned()).collect();
                let hint = hint(name, "$", names.iter().map(|n| &**n));
                self.stop(span, format!("Class '{}' has no static member '${name}'{hint}", def.name))
            }
        }
    }

    /// True for a variable that a known class does not have.
    pub(crate) fn static_missing(&mut self, class: &Name, name: &Name) -> bool {
        let index = if **class == *"static" {
            self.function().proto.class
        } else if self.namespace(class).is_some() {
            None
        } else {
            match self.lookup(class, false) {
                Some(super::generate::Symbol::Class(index)) => Some(index),
                _ => None,
            }
        };
        index
            .and_then(|index| self.program.classes.get(index as usize))
            .is_some_and(|def| !def.statics.contains_key(name.as_bytes()))
    }

    /// Compiles the base and keys of an assignable form, left to right. With `hazard`, keys in variables are copied
    /// because something behind them writes variables.
    pub(crate) fn place(&mut self, target: &Expr, hazard: bool) -> Gen<Place> {
        let span = target.span;
        let mut place = match &*target.kind {
            ExprKind::Var(name) => {
                self.check_writable(name, span)?;
                let root = if **name == *"this" {
                    match self.function().this {
                        Some(Var::Reg(reg)) => Root::Reg(reg),
                        Some(Var::Cell(cell)) => Root::Cell(cell),
                        _ => return self.stop(span, "$this is only available in class functions"),
                    }
                } else {
                    match self.variable(name) {
                        Var::Reg(reg) => Root::Reg(reg),
                        Var::Cell(cell) => Root::Cell(cell),
                        Var::Global(slot) => Root::Global(slot),
                    }
                };
                return Ok(Place { root, steps: Vec::new(), arrows: Vec::new(), prop: None });
            }
            ExprKind::StaticVar { class, name } => {
                let root = match self.static_variable(class, name, true, span)? {
                    Ok(slot) => Root::Static(slot),
                    Err(slot) => Root::Global(slot),
                };
                return Ok(Place { root, steps: Vec::new(), arrows: Vec::new(), prop: None });
            }
            ExprKind::Index { base, .. }
            | ExprKind::Append { base }
            | ExprKind::Slice { base, .. }
            | ExprKind::Prop { base, .. } => {
                let mut place = self.place(base, hazard)?;
                self.settle_prop(&mut place, span)?;
                place
            }
            _ => {
                let reg = self.temp(span)?;
                self.into(target, reg)?;
                return Ok(Place { root: Root::Reg(reg), steps: Vec::new(), arrows: Vec::new(), prop: None });
            }
        };
        let step = match &*target.kind {
            ExprKind::Index { key, .. } => {
                let mut reg = self.operand(key)?;
                if hazard && !self.is_temp(reg) {
                    let copy = self.temp(span)?;
                    self.emit(Op::Move { dst: copy, src: reg }, key.span);
                    reg = copy;
                }
                Step::Index(reg)
            }
            ExprKind::Slice { from, to, step, .. } => {
                if step.is_some() {
                    return self.stop(span, "A slice with a step cannot be written");
                }
                let first = self.temps(3, span)?;
                for (i, part) in [from, to, step].into_iter().enumerate() {
                    match part {
                        Some(e) => self.into(e, first + i as Reg)?,
                        None => {
                            self.emit(Op::None { dst: first + i as Reg }, span);
                        }
                    }
                }
                Step::Slice(first)
            }
            ExprKind::Prop { name, .. } => {
                let k = self.name_const(name);
                if place.steps.is_empty() {
                    place.prop = Some(k);
                    return Ok(place);
                }
                let reg = self.temp(span)?;
                self.emit(Op::Const { dst: reg, k }, span);
                place.arrows.push(true);
                place.steps.push(Step::Index(reg));
                return Ok(place);
            }
            _ => Step::Append,
        };
        place.steps.push(step);
        place.arrows.push(false);
        Ok(place)
    }

    /// Turns a pending single property into an ordinary step.
    fn settle_prop(&mut self, place: &mut Place, span: Span) -> Gen<()> {
        if let Some(k) = place.prop.take() {
            let reg = self.temp(span)?;
            self.emit(Op::Const { dst: reg, k }, span);
            place.steps.push(Step::Index(reg));
            place.arrows.push(true);
        }
        Ok(())
    }

    pub(crate) fn emit_path(
        &mut self,
        mut place: Place,
        op: PathOp,
        dst: Reg,
        src: Reg,
        span: Span,
    ) -> Gen<()> {
        self.settle_prop(&mut place, span)?;
        let f = self.function_mut();
        let path = f.proto.paths.len() as u32;
        f.proto.paths.push(Path {
            root: place.root,
            steps: place.steps.into(),
            arrows: place.arrows.into(),
            op,
        });
        self.emit(Op::Path { dst, src, path }, span);
        Ok(())
    }

    fn touch_root(&mut self, target: &Expr) {
        let mut e = target;
        while let ExprKind::Index { base, .. } | ExprKind::Append { base } | ExprKind::Slice { base, .. } =
            &*e.kind
        {
            e = base;
        }
        if let ExprKind::Var(name) = &*e.kind {
            self.function_mut().touched.insert(name.clone());
        }
    }

    fn store_place(&mut self, place: Place, src: Reg, span: Span) -> Gen<()> {
        if let (Root::Reg(base), Some(k)) = (place.root, place.prop) {
            self.emit(Op::SetProp { base, src, k }, span);
            return Ok(());
        }
        if let (Root::Reg(base), None, [step]) = (place.root, place.prop, &place.steps[..]) {
            match step {
                Step::Index(key) => {
                    self.emit(Op::SetIndex { base, key: *key, src }, span);
                    return Ok(());
                }
                Step::Append => {
                    self.emit(Op::PushVar { base, src }, span);
                    return Ok(());
                }
                Step::Slice(_) => {}
            }
        }
        let dst = self.temp(span)?;
        self.emit_path(place, PathOp::Assign, dst, src, span)
    }

    /// Writes a register to any target; a temporary is consumed.
    pub(crate) fn assign_register(&mut self, target: &Expr, src: Reg) -> Gen<()> {
        let span = target.span;
        let mark = self.mark();
        match &*target.kind {
            ExprKind::Var(name) => self.store_variable(name, src, span)?,
            ExprKind::Pattern(pattern) => self.destructure(pattern, src, span)?,
            ExprKind::StaticVar { .. } => {
                let place = self.place(target, false)?;
                let op = match place.root {
                    Root::Static(slot) => Op::StoreStatic { src, slot },
                    Root::Global(slot) => Op::StoreGlobal { src, slot },
                    _ => return self.stop(span, "Left side of an assignment must be assignable"),
                };
                self.emit(op, span);
            }
            _ => {
                let place = self.place(target, true)?;
                self.touch_root(target);
                self.store_place(place, src, span)?;
            }
        }
        self.release_to(mark);
        Ok(())
    }

    fn destructure(&mut self, pattern: &Pattern, src: Reg, span: Span) -> Gen<()> {
        for (n, (key, target, default)) in pattern.items.iter().enumerate() {
            let mark = self.mark();
            let dst = self.temp(span)?;
            match key {
                Some(key) => {
                    let key = self.operand(key)?;
                    self.emit(Op::ElementKey { dst, base: src, key }, target.span);
                }
                None => {
                    self.emit(Op::Element { dst, base: src, n: n as u32 }, target.span);
                }
            }
            let mut present = Label::default();
            self.jump_to(Op::JumpIfDefined { a: dst, to: 0 }, &mut present, target.span);
            match default {
                Some(e) => self.into(e, dst)?,
                None => {
                    self.emit(Op::None { dst }, target.span);
                }
            }
            self.bind(&mut present);
            self.assign_register(target, dst)?;
            self.release_to(mark);
        }
        if let Some(rest) = &pattern.rest {
            let mark = self.mark();
            let dst = self.temp(span)?;
            self.emit(Op::Rest { dst, base: src, n: pattern.items.len() as u32 }, rest.span);
            self.assign_register(rest, dst)?;
            self.release_to(mark);
        }
        Ok(())
    }

    /// `target = value`; the value also goes to `want`.
    pub(crate) fn assign(&mut self, target: &Expr, value: &Expr, want: Option<Reg>, span: Span) -> Gen<()> {
        match &*target.kind {
            ExprKind::Var(name) => {
                self.check_writable(name, target.span)?;
                let var = self.variable(name);
                if self.append_pattern(name, var, value, span)? {
                    if let Some(dst) = want {
                        self.load_variable(name, dst, span)?;
                    }
                    return Ok(());
                }
                if !matches!(var, Var::Reg(_))
                    && let Some((op, right)) = augmentable(name, value)
                {
                    return self.augment(Some(op), target, &right, want, value.span);
                }
                match (var, want) {
                    (Var::Reg(reg), None) if self.direct(value) => {
                        self.into(value, reg)?;
                        self.function_mut().touched.insert(name.clone());
                    }
                    (Var::Reg(reg), Some(dst)) if self.direct(value) => {
                        self.into(value, reg)?;
                        self.function_mut().touched.insert(name.clone());
                        self.move_to(dst, reg, span);
                    }
                    (_, None) => {
                        let mark = self.mark();
                        let tmp = self.operand(value)?;
                        self.store_variable(name, tmp, span)?;
                        self.release_to(mark);
                    }
                    (_, Some(_)) => {
                        let mark = self.mark();
                        let tmp = self.temp(span)?;
                        self.into(value, tmp)?;
                        self.store_variable(name, tmp, span)?;
                        self.release_to(mark);
                        if let Some(dst) = want {
                            self.load_variable(name, dst, span)?;
                        }
                    }
                }
                Ok(())
            }
            ExprKind::Pattern(_) => {
                let mark = self.mark();
                let src = self.temp(span)?;
                self.into(value, src)?;
                self.assign_register(target, src)?;
                if let Some(dst) = want {
                    self.move_to(dst, src, span);
                }
                self.release_to(mark);
                Ok(())
            }
            _ => {
                let mark = self.mark();
                let place = self.place(target, value.writes() || target.writes())?;
                self.touch_root(target);
                match want {
                    None => {
                        let src = self.operand(value)?;
                        self.store_final(place, src, span)?;
                    }
                    Some(dst) => {
                        let src = self.temp(span)?;
                        self.into(value, src)?;
                        let copy = self.temp(span)?;
                        self.emit(Op::MoveQuiet { dst: copy, src }, span);
                        self.store_final(place, src, span)?;
                        self.move_to(dst, copy, span);
                    }
                }
                self.release_to(mark);
                Ok(())
            }
        }
    }

    fn store_final(&mut self, place: Place, src: Reg, span: Span) -> Gen<()> {
        if place.steps.is_empty() && place.prop.is_none() {
            let op = match place.root {
                Root::Static(slot) => Op::StoreStatic { src, slot },
                Root::Global(slot) => Op::StoreGlobal { src, slot },
                Root::Cell(cell) => Op::StoreCell { src, cell },
                Root::Reg(dst) => Op::Move { dst, src },
            };
            self.emit(op, span);
            return Ok(());
        }
        self.store_place(place, src, span)
    }

    /// `$x = $x . y` appends in place.
    fn append_pattern(&mut self, name: &Name, var: Var, value: &Expr, span: Span) -> Gen<bool> {
        let ExprKind::Concat(list) = &*value.kind else { return Ok(false) };
        let Var::Reg(reg) = var else { return Ok(false) };
        let first = matches!(list.first().map(|e| &*e.kind), Some(ExprKind::Var(n)) if n == name);
        if !first || list.len() < 2 || value.writes() {
            return Ok(false);
        }
        let mark = self.mark();
        let tail = if list.len() == 2 {
            self.operand(&list[1])?
        } else {
            let dst = self.temp(span)?;
            self.concat(&list[1..], dst, false, span)?;
            dst
        };
        self.emit(Op::Append { a: reg, b: tail }, span);
        self.release_to(mark);
        Ok(true)
    }

    /// `target op= value`, `None` for `??=`.
    pub(crate) fn augment(
        &mut self,
        op: Option<BinaryOp>,
        target: &Expr,
        value: &Expr,
        want: Option<Reg>,
        span: Span,
    ) -> Gen<()> {
        let Some(op) = op else { return self.coalesce_assign(target, value, want, span) };
        let mark = self.mark();
        if let ExprKind::Var(name) = &*target.kind {
            self.check_writable(name, target.span)?;
            if let Var::Reg(reg) = self.variable(name) {
                if op == BinaryOp::Concat {
                    match self.folded(value) {
                        Some(v @ Value::Str(_)) => {
                            let k = self.const_index(v);
                            self.emit(Op::AppendConst { a: reg, k }, span);
                        }
                        _ => {
                            let b = self.operand(value)?;
                            self.emit(Op::Append { a: reg, b }, span);
                        }
                    }
                } else {
                    self.binary_into(op, reg, reg, value, span)?;
                }
                self.release_to(mark);
                if let Some(dst) = want {
                    self.move_to(dst, reg, span);
                }
                return Ok(());
            }
        }
        let place = self.place(target, value.writes() || target.writes())?;
        let src = self.operand(value)?;
        let dst = match want {
            Some(dst) => dst,
            None => self.temp(span)?,
        };
        self.emit_path(place, PathOp::Augment(op), dst, src, span)?;
        self.release_to(mark);
        Ok(())
    }

    fn coalesce_assign(&mut self, target: &Expr, value: &Expr, want: Option<Reg>, span: Span) -> Gen<()> {
        let mark = self.mark();
        let result = self.temp(span)?;
        let mut place = self.place(target, true)?;
        self.settle_prop(&mut place, span)?;
        // The path is evaluated once; reading goes along the same registers.
        let mut at = match place.root {
            Root::Reg(reg) => reg,
            Root::Cell(cell) => {
                self.emit(Op::LoadCell { dst: result, quiet: true, cell }, span);
                result
            }
            Root::Global(slot) => {
                self.emit(Op::LoadGlobal { dst: result, quiet: true, slot }, span);
                result
            }
            Root::Static(slot) => {
                self.emit(Op::LoadStatic { dst: result, slot }, span);
                result
            }
        };
        for step in &place.steps {
            match step {
                Step::Index(key) => {
                    self.emit(Op::IndexQuiet { dst: result, base: at, key: *key }, span);
                    at = result;
                }
                _ => return self.stop(target.span, "'??=' needs a variable, element or property"),
            }
        }
        if at != result {
            self.emit(Op::MoveQuiet { dst: result, src: at }, span);
        }
        let mut missing = Label::default();
        let mut end = Label::default();
        self.jump_to(Op::JumpIfNone { a: result, to: 0 }, &mut missing, span);
        self.jump_to(Op::Jump { to: 0 }, &mut end, span);
        self.bind(&mut missing);
        self.into(value, result)?;
        let copy = self.temp(span)?;
        self.emit(Op::MoveQuiet { dst: copy, src: result }, span);
        self.touch_root(target);
        self.store_final(place, copy, span)?;
        self.bind(&mut end);
        if let Some(dst) = want {
            self.move_to(dst, result, span);
        }
        self.release_to(mark);
        Ok(())
    }

    /// `++` and `--`.
    pub(crate) fn increment(
        &mut self,
        target: &Expr,
        delta: f64,
        prefix: bool,
        want: Option<Reg>,
        span: Span,
    ) -> Gen<()> {
        let delta = delta as i8;
        let mark = self.mark();
        if let ExprKind::Var(name) = &*target.kind {
            self.check_writable(name, target.span)?;
            if let Var::Reg(reg) = self.variable(name) {
                if let (Some(dst), false) = (want, prefix) {
                    self.emit(Op::CheckNumber { reg }, span);
                    self.move_to(dst, reg, span);
                }
                self.emit(Op::Increment { reg, n: i32::from(delta) }, span);
                if let (Some(dst), true) = (want, prefix) {
                    self.move_to(dst, reg, span);
                }
                return Ok(());
            }
        }
        let place = self.place(target, target.writes())?;
        let dst = match want {
            Some(dst) => dst,
            None => self.temp(span)?,
        };
        self.emit_path(place, PathOp::Increment { delta, prefix }, dst, dst, span)?;
        self.release_to(mark);
        Ok(())
    }

    /// `unset(target)`.
    pub(crate) fn unset(&mut self, target: &Expr, dst: Reg, span: Span) -> Gen<()> {
        let mark = self.mark();
        if let ExprKind::Var(name) = &*target.kind {
            self.check_writable(name, target.span)?;
            if **name == *"this" {
                return self.stop(target.span, "Cannot unset $this");
            }
            match self.variable(name) {
                Var::Reg(reg) => self.emit(Op::ClearReg { dst, reg }, span),
                Var::Cell(cell) => self.emit(Op::ClearCell { dst, cell }, span),
                Var::Global(slot) => self.emit(Op::ClearGlobal { dst, slot }, span),
            };
            return Ok(());
        }
        if let ExprKind::StaticVar { .. } = &*target.kind {
            return self.stop(target.span, "A static variable cannot be removed");
        }
        let place = self.place(target, target.writes())?;
        self.emit_path(place, PathOp::Unset, dst, dst, span)?;
        self.release_to(mark);
        Ok(())
    }

    /// `isset(target)`.
    pub(crate) fn isset(&mut self, target: &Expr, dst: Reg, span: Span) -> Gen<()> {
        let mark = self.mark();
        match &*target.kind {
            ExprKind::Var(name) if **name == *"this" => {
                let b = self.function().this.is_some();
                self.emit(Op::Bool { dst, b }, span);
            }
            ExprKind::Var(name) => {
                match self.variable(name) {
                    Var::Reg(reg) => self.emit(Op::IssetReg { dst, reg }, span),
                    Var::Cell(cell) => self.emit(Op::IssetCell { dst, cell }, span),
                    Var::Global(slot) => self.emit(Op::IssetGlobal { dst, slot }, span),
                };
            }
            ExprKind::Index { base, key } => {
                let base = self.quiet(base)?;
                let key = self.operand(key)?;
                self.emit(Op::IssetIndex { dst, base, key }, span);
            }
            ExprKind::Prop { base, name } => {
                let base = self.quiet(base)?;
                let k = self.name_const(name);
                self.emit(Op::IssetProp { dst, base, k }, span);
            }
            ExprKind::StaticVar { class, name } => {
                let exists = !self.static_missing(class, name);
                if exists {
                    // Only the access checks matter.
                    let _slot = self.static_variable(class, name, false, target.span)?;
                }
                self.constant(Value::Bool(exists), dst, span);
            }
            _ => return self.stop(target.span, "'isset' takes one variable, element or property"),
        }
        self.release_to(mark);
        Ok(())
    }

    pub(crate) fn string_const(&mut self, s: &Str) -> u32 {
        self.const_index(Value::Str(s.clone()))
    }
}

/// `$x = $x op y` as operator and `y`: then the value is changed in place, where it lives. Not when `y` may change the
/// variable, which is read before it.
fn augmentable(name: &Name, value: &Expr) -> Option<(BinaryOp, Expr)> {
    let is_target = |e: &Expr| matches!(&*e.kind, ExprKind::Var(n) if n == name);
    let (op, right) = match &*value.kind {
        ExprKind::Binary {
            op:
                op @ (BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Mul
                | BinaryOp::Div
                | BinaryOp::Rem
                | BinaryOp::Pow),
            left,
            right,
        } if is_target(left) => (*op, right.clone()),
        ExprKind::Concat(list) if list.len() > 1 && is_target(&list[0]) => match &list[1..] {
            [one] => (BinaryOp::Concat, one.clone()),
            more => (BinaryOp::Concat, Expr::new(ExprKind::Concat(more.to_vec()), value.span)),
        },
        _ => return None,
    };
    (!right.writes() && !right.calls()).then_some((op, right))
}
