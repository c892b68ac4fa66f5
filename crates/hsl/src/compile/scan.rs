//! A look over a function body before code is made for it: which variables it has and how they are used.

use crate::ast::{ClassDecl, Element, Expr, ExprKind, FunctionDecl, Name, Stmt, StmtKind};
use crate::diag::Span;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// What a function body declares and uses, nested functions excluded.
#[derive(Default)]
pub(crate) struct Scan {
    /// Variables in order of appearance.
    pub(crate) names: Vec<(Name, Span)>,
    seen: HashSet<Name>,
    /// Variables that something in the body creates.
    pub(crate) written: HashSet<Name>,
    /// Variables that an assignment creates, with the first place; not those of loops, patterns and the like.
    pub(crate) assigned: HashMap<Name, Span>,
    /// Variables whose value is used, as far as the body shows.
    pub(crate) used: HashSet<Name>,
    /// Variables captured by closures made in the body.
    pub(crate) captured: HashSet<Name>,
    /// Variables named by `global` statements.
    pub(crate) globals: HashSet<Name>,
    pub(crate) functions: Vec<Rc<FunctionDecl>>,
    pub(crate) classes: Vec<Rc<ClassDecl>>,
    /// Variables named by `global` statements of functions inside, at any depth. Only filled for module bodies.
    pub(crate) inner_globals: HashSet<Name>,
    deep: bool,
}

impl Scan {
    /// Scans a body; `deep` also collects the `global` statements of the functions inside.
    pub(crate) fn new(body: &[Stmt], deep: bool) -> Scan {
        let mut scan = Scan { deep, ..Scan::default() };
        scan.stmts(body);
        scan
    }

    pub(crate) fn name(&mut self, name: &Name, span: Span) {
        if **name != *"this" && self.seen.insert(name.clone()) {
            self.names.push((name.clone(), span));
        }
    }

    fn write(&mut self, name: &Name, span: Span) {
        self.name(name, span);
        self.written.insert(name.clone());
    }

    /// A write that needs no use behind it.
    fn write_used(&mut self, name: &Name, span: Span) {
        self.write(name, span);
        self.used.insert(name.clone());
    }

    fn inner(&mut self, decl: &FunctionDecl) {
        if self.deep {
            let scan = Scan::new(&decl.body, true);
            self.inner_globals.extend(scan.globals);
            self.inner_globals.extend(scan.inner_globals);
        }
    }

    fn stmts(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match &stmt.kind {
            StmtKind::Empty | StmtKind::Break | StmtKind::Continue | StmtKind::Import(_) => {}
            StmtKind::Block(body) | StmtKind::Included(body) => self.stmts(body),
            StmtKind::Function(decl) => {
                self.functions.push(Rc::clone(decl));
                self.inner(decl);
            }
            StmtKind::Class(decl) => {
                self.classes.push(Rc::clone(decl));
                for f in decl.constructor.iter().chain(decl.methods.iter().map(|m| &m.decl)) {
                    self.inner(f);
                }
            }
            StmtKind::Echo(e) | StmtKind::Throw(e) => self.expr(e),
            StmtKind::Expr(e) => self.effect(e),
            StmtKind::Debug { body, .. } => self.stmt(body),
            StmtKind::Return(e) | StmtKind::Yield(e) => e.iter().for_each(|e| self.expr(e)),
            StmtKind::Global(names) => {
                for (name, span) in names {
                    self.write_used(name, *span);
                    self.globals.insert(name.clone());
                }
            }
            StmtKind::If { arms, other } => {
                for (cond, body) in arms {
                    self.expr(cond);
                    self.stmt(body);
                }
                other.iter().for_each(|s| self.stmt(s));
            }
            StmtKind::While { cond, body } => {
                self.expr(cond);
                self.stmt(body);
            }
            StmtKind::For { init, cond, step, body } => {
                init.iter().chain(step).for_each(|e| self.effect(e));
                cond.iter().for_each(|e| self.expr(e));
                self.stmt(body);
            }
            StmtKind::Forever(body) => self.stmt(body),
            StmtKind::Foreach { subject, key, value, body } => {
                self.expr(subject);
                key.iter().for_each(|k| self.target(k));
                self.target(value);
                self.stmt(body);
            }
            StmtKind::Switch { subject, cases } => {
                self.expr(subject);
                for (label, body) in cases {
                    label.iter().for_each(|e| self.expr(e));
                    self.stmts(body);
                }
            }
            StmtKind::Try { body, name, name_span, handler } => {
                self.stmts(body);
                self.write_used(name, *name_span);
                self.stmts(handler);
            }
            StmtKind::Barrier { name, var, body } => {
                self.expr(name);
                if let Some(var) = var {
                    self.write_used(var, stmt.span);
                }
                self.stmts(body);
            }
        }
    }

    /// An expression whose value is dropped.
    fn effect(&mut self, e: &Expr) {
        match &*e.kind {
            ExprKind::Assign { target, value } | ExprKind::Augment { target, value, .. }
                if matches!(&*target.kind, ExprKind::Var(_)) =>
            {
                self.assign(e, target);
                self.expr(value);
            }
            ExprKind::IncDec { target, .. } if matches!(&*target.kind, ExprKind::Var(_)) => {
                if let ExprKind::Var(name) = &*target.kind {
                    self.name(name, target.span);
                }
            }
            _ => self.expr(e),
        }
    }

    /// The target of an assignment that is a variable.
    fn assign(&mut self, assignment: &Expr, target: &Expr) {
        if let ExprKind::Var(name) = &*target.kind {
            self.write(name, target.span);
            if matches!(&*assignment.kind, ExprKind::Assign { .. }) {
                self.assigned.entry(name.clone()).or_insert(target.span);
            }
        }
    }

    fn target(&mut self, e: &Expr) {
        match &*e.kind {
            ExprKind::Var(name) => self.write_used(name, e.span),
            ExprKind::Index { base, key } => {
                self.target(base);
                self.expr(key);
            }
            ExprKind::Append { base } | ExprKind::Slice { base, .. } => {
                self.target(base);
                e.kind.children().skip(1).for_each(|c| self.expr(c));
            }
            ExprKind::Pattern(p) => {
                for (key, target, default) in &p.items {
                    key.iter().for_each(|k| self.expr(k));
                    default.iter().for_each(|d| self.expr(d));
                    self.target(target);
                }
                p.rest.iter().for_each(|r| self.target(r));
            }
            _ => self.expr(e),
        }
    }

    fn expr(&mut self, e: &Expr) {
        match &*e.kind {
            ExprKind::Var(name) => {
                self.name(name, e.span);
                self.used.insert(name.clone());
            }
            ExprKind::Assign { target, value } | ExprKind::Augment { target, value, .. } => {
                self.target(target);
                self.expr(value);
            }
            ExprKind::Isset(target) => {
                self.target(target);
            }
            ExprKind::Closure(decl) => {
                for (name, span) in &decl.captures {
                    self.name(name, *span);
                    // A closure may create what it captures.
                    self.written.insert(name.clone());
                    self.used.insert(name.clone());
                    self.captured.insert(name.clone());
                }
                self.inner(decl);
            }
            ExprKind::Array(elements) => {
                for element in elements {
                    match element {
                        Element::Value(v) | Element::Spread(v) => self.expr(v),
                        Element::Pair(k, v) => {
                            self.expr(k);
                            self.expr(v);
                        }
                    }
                }
            }
            kind => kind.children().for_each(|c| self.expr(c)),
        }
    }
}
