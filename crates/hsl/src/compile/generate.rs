//! Code generation: the program and the functions being compiled, bodies, closures and name lookup.

use super::emit::thread_jumps;
use super::scan::Scan;
use super::{Compiler, Exports, Module, Note, fold};
use crate::ast::{Expr, FunctionDecl, Name, Stmt};
use crate::diag::{Severity, Span, hint};
use crate::probe::PointKind;
use crate::program::{Op, Program, Proto, Reg};
use crate::registry::{FunctionDef, NativeClass};
use crate::string::Str;
use crate::value::Value;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Register variables per function; further ones live in cells or global slots.
pub(super) const REGISTER_VARIABLES_MAX: usize = 120;
/// Messages from which on warnings and suggestions are left out.
pub(super) const NOTES_MAX: usize = 200;
/// Registers per function.
pub(super) const REGISTERS_MAX: u16 = 250;

/// The error is recorded; the statement is given up.
pub(crate) struct Stop;

pub(crate) type Gen<T> = Result<T, Stop>;

/// Something that a bare name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Symbol {
    Function(u32),
    Class(u32),
    Native(Arc<FunctionDef>),
    NativeClass(Arc<NativeClass>),
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Var {
    Reg(Reg),
    Cell(u16),
    Global(u32),
}

/// A jump target that may not be known yet.
#[derive(Default)]
pub(crate) struct Label {
    pub(super) target: Option<u32>,
    pub(super) jumps: Vec<usize>,
}

/// An enclosing construct that `break`, `continue` and `return` have to leave.
pub(crate) enum Block {
    Loop { stop: Label, next: Label },
    Switch { stop: Label },
    Try,
    Barrier { var: Option<Name> },
}

/// The function being compiled.
pub(crate) struct Function {
    pub(crate) proto: Proto,
    pub(crate) index: u32,
    pub(crate) vars: HashMap<Name, Var>,
    /// Variables that the statements so far may have created, for `global`.
    pub(crate) touched: HashSet<Name>,
    pub(crate) next: u16,
    pub(crate) blocks: Vec<Block>,
    /// Functions and classes declared directly inside.
    pub(crate) symbols: HashMap<Name, Symbol>,
    pub(crate) this: Option<Var>,
    pub(crate) main: bool,
    /// Variables of the loops around the statement being compiled.
    pub(crate) loop_variables: Vec<Name>,
    pub(super) number_consts: HashMap<u64, u32>,
    pub(super) string_consts: HashMap<Str, u32>,
    cell_index: HashMap<Name, u16>,
}

pub(crate) struct Generator<'a> {
    pub(crate) compiler: &'a Compiler,
    pub(crate) program: Program,
    pub(crate) notes: Vec<Note>,
    pub(crate) functions: Vec<Function>,
    pub(super) exports: Vec<Exports>,
    pub(super) module_numbers: HashMap<usize, u32>,
    // State of the module being compiled.
    pub(super) entry: bool,
    pub(crate) module_path: String,
    pub(crate) module_symbols: HashMap<Name, Symbol>,
    pub(crate) globals: HashMap<Name, u32>,
    pub(crate) readonly: HashSet<Name>,
    pub(crate) namespaces: HashMap<Name, usize>,
    pub(super) imported: HashMap<Name, (Span, bool)>,
    native_index: HashMap<usize, u32>,
    native_class_index: HashMap<usize, u32>,
    /// Options in calls of methods that no library class knows, with the method: a class of the script may.
    pub(crate) method_notes: Vec<(Name, Note)>,
    /// How many pieces of code that can never run enclose what is being compiled.
    pub(super) dead: u32,
}

/// Compiles the modules; the last one is the entry script.
pub(crate) fn generate(compiler: &Compiler, modules: Vec<Module>) -> (Program, Vec<Note>) {
    let mut g = Generator {
        compiler,
        program: Program::default(),
        notes: Vec::new(),
        functions: Vec::new(),
        exports: Vec::new(),
        module_numbers: HashMap::new(),
        entry: false,
        module_path: String::new(),
        module_symbols: HashMap::new(),
        globals: HashMap::new(),
        readonly: HashSet::new(),
        namespaces: HashMap::new(),
        imported: HashMap::new(),
        native_index: HashMap::new(),
        native_class_index: HashMap::new(),
        method_notes: Vec::new(),
        dead: 0,
    };
    let last = modules.len().saturating_sub(1);
    for (i, module) in modules.iter().enumerate() {
        g.module(i, module, i == last);
    }
    g.settle_method_notes();
    g.program.find_leaves();
    (g.program, g.notes)
}

