//! Modules, their imports and what they declare.

use super::generate::{Generator, Symbol};
use super::scan::Scan;
use super::{Exports, Module, Source, fold};
use crate::array::{Array, Key};
use crate::ast::{ClassDecl, FunctionDecl, ImportWhat, Name};
use crate::diag::{Span, hint};
use crate::probe::PointKind;
use crate::program::{ClassDef, Guard, MethodDef, Op, Proto, StaticDef};
use crate::string::Str;
use crate::value::Value;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

impl Generator<'_> {
    pub(super) fn module(&mut self, number: usize, module: &Module, entry: bool) {
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

    pub(super) fn symbol_span(&self, symbol: &Symbol) -> Span {
        match symbol {
            Symbol::Function(i) => self.program.protos[*i as usize].span,
            _ => Span::default(),
        }
    }

    pub(super) fn new_global(&mut self, name: &Name) -> u32 {
        self.program.global_names.push(Arc::from(&**name));
        self.program.global_names.len() as u32 - 1
    }

    pub(super) fn import_variable(&mut self, name: &Name, slot: u32, span: Span) {
        if self.globals.contains_key(name) {
            self.error(
                span,
                format!("Import overwrites variable '${name}'; import it under another name with 'as'"),
            );
        }
        self.globals.insert(name.clone(), slot);
        self.imported.insert(Rc::from(format!("${name}")), (span, false));
    }

    pub(super) fn import_module(&mut self, what: &ImportWhat, source: usize) {
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

    pub(super) fn reserve_proto(&mut self, proto: Proto) -> u32 {
        self.program.protos.push(proto);
        self.program.protos.len() as u32 - 1
    }

    pub(super) fn reserve_function(&mut self, decl: &FunctionDecl, method: bool, class: Option<u32>) -> u32 {
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
    pub(super) fn declare(&mut self, scan: &Scan, class: Option<u32>) -> HashMap<Name, Symbol> {
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

    pub(super) fn declare_class(&mut self, decl: &ClassDecl) -> u32 {
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
}
