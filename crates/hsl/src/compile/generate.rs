//! Code generation: the state of the function being compiled, registers, labels, declarations and name lookup.

use super::scan::Scan;
use super::{Compiler, Exports, Module, Note, Source, fold};
use crate::array::{Array, Key};
use crate::ast::{ClassDecl, Expr, FunctionDecl, ImportWhat, Name, Param, Stmt};
use crate::diag::{Severity, Span, hint};
use crate::probe::{Point, PointKind};
use crate::program::{ClassDef, Guard, MethodDef, Op, Program, Proto, Reg, StaticDef};
use crate::registry::{FunctionDef, NativeClass};
use crate::string::Str;
use crate::value::Value;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Register variables per function; further ones live in cells or global slots.
const REGISTER_VARIABLES_MAX: usize = 120;
/// Messages from which on warnings and suggestions are left out.
const NOTES_MAX: usize = 200;
/// Registers per function.
const REGISTERS_MAX: u16 = 250;

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
    target: Option<u32>,
    jumps: Vec<usize>,
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
    number_consts: HashMap<u64, u32>,
    string_consts: HashMap<Str, u32>,
    cell_index: HashMap<Name, u16>,
}

pub(crate) struct Generator<'a> {
    pub(crate) compiler: &'a Compiler,
    pub(crate) program: Program,
    pub(crate) notes: Vec<Note>,
    pub(crate) functions: Vec<Function>,
    exports: Vec<Exports>,
    module_numbers: HashMap<usize, u32>,
    // State of the module being compiled.
    entry: bool,
    pub(crate) module_path: String,
    pub(crate) module_symbols: HashMap<Name, Symbol>,
    pub(crate) globals: HashMap<Name, u32>,
    pub(crate) readonly: HashSet<Name>,
    pub(crate) namespaces: HashMap<Name, usize>,
    imported: HashMap<Name, (Span, bool)>,
    native_index: HashMap<usize, u32>,
    native_class_index: HashMap<usize, u32>,
    /// Options in calls of methods that no library class knows, with the method: a class of the script may.
    pub(crate) method_notes: Vec<(Name, Note)>,
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
    };
    let last = modules.len().saturating_sub(1);
    for (i, module) in modules.iter().enumerate() {
        g.module(i, module, i == last);
    }
    g.settle_method_notes();
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
        if !self.crowded() {
            self.notes.push(Note { severity: Severity::Warning, span, message: message.into() });
        }
    }

    /// More messages than anybody reads: suggestions are not worth their time any more.
    fn crowded(&self) -> bool {
        self.notes.len() >= NOTES_MAX
    }

    // ---- modules ----

    fn module(&mut self, number: usize, module: &Module, entry: bool) {
        self.module_path.clone_from(&module.path);
        self.module_symbols.clear();
        self.globals.clear();
        self.readonly.clear();
        self.namespaces.clear();
        self.imported.clear();
        self.entry = entry;
        let scan = Scan::new(&module.body, true);
        let main = self.reserve_proto(Proto { name: Arc::from(""), ..Proto::default() });
        if entry {
            for (name, readonly) in self.compiler.context.clone() {
                let name: Name = Rc::from(&*name);
                let slot = self.new_global(&name);
                self.program.context.insert(name.to_string(), slot);
                self.globals.insert(name.clone(), slot);
                if readonly {
                    self.readonly.insert(name);
                }
            }
        }
        for name in &module.natives {
            let name: Name = Rc::from(*name);
            if let Some(symbol) = self.lookup(&name, true) {
                self.module_symbols.insert(name, symbol);
            }
        }
        let mut runs = Vec::new();
        let mut data = Vec::new();
        for (import, source) in &module.imports {
            match (&import.what, source) {
                (ImportWhat::Data { name, span }, Source::Data(value)) => {
                    let slot = self.new_global(name);
                    self.import_variable(name, slot, *span);
                    data.push((slot, value.clone(), *span));
                }
                (what, Source::Module(source)) => {
                    self.import_module(what, *source);
                    runs.push((*source, import.path_span));
                }
                // load_import pairs them as above.
                (_, Source::Data(_)) => {}
            }
        }
        // Module variables are reachable from outside and always have slots. In the entry script only those that
        // functions can see do; the rest lives in registers.
        let shared: Vec<Name> = scan
            .names
            .iter()
            .map(|(n, _)| n.clone())
            .filter(|n| !entry || scan.inner_globals.contains(n) || scan.captured.contains(n))
            .chain(scan.inner_globals.iter().cloned())
            .collect();
        for name in shared {
            if !self.globals.contains_key(&name) {
                let slot = self.new_global(&name);
                self.globals.insert(name, slot);
            }
        }
        let symbols = self.declare(&scan, None);
        for (name, symbol) in symbols {
            if self.module_symbols.contains_key(&name) {
                let span = self.symbol_span(&symbol);
                self.error(span, format!("'{name}' is already imported; import it under another name"));
            }
            self.module_symbols.insert(name, symbol);
        }
        let mut function = self.new_function(main, None);
        function.main = true;
        function.proto.span = Span { file: module.file, offset: 0 };
        let span = function.proto.span;
        self.functions.push(function);
        self.probe(PointKind::Enter, span);
        self.place_variables(&scan);
        for (source, span) in runs {
            let n = self.module_numbers.get(&source).copied().unwrap_or(0);
            self.emit(Op::RunModule { module: n }, span);
        }
        for (slot, value, span) in data {
            if let Ok(mark) = self.temp(span) {
                self.constant(value, mark, span);
                self.emit(Op::StoreGlobal { src: mark, slot }, span);
                self.release_to(u16::from(mark));
            }
        }
        self.warn_variables(&scan, &[]);
        self.body(&module.body);
        self.declared_bodies(&scan);
        self.finish_function();
        if entry {
            self.program.entry = main;
        } else {
            let n = self.program.modules.len() as u32;
            self.program.modules.push(main);
            self.module_numbers.insert(number, n);
        }
        let unused: Vec<(Span, String)> = self
            .imported
            .iter()
            .filter(|(_, (_, used))| !used && entry)
            .map(|(n, (s, _))| (*s, format!("Unused import '{n}'")))
            .collect();
        for (span, message) in unused {
            self.warn(span, message);
        }
        self.exports.push(Exports {
            symbols: std::mem::take(&mut self.module_symbols),
            globals: std::mem::take(&mut self.globals),
        });
    }

    fn symbol_span(&self, symbol: &Symbol) -> Span {
        match symbol {
            Symbol::Function(i) => self.program.protos[*i as usize].span,
            _ => Span::default(),
        }
    }

    fn new_global(&mut self, name: &Name) -> u32 {
        self.program.global_names.push(Arc::from(&**name));
        self.program.global_names.len() as u32 - 1
    }

    fn import_variable(&mut self, name: &Name, slot: u32, span: Span) {
        if self.globals.contains_key(name) {
            self.error(
                span,
                format!("Import overwrites variable '${name}'; import it under another name with 'as'"),
            );
        }
        self.globals.insert(name.clone(), slot);
        self.imported.insert(Rc::from(format!("${name}")), (span, false));
    }

    fn import_module(&mut self, what: &ImportWhat, source: usize) {
        match what {
            ImportWhat::All { name, span } => {
                self.namespaces.insert(name.clone(), source);
                self.imported.insert(name.clone(), (*span, false));
            }
            ImportWhat::Symbols(symbols) => {
                for s in symbols {
                    let Some(exports) = self.exports.get(source) else { continue };
                    if s.variable {
                        match exports.globals.get(&s.name).copied() {
                            Some(slot) => self.import_variable(&s.local, slot, s.span),
                            None => {
                                let hint = hint(&s.name, "$", exports.globals.keys().map(|k| &**k));
                                let message = format!("The module has no variable '${}'{hint}", s.name);
                                self.error(s.span, message);
                            }
                        }
                        continue;
                    }
                    match exports.symbols.get(&s.name).cloned() {
                        Some(symbol) => {
                            if self.module_symbols.insert(s.local.clone(), symbol).is_some() {
                                self.error(
                                    s.span,
                                    format!(
                                        "'{}' is already imported; import it under another name with 'as'",
                                        s.local
                                    ),
                                );
                            }
                            self.imported.insert(s.local.clone(), (s.span, false));
                        }
                        None => {
                            let hint = hint(&s.name, "", exports.symbols.keys().map(|k| &**k));
                            self.error(
                                s.span,
                                format!("The module has no function or class '{}'{hint}", s.name),
                            );
                        }
                    }
                }
            }
            ImportWhat::Data { .. } => {}
        }
    }

    pub(crate) fn mark_import_used(&mut self, name: &str) {
        if let Some(entry) = self.imported.get_mut(name) {
            entry.1 = true;
        }
    }

    // ---- declarations ----

    fn reserve_proto(&mut self, proto: Proto) -> u32 {
        self.program.protos.push(proto);
        self.program.protos.len() as u32 - 1
    }

    fn reserve_function(&mut self, decl: &FunctionDecl, method: bool, class: Option<u32>) -> u32 {
        let variadic = decl.params.last().is_some_and(|p| p.variadic);
        let params = decl.params.len() - usize::from(variadic);
        if params > 100 {
            self.error(decl.span, "A function has at most 100 parameters");
        }
        let required = decl.params.iter().filter(|p| p.default.is_none() && !p.variadic).count();
        self.reserve_proto(Proto {
            name: Arc::from(&*decl.name),
            params: params.min(100) as u8,
            required: required.min(100) as u8,
            variadic,
            method,
            generator: decl.generator,
            class,
            span: decl.span,
            captures: decl.captures.len() as u16,
            ..Proto::default()
        })
    }

    /// Registers the functions and classes of one scope.
    fn declare(&mut self, scan: &Scan, class: Option<u32>) -> HashMap<Name, Symbol> {
        let mut symbols: HashMap<Name, Symbol> = HashMap::new();
        for decl in &scan.functions {
            let index = self.reserve_function(decl, false, class);
            self.warn_shadowed(&decl.name, decl.span);
            if symbols.insert(decl.name.clone(), Symbol::Function(index)).is_some() {
                self.error(decl.span, format!("'{}' is already declared in this scope", decl.name));
            }
        }
        for decl in &scan.classes {
            let index = self.declare_class(decl);
            self.warn_shadowed(&decl.name, decl.span);
            if symbols.insert(decl.name.clone(), Symbol::Class(index)).is_some() {
                self.error(decl.span, format!("'{}' is already declared in this scope", decl.name));
            }
        }
        symbols
    }

    fn declare_class(&mut self, decl: &ClassDecl) -> u32 {
        let index = self.program.classes.len() as u32;
        let mut class = ClassDef {
            name: Arc::from(&*decl.name),
            index,
            fields: Array::new(),
            guarded: HashMap::default(),
            constructor: None,
            methods: HashMap::default(),
            statics: HashMap::default(),
            static_methods: HashMap::default(),
        };
        for var in &decl.vars {
            let value = match &var.value {
                None => Value::None,
                Some(e) => match fold::constant(e) {
                    Some(v) => v,
                    None => {
                        self.error(e.span, "Initial value must be a constant expression");
                        Value::None
                    }
                },
            };
            let guard = Guard { private: var.modifiers.private, readonly: var.modifiers.readonly };
            let name = Str::from(&*var.name);
            if var.modifiers.fixed {
                let slot = self.program.statics.len() as u32;
                self.program.statics.push(value);
                class.statics.insert(name, StaticDef { slot, guard });
            } else {
                class.fields.insert(Key::of_str(&name), value);
                if guard.private || guard.readonly {
                    class.guarded.insert(name, guard);
                }
            }
        }
        for method in &decl.methods {
            let proto = self.reserve_function(&method.decl, !method.modifiers.fixed, Some(index));
            let def = MethodDef { proto, private: method.modifiers.private };
            let table = if method.modifiers.fixed { &mut class.static_methods } else { &mut class.methods };
            table.insert(Str::from(&*method.decl.name), def);
        }
        if let Some(c) = &decl.constructor {
            class.constructor = Some(self.reserve_function(c, true, Some(index)));
        }
        self.program.classes.push(Arc::new(class));
        index
    }

    /// Compiles the functions and classes declared in the current scope.
    fn declared_bodies(&mut self, scan: &Scan) {
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

    fn new_function(&mut self, index: u32, this: Option<Var>) -> Function {
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

    fn finish_function(&mut self) {
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

    /// Gives every variable of the scope a register, cell or slot.
    fn place_variables(&mut self, scan: &Scan) {
        for (name, _) in &scan.names {
            if self.function().vars.contains_key(name) {
                continue;
            }
            let global = self.function().main.then(|| self.globals.get(name).copied()).flatten();
            let captured = scan.captured.contains(name);
            let full = self.function().proto.names.len() >= REGISTER_VARIABLES_MAX;
            let var = match global {
                Some(slot) => Var::Global(slot),
                None if self.function().main && full => {
                    let slot = self.new_global(name);
                    self.globals.insert(name.clone(), slot);
                    Var::Global(slot)
                }
                None if captured || full => Var::Cell(self.new_cell(name)),
                None => {
                    let f = self.function_mut();
                    let reg = f.next as Reg;
                    f.next += 1;
                    f.proto.names.push(Arc::from(&**name));
                    Var::Reg(reg)
                }
            };
            self.function_mut().vars.insert(name.clone(), var);
        }
        let f = self.function_mut();
        f.proto.registers = f.proto.registers.max(f.next);
    }

    /// Warnings about the variables of the function whose body is about to be compiled.
    fn warn_variables(&mut self, scan: &Scan, params: &[Param]) {
        let main = self.function().main;
        if main && self.compiler.fragment {
            return;
        }
        let mut found = Vec::new();
        for (name, span) in &scan.names {
            let given = self.function().touched.contains(name) || (main && self.globals.contains_key(name));
            if !given && !scan.written.contains(name) {
                if found.len() >= NOTES_MAX {
                    break;
                }
                let hint = hint(name, "$", scan.written.iter().map(|n| &**n));
                found.push((*span, format!("Variable '${name}' is never assigned{hint}")));
            }
            // What functions import, modules export and hosts read is used elsewhere.
            let elsewhere = given || (main && !self.entry) || scan.inner_globals.contains(name);
            if let Some(span) = scan.assigned.get(name)
                && !elsewhere
                && !scan.used.contains(name)
                && !name.starts_with('_')
            {
                found.push((*span, format!("Variable '${name}' is assigned but never used")));
            }
        }
        for param in params {
            let used = scan.used.contains(&param.name) || scan.assigned.contains_key(&param.name);
            if !used && !param.name.starts_with('_') {
                let message =
                    format!("Parameter '${0}' is never used; name it '$_{0}' if that is meant", param.name);
                found.push((param.span, message));
            }
        }
        for (span, message) in found {
            self.warn(span, message);
        }
    }

    /// Warns about a function or class that hides one of the same name from an outer scope or the library.
    fn warn_shadowed(&mut self, name: &Name, span: Span) {
        let outer = self.functions.iter().rev().skip(1).find_map(|f| f.symbols.get(name));
        let outer = outer.or_else(|| self.functions.last().and_then(|_| self.module_symbols.get(name)));
        let place = match outer {
            Some(Symbol::Function(_) | Symbol::Class(_)) => "an outer scope",
            Some(_) => return,
            None => {
                let registry = &self.compiler.registry;
                if registry.function(name).is_none() && registry.class(name).is_none() {
                    return;
                }
                "the library"
            }
        };
        self.warn(span, format!("'{name}' shadows the one of {place}"));
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
        if !self.compiler.probes {
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

    /// Compiles statements one after the other; true when the code behind them cannot be reached.
    pub(crate) fn body(&mut self, body: &[Stmt]) -> bool {
        let mut dead = false;
        for stmt in body {
            if dead {
                use crate::ast::StmtKind;
                if !matches!(stmt.kind, StmtKind::Empty | StmtKind::Function(_) | StmtKind::Class(_)) {
                    // `break` behind `return` or `continue` in a case is a habit, not a mistake.
                    if !matches!(stmt.kind, StmtKind::Break) {
                        self.warn(stmt.span, "Unreachable code");
                    }
                    break;
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

fn signature(p: &Proto) -> Proto {
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

fn target_mut(op: &mut Op) -> Option<&mut u32> {
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

fn set_target(op: &mut Op, target: u32) {
    if let Some(to) = target_mut(op) {
        *to = target;
    }
}

/// Lets jumps to jumps go to the final target.
fn thread_jumps(code: &mut [Op]) {
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