impl Generator<'_> {
    // ---- messages ----

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.notes.push(Note { severity: Severity::Error, span, message: message.into() });
    }

    pub(crate) fn stop<T>(&mut self, span: Span, message: impl Into<String>) -> Gen<T> {
        self.error(span, message);
        Err(Stop)
    }

    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>) {
        if self.dead == 0 && !self.crowded() {
            self.notes.push(Note { severity: Severity::Warning, span, message: message.into() });
        }
    }

    /// More messages than anybody reads: suggestions are not worth their time any more.
    pub(super) fn crowded(&self) -> bool {
        self.notes.len() >= NOTES_MAX
    }

    // ---- modules ----

    /// Compiles the functions and classes declared in the current scope.
    pub(super) fn declared_bodies(&mut self, scan: &Scan) {
        let main = self.functions.last().is_some_and(|f| f.main);
        for decl in &scan.functions {
            let symbols = if main { &self.module_symbols } else { &self.function().symbols };
            if let Some(Symbol::Function(index)) = symbols.get(&decl.name) {
                let index = *index;
                self.function_body(decl, index, &[]);
            }
        }
        for decl in &scan.classes {
            let symbols = if main { &self.module_symbols } else { &self.function().symbols };
            let Some(Symbol::Class(class)) = symbols.get(&decl.name) else { continue };
            let def = Arc::clone(&self.program.classes[*class as usize]);
            for method in &decl.methods {
                let table = if method.modifiers.fixed { &def.static_methods } else { &def.methods };
                if let Some(m) = table.get(method.decl.name.as_bytes()) {
                    self.function_body(&method.decl, m.proto, &[]);
                }
            }
            if let (Some(decl), Some(index)) = (&decl.constructor, def.constructor) {
                self.function_body(decl, index, &[]);
            }
        }
    }

    pub(super) fn new_function(&mut self, index: u32, this: Option<Var>) -> Function {
        Function {
            proto: std::mem::take(&mut self.program.protos[index as usize]),
            index,
            vars: HashMap::new(),
            touched: HashSet::new(),
            next: 0,
            blocks: Vec::new(),
            symbols: HashMap::new(),
            this,
            main: false,
            loop_variables: Vec::new(),
            number_consts: HashMap::new(),
            string_consts: HashMap::new(),
            cell_index: HashMap::new(),
        }
    }

    /// Compiles a function into its reserved place. `outer` says what captured variables are in the creating function.
    pub(crate) fn function_body(&mut self, decl: &FunctionDecl, index: u32, outer: &[(Name, Var)]) {
        let scan = Scan::new(&decl.body, false);
        let method = self.program.protos[index as usize].method;
        let class = self.program.protos[index as usize].class;
        // Signatures stay readable for calls from inside the function.
        let kept = signature(&self.program.protos[index as usize]);
        let this = method.then_some(Var::Reg(0));
        let mut function = self.new_function(index, this);
        self.program.protos[index as usize] = kept;
        if method {
            function.next = 1;
            function.proto.names.push(Arc::from("this"));
        }
        self.functions.push(function);
        self.probe(PointKind::Enter, decl.span);
        let symbols = self.declare(&scan, class);
        self.function_mut().symbols = symbols;
        for (name, var) in outer {
            match var {
                Var::Cell(_) | Var::Reg(_) => {
                    let cell = self.new_cell(name);
                    if **name == *"this" {
                        self.function_mut().this = Some(Var::Cell(cell));
                    } else {
                        self.function_mut().vars.insert(name.clone(), Var::Cell(cell));
                    }
                }
                Var::Global(slot) => {
                    self.function_mut().vars.insert(name.clone(), Var::Global(*slot));
                }
            }
            self.function_mut().touched.insert(name.clone());
        }
        self.function_mut().proto.captures = self.function().proto.cell_names.len() as u16;
        for param in &decl.params {
            let f = self.function_mut();
            let reg = f.next as Reg;
            f.next += 1;
            f.proto.names.push(Arc::from(&*param.name));
            f.touched.insert(param.name.clone());
            if !scan.captured.contains(&param.name) {
                f.vars.insert(param.name.clone(), Var::Reg(reg));
            }
        }
        for (i, param) in decl.params.iter().enumerate() {
            let reg = (i + usize::from(method)).min(255) as Reg;
            if let Some(default) = &param.default {
                match fold::constant(default) {
                    Some(value) => {
                        let mut given = Label::default();
                        self.jump_to(Op::JumpIfDefined { a: reg, to: 0 }, &mut given, param.span);
                        self.constant(value, reg, param.span);
                        self.bind(&mut given);
                    }
                    None => self.error(default.span, "Default value must be a constant expression"),
                }
            }
            if scan.captured.contains(&param.name) {
                let cell = self.new_cell(&param.name);
                self.function_mut().vars.insert(param.name.clone(), Var::Cell(cell));
                self.emit(Op::StoreCell { src: reg, cell }, param.span);
            }
        }
        if method && scan.captured.contains("this") {
            let cell = self.new_cell(&Rc::from("this"));
            self.emit(Op::StoreCell { src: 0, cell }, decl.span);
            self.function_mut().cell_index.insert(Rc::from("this"), cell);
        }
        self.place_variables(&scan);
        // Callbacks get what their caller gives, methods what their interface says.
        let own = if decl.name.is_empty() || method || class.is_some() { &[][..] } else { &decl.params };
        self.warn_variables(&scan, own);
        self.body(&decl.body);
        self.declared_bodies(&scan);
        self.finish_function();
    }

    pub(super) fn finish_function(&mut self) {
        self.probe(PointKind::Leave, Span::default());
        self.emit(Op::ReturnNone, Span::default());
        if let Some(mut f) = self.functions.pop() {
            thread_jumps(&mut f.proto.code);
            f.proto.registers = f.proto.registers.max(f.proto.names.len() as u16) + 1;
            f.proto.plain = !f.proto.variadic && !f.proto.generator && f.proto.cell_names.is_empty();
            f.proto.simple = !f.proto.variadic
                && !f.proto.generator
                && f.proto.cell_names.len() == usize::from(f.proto.captures);
            if f.proto.code.iter().any(|op| matches!(op, Op::CallMethod { .. })) {
                f.proto.found = f.proto.consts.iter().map(|_| AtomicU64::new(0)).collect();
            }
            if f.proto.code.iter().any(|op| matches!(op, Op::GetProp { .. } | Op::SetProp { .. })) {
                f.proto.spots = f.proto.consts.iter().map(|_| AtomicU32::new(0)).collect();
            }
            self.program.protos[f.index as usize] = f.proto;
        }
    }

    pub(crate) fn new_cell(&mut self, name: &Name) -> u16 {
        let f = self.function_mut();
        let cell = f.proto.cell_names.len() as u16;
        f.proto.cell_names.push(Arc::from(&**name));
        f.cell_index.insert(name.clone(), cell);
        cell
    }

    /// The cell that holds a captured variable of the current function.
    pub(crate) fn cell_of(&self, name: &str) -> Option<u16> {
        self.function().cell_index.get(name).copied()
    }

    // ---- names ----

    /// Where a variable lives.
    pub(crate) fn variable(&mut self, name: &Name) -> Var {
        if self.function().main {
            self.mark_import_used(&format!("${name}"));
        }
        match self.function().vars.get(name) {
            Some(var) => *var,
            // The scan saw every variable; an unknown one could only come from a part it skipped.
            None => {
                let slot = self.new_global(name);
                self.function_mut().vars.insert(name.clone(), Var::Global(slot));
                Var::Global(slot)
            }
        }
    }

    /// What a bare name stands for.
    pub(crate) fn lookup(&mut self, name: &Name, builtin: bool) -> Option<Symbol> {
        if !builtin {
            for f in self.functions.iter().rev() {
                if let Some(symbol) = f.symbols.get(name) {
                    return Some(symbol.clone());
                }
            }
            if let Some(symbol) = self.module_symbols.get(name).cloned() {
                self.mark_import_used(name);
                return Some(symbol);
            }
        }
        let registry = &self.compiler.registry;
        if let Some(def) = registry.function(name) {
            return Some(Symbol::Native(Arc::clone(def)));
        }
        registry.class(name).map(|c| Symbol::NativeClass(Arc::clone(c)))
    }

    pub(crate) fn unknown_function<T>(&mut self, name: &Name, span: Span) -> Gen<T> {
        let registry = Arc::clone(&self.compiler.registry);
        let own = self.functions.iter().flat_map(|f| f.symbols.keys()).chain(self.module_symbols.keys());
        let hint = match self.crowded() {
            true => String::new(),
            false => hint(name, "", own.map(|n| &**n).chain(registry.names())),
        };
        self.stop(span, format!("Unknown function '{name}'{hint}"))
    }

    pub(crate) fn unknown_class<T>(&mut self, name: &Name, span: Span) -> Gen<T> {
        let registry = Arc::clone(&self.compiler.registry);
        let own = self.functions.iter().flat_map(|f| &f.symbols).chain(&self.module_symbols);
        let classes = own.filter(|(_, s)| matches!(s, Symbol::Class(_))).map(|(n, _)| &**n);
        let native = registry.names().into_iter().filter(|n| registry.class(n).is_some());
        let namespaces = self.namespaces.keys().map(|n| &**n);
        let hint = match self.crowded() {
            true => String::new(),
            false => hint(name, "", classes.chain(native).chain(namespaces)),
        };
        self.stop(span, format!("Unknown class '{name}'{hint}"))
    }

    /// Exports of a module imported as namespace.
    pub(crate) fn namespace(&mut self, name: &Name) -> Option<&Exports> {
        let source = *self.namespaces.get(name)?;
        self.mark_import_used(name);
        self.exports.get(source)
    }

    pub(crate) fn native(&mut self, def: &Arc<FunctionDef>) -> u32 {
        let key = Arc::as_ptr(def) as usize;
        if let Some(i) = self.native_index.get(&key) {
            return *i;
        }
        let i = self.program.natives.len() as u32;
        self.program.natives.push(Arc::clone(def));
        self.native_index.insert(key, i);
        i
    }

    pub(crate) fn native_class(&mut self, class: &Arc<NativeClass>) -> u32 {
        let key = Arc::as_ptr(class) as usize;
        if let Some(i) = self.native_class_index.get(&key) {
            return *i;
        }
        let i = self.program.native_classes.len() as u32;
        self.program.native_classes.push(Arc::clone(class));
        self.native_class_index.insert(key, i);
        i
    }

    // ---- code ----

    /// Compiles statements one after the other; true when the code behind them cannot be reached.
    pub(crate) fn body(&mut self, body: &[Stmt]) -> bool {
        let (mut dead, mut warned) = (false, false);
        for stmt in body {
            if dead {
                use crate::ast::StmtKind;
                if !matches!(stmt.kind, StmtKind::Empty | StmtKind::Function(_) | StmtKind::Class(_)) {
                    // `break` behind `return` or `continue` in a case is a habit, not a mistake.
                    if !matches!(stmt.kind, StmtKind::Break) && !warned {
                        self.warn(stmt.span, "Unreachable code");
                    }
                    warned = true;
                    self.check_dead(|g| g.statement(stmt).map(drop));
                }
                continue;
            }
            let mark = self.mark();
            // The error is recorded; the next statement is independent of this one.
            if let Ok(ends) = self.statement(stmt) {
                dead = ends;
            }
            self.release_to(mark);
        }
        dead
    }

    /// Compiles an anonymous function and the instruction that makes its value.
    pub(crate) fn closure(&mut self, decl: &Rc<FunctionDecl>, dst: Reg, span: Span) -> Gen<()> {
        let class = self.function().proto.class;
        let index = self.reserve_function(decl, false, class);
        let mut outer = Vec::new();
        let mut cells = Vec::new();
        for (name, span) in &decl.captures {
            if **name == *"this" {
                let cell = match self.function().this {
                    Some(Var::Cell(cell)) => Some(cell),
                    Some(_) => self.cell_of("this"),
                    None => None,
                };
                let Some(cell) = cell else {
                    return self.stop(*span, "$this is only available in class functions");
                };
                outer.push((name.clone(), Var::Cell(cell)));
                cells.push(cell);
                continue;
            }
            let var = self.variable(name);
            if let Var::Cell(cell) = var {
                cells.push(cell);
            }
            outer.push((name.clone(), var));
        }
        self.function_body(decl, index, &outer);
        let proto = self.function().index;
        debug_assert_ne!(proto, index, "a function cannot contain itself");
        if cells.is_empty() {
            // Without captured cells all instances behave alike, but each closure value stays its own instance.
            if decl.captures.is_empty() {
                self.emit(Op::MakeFunction { dst, proto: index }, span);
                return Ok(());
            }
        }
        let f = self.function_mut();
        let closure = f.proto.closures.len() as u32;
        f.proto.closures.push(crate::program::ClosureDef { proto: index, captures: cells.into() });
        self.emit(Op::MakeClosure { dst, closure }, span);
        Ok(())
    }

    /// The constant of an expression, if it has one.
    pub(crate) fn folded(&self, e: &Expr) -> Option<Value> {
        fold::constant(e)
    }
}

pub(super) fn signature(p: &Proto) -> Proto {
    Proto {
        name: Arc::clone(&p.name),
        params: p.params,
        required: p.required,
        variadic: p.variadic,
        method: p.method,
        generator: p.generator,
        class: p.class,
        span: p.span,
        captures: p.captures,
        ..Proto::default()
    }
}
