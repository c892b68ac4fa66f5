//! Calls: named functions, classes, methods, function values, `cache`.

use super::Note;
use super::generate::{Gen, Generator, Symbol};
use crate::ast::{Arg, Element, Expr, ExprKind, Name};
use crate::diag::{Severity, Span, hint};
use crate::probe::PointKind;
use crate::program::{CacheCallee, CacheSite, Op, Reg};
use crate::registry::{FunctionDef, OptionTable, arity_message};
use crate::string::Str;
use std::sync::Arc;

/// Calls with more arguments pass them as an array.
const DIRECT_ARGS_MAX: usize = 60;

const CACHE_OPTIONS: &[&str] = &[
    "ttl",
    "ttl_override",
    "ttl_function",
    "update_function",
    "argv_filter",
    "force",
    "size",
    "namespace",
    "per_message",
    "lru",
];

impl Generator<'_> {
    fn check_arity(&mut self, symbol: &Symbol, args: &[Arg], span: Span) -> Gen<()> {
        if args.iter().any(|a| a.spread) {
            return Ok(());
        }
        let result = match symbol {
            Symbol::Function(index) => {
                // A function whose body is being compiled keeps its signature in its place.
                let p = &self.program.protos[*index as usize];
                let max = if p.variadic { None } else { Some(usize::from(p.params)) };
                arity_message(&p.name, usize::from(p.required), max, args.len())
            }
            Symbol::Class(index) => {
                let class = &self.program.classes[*index as usize];
                match class.constructor {
                    None => arity_message(&class.name, 0, Some(0), args.len()),
                    Some(c) => {
                        let p = &self.program.protos[c as usize];
                        let max = if p.variadic { None } else { Some(usize::from(p.params)) };
                        arity_message(&class.name, usize::from(p.required), max, args.len())
                    }
                }
            }
            Symbol::Native(def) => def.check_arity(args.len()),
            Symbol::NativeClass(class) => match &class.constructor {
                Some(def) => def.check_arity(args.len()),
                None => Err(format!("Class '{}' cannot be created by scripts", class.name)),
            },
        };
        match result {
            Ok(()) => Ok(()),
            Err(message) => self.stop(span, message),
        }
    }

    /// Warns about keys of literal options that the function does not know; at run time they are ignored.
    fn check_options(&mut self, symbol: &Symbol, args: &[Arg]) {
        let def = match symbol {
            Symbol::Native(def) => def.clone(),
            Symbol::NativeClass(class) => match &class.constructor {
                Some(def) => def.clone(),
                None => return,
            },
            _ => return,
        };
        for table in &def.options {
            for (span, key) in self.literal_keys(args, table.param) {
                if let Some(message) = table.unknown(&def.name, &key) {
                    self.warn(span, message);
                }
            }
        }
    }

    /// The keys of the literal array that is an argument.
    fn literal_keys(&mut self, args: &[Arg], param: usize) -> Vec<(Span, String)> {
        let mut keys = Vec::new();
        if args.iter().take(param + 1).any(|a| a.spread) {
            return keys;
        }
        let Some(arg) = args.get(param) else { return keys };
        let ExprKind::Array(elements) = &*arg.value.kind else { return keys };
        for element in elements {
            let Element::Pair(key, _) = element else { continue };
            if let Some(value) = self.folded(key) {
                keys.push((key.span, value.to_string_lossy()));
            }
        }
        keys
    }

    /// As [`check_options`](Self::check_options) for a method. The class of the object is not known: the library has
    /// to have methods of that name, and all of them with options there that lack the key.
    fn check_method_options(&mut self, name: &Name, args: &[Arg]) {
        if !args.iter().any(|a| matches!(&*a.value.kind, ExprKind::Array(_))) {
            return;
        }
        let registry = Arc::clone(&self.compiler.registry);
        let classes = registry.classes();
        let methods: Vec<&FunctionDef> =
            classes.iter().flat_map(|c| c.methods()).filter(|def| *def.name == **name).collect();
        let Some(first) = methods.first() else { return };
        for table in &first.options {
            let tables: Option<Vec<&OptionTable>> =
                methods.iter().map(|def| def.options.iter().find(|t| t.param == table.param)).collect();
            let Some(tables) = tables else { continue };
            for (span, key) in self.literal_keys(args, table.param) {
                if let Some(message) = OptionTable::unknown_to_all(&tables, name, &key) {
                    let note = Note { severity: Severity::Warning, span, message };
                    self.method_notes.push((name.clone(), note));
                }
            }
        }
    }

    /// Reports what calls of methods have in options that the library does not know, unless classes of the script have
    /// methods of that name.
    pub(crate) fn settle_method_notes(&mut self) {
        for (name, note) in std::mem::take(&mut self.method_notes) {
            let own = self.program.classes.iter().any(|c| c.methods.contains_key(name.as_bytes()));
            if !own {
                self.warn(note.span, note.message);
            }
        }
    }

    /// Warns about a name of older scripts.
    pub(crate) fn check_name(&mut self, symbol: &Symbol, name: &Name, span: Span) {
        if matches!(symbol, Symbol::Native(_))
            && let Some(new) = self.compiler.registry.replaced_by(name).map(str::to_owned)
        {
            self.warn(span, format!("'{name}' is deprecated, use '{new}'"));
        }
    }

    /// Evaluates arguments into registers in a row, beginning at `first`.
    fn arguments(&mut self, args: &[Arg], first: Reg) -> Gen<()> {
        debug_assert!(args.len() <= DIRECT_ARGS_MAX, "longer lists go through an array");
        for (i, arg) in args.iter().enumerate() {
            let reg = first + i as Reg;
            self.into(&arg.value, reg)?;
        }
        Ok(())
    }

    fn array_call(args: &[Arg]) -> bool {
        args.len() > DIRECT_ARGS_MAX || args.iter().any(|a| a.spread)
    }

    /// Evaluates arguments into one array.
    fn argument_array(&mut self, args: &[Arg], array: Reg, span: Span) -> Gen<()> {
        self.emit(Op::NewArray { dst: array, capacity: args.len().min(4096) as u16 }, span);
        for arg in args {
            let mark = self.mark();
            let src = self.operand(&arg.value)?;
            if arg.spread {
                self.emit(Op::Spread { array, src, values_only: true }, arg.value.span);
            } else {
                self.emit(Op::Push { array, src }, arg.value.span);
            }
            self.release_to(mark);
        }
        Ok(())
    }

    pub(crate) fn call(&mut self, callee: &Expr, args: &[Arg], dst: Reg, span: Span) -> Gen<()> {
        match &*callee.kind {
            ExprKind::Name { builtin, name } => {
                let Some(symbol) = self.lookup(name, *builtin) else {
                    return self.unknown_function(name, callee.span);
                };
                self.check_name(&symbol, name, callee.span);
                self.call_symbol(&symbol, name, args, dst, span)
            }
            ExprKind::StaticName { class, name } => {
                let symbol = self.static_symbol(class, name, callee.span)?;
                self.call_symbol(&symbol, name, args, dst, span)
            }
            ExprKind::Prop { base, name } => {
                self.check_method_options(name, args);
                let k = self.name_const(name);
                let array = Self::array_call(args);
                let start = self.temps(if array { 2 } else { 1 + args.len() as u16 }, span)?;
                self.into(base, start)?;
                if array {
                    self.argument_array(args, start + 1, span)?;
                    self.emit(Op::CallMethodSpread { dst, start, k }, callee.span);
                } else {
                    self.arguments(args, start + 1)?;
                    self.emit(Op::CallMethod { dst, start, argc: args.len() as u8, k }, callee.span);
                }
                Ok(())
            }
            _ => {
                let array = Self::array_call(args);
                let start = self.temps(if array { 2 } else { 1 + args.len() as u16 }, span)?;
                self.into(callee, start)?;
                if array {
                    self.argument_array(args, start + 1, span)?;
                    self.emit(Op::CallSpread { dst, start }, span);
                } else {
                    self.arguments(args, start + 1)?;
                    self.emit(Op::CallValue { dst, start, argc: args.len() as u8 }, span);
                }
                Ok(())
            }
        }
    }

    fn call_symbol(&mut self, symbol: &Symbol, name: &Name, args: &[Arg], dst: Reg, span: Span) -> Gen<()> {
        self.check_arity(symbol, args, span)?;
        self.check_options(symbol, args);
        if Self::array_call(args) {
            let start = self.temps(2, span)?;
            self.symbol_value(Some(symbol.clone()), name, start, span)?;
            self.argument_array(args, start + 1, span)?;
            self.emit(Op::CallSpread { dst, start }, span);
            return Ok(());
        }
        let argc = args.len() as u8;
        // An instance goes before the arguments of its constructor.
        let receiver = u16::from(matches!(symbol, Symbol::Class(_)));
        let start = self.temps((receiver + u16::from(argc)).max(1), span)?;
        self.arguments(args, start + receiver as Reg)?;
        let native = match symbol {
            Symbol::Native(def) => Some(Arc::from(&*def.name)),
            Symbol::NativeClass(class) => Some(Arc::from(&*class.name)),
            _ => None,
        };
        if let Some(name) = &native {
            self.probe(PointKind::Call(Arc::clone(name)), span);
        }
        let op = match symbol {
            Symbol::Function(proto) => Op::Call { dst, start, argc, proto: *proto },
            Symbol::Class(class) => Op::New { dst, start, argc, class: *class },
            Symbol::Native(def) => Op::CallNative { dst, start, argc, native: self.native(def) },
            Symbol::NativeClass(class) => Op::NewNative { dst, start, argc, class: self.native_class(class) },
        };
        self.emit(op, span);
        if native.is_some() {
            self.probe(PointKind::Return, span);
        }
        Ok(())
    }

    /// The function behind `Cls::name`.
    fn static_symbol(&mut self, class: &Name, name: &Name, span: Span) -> Gen<Symbol> {
        let index = if **class == *"static" {
            match self.function().proto.class {
                Some(index) => index,
                None => return self.stop(span, "'static' is only available inside a class"),
            }
        } else {
            if let Some(exports) = self.namespace(class) {
                return match exports.symbols.get(name).cloned() {
                    Some(symbol) => Ok(symbol),
                    None => {
                        let hint = hint(name, "", exports.symbols.keys().map(|k| &**k));
                        let message = format!("Namespace '{class}' has no function or class '{name}'{hint}");
                        self.stop(span, message)
                    }
                };
            }
            match self.lookup(class, false) {
                Some(Symbol::Class(index)) => index,
                Some(Symbol::NativeClass(native)) => {
                    return match native.statics.get(&**name) {
                        Some(def) => Ok(Symbol::Native(def.clone())),
                        None => {
                            let hint = hint(name, "", native.statics.keys().map(|k| &**k));
                            self.stop(span, format!("Class '{class}' has no static function '{name}'{hint}"))
                        }
                    };
                }
                _ => return self.unknown_class(class, span),
            }
        };
        let def = self.program.classes[index as usize].clone();
        match def.static_methods.get(name.as_bytes()) {
            Some(m) if m.private && self.function().proto.class != Some(index) => {
                self.stop(span, format!("Cannot access private member '{name}' of class '{}'", def.name))
            }
            Some(m) => Ok(Symbol::Function(m.proto)),
            None if def.methods.contains_key(name.as_bytes()) => {
                let class = &def.name;
                self.stop(span, format!("Function '{name}' of class '{class}' needs an instance"))
            }
            None => {
                let names: Vec<String> =
                    def.static_methods.keys().map(|k| k.to_text().into_owned()).collect();
                let hint = hint(name, "", names.iter().map(|n| &**n));
                self.stop(span, format!("Class '{}' has no static function '{name}'{hint}", def.name))
            }
        }
    }

    pub(crate) fn static_value(&mut self, class: &Name, name: &Name, dst: Reg, span: Span) -> Gen<()> {
        let symbol = self.static_symbol(class, name, span)?;
        self.symbol_value(Some(symbol), name, dst, span)
    }

    pub(crate) fn cache(
        &mut self,
        options: &Expr,
        target: &Expr,
        args: &[Arg],
        dst: Reg,
        span: Span,
    ) -> Gen<()> {
        if let ExprKind::Array(elements) = &*options.kind {
            for element in elements {
                let key = match element {
                    Element::Pair(key, _) => key,
                    Element::Value(value) => {
                        return self.stop(value.span, "A cache option needs a name: [\"ttl\" => 60]");
                    }
                    Element::Spread(_) => continue,
                };
                if let Some(key_value) = self.folded(key) {
                    let text = key_value.to_string_lossy();
                    if !CACHE_OPTIONS.contains(&&*text) {
                        let hint = crate::diag::hint(&text, "", CACHE_OPTIONS.iter().copied());
                        return self.stop(key.span, format!("Unknown cache option '{text}'{hint}"));
                    }
                }
            }
        }
        let (symbol, identity) = match &*target.kind {
            ExprKind::Name { builtin, name } => match self.lookup(name, *builtin) {
                Some(symbol) => {
                    self.check_name(&symbol, name, target.span);
                    (symbol, name.to_string())
                }
                None => return self.unknown_function(name, target.span),
            },
            ExprKind::StaticName { class, name } => {
                let symbol = self.static_symbol(class, name, target.span)?;
                let own = self.function().proto.class.filter(|_| **class == *"static");
                match own.and_then(|index| self.program.classes.get(index as usize)) {
                    Some(class) => (symbol, format!("{}::{name}", class.name)),
                    None => (symbol, format!("{class}::{name}")),
                }
            }
            _ => return self.stop(target.span, "Expected a function name after the cache options"),
        };
        self.check_arity(&symbol, args, target.span)?;
        self.check_options(&symbol, args);
        let (callee, identity) = match &symbol {
            Symbol::Function(proto) => {
                let path = self.module_path.clone();
                (CacheCallee::Proto(*proto), format!("{path}\0{identity}"))
            }
            Symbol::Native(def) => (CacheCallee::Native(self.native(def)), format!("\0{identity}")),
            _ => return self.stop(target.span, "A class cannot be cached"),
        };
        let spread = Self::array_call(args);
        let site = self.program.sites.len() as u32;
        self.program.sites.push(CacheSite { callee, identity: Str::from(identity), spread });
        let start = self.temps(if spread { 2 } else { 1 + args.len() as u16 }, span)?;
        self.into(options, start)?;
        if spread {
            self.argument_array(args, start + 1, span)?;
        } else {
            self.arguments(args, start + 1)?;
        }
        self.emit(
            Op::Cache { dst, start, argc: if spread { 1 } else { args.len() as u8 }, site },
            target.span,
        );
        Ok(())
    }
}
