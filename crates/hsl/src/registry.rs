//! The native library as the language sees it: one table of functions and classes.
//!
//! Registries form layers. A child answers from its own table first and then from its parent, so that each hook can
//! have its own functions over one shared library.

use crate::array::{Array, Key};
use crate::error::Error;
use crate::number::parse_number;
use crate::object::{Function, Object};
use crate::shared::Shared;
use crate::string::Str;
use crate::value::Value;
use crate::vm::{Host, Limits, NativeCx};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A set of types that a parameter accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Types(u16);

impl Types {
    /// Any value.
    pub const ANY: Types = Types(0xff);
    /// `none`.
    pub const NONE: Types = Types(1);
    /// Booleans.
    pub const BOOLEAN: Types = Types(2);
    /// Numbers.
    pub const NUMBER: Types = Types(4);
    /// Strings.
    pub const STRING: Types = Types(8);
    /// Arrays.
    pub const ARRAY: Types = Types(16);
    /// Functions.
    pub const FUNCTION: Types = Types(32);
    /// Objects.
    pub const OBJECT: Types = Types(64);
    /// Resources.
    pub const RESOURCE: Types = Types(128);

    const NAMES: [(Types, &'static str); 8] = [
        (Types::NONE, "none"),
        (Types::BOOLEAN, "boolean"),
        (Types::NUMBER, "number"),
        (Types::STRING, "string"),
        (Types::ARRAY, "array"),
        (Types::FUNCTION, "function"),
        (Types::OBJECT, "object"),
        (Types::RESOURCE, "resource"),
    ];

    /// Both sets together.
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    #[inline(always)]
    fn contains(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    /// The set of one value's type.
    #[inline(always)]
    pub fn of(value: &Value) -> Types {
        match value {
            Value::Undef | Value::None => Types::NONE,
            Value::Bool(_) => Types::BOOLEAN,
            Value::Number(_) => Types::NUMBER,
            Value::Str(_) => Types::STRING,
            Value::Array(_) => Types::ARRAY,
            Value::Function(_) => Types::FUNCTION,
            Value::Object(_) => Types::OBJECT,
            Value::Resource(_) => Types::RESOURCE,
        }
    }

    fn parse(text: &str) -> Option<Types> {
        let mut set = Types(0);
        for word in text.split(" or ") {
            let word = word.trim();
            let one = match word {
                "any" => Types::ANY,
                _ => match Types::NAMES.iter().find(|(_, n)| *n == word) {
                    Some((t, _)) => *t,
                    // A capitalised name is a class.
                    None if word.starts_with(|c: char| c.is_ascii_uppercase()) => {
                        Types::OBJECT.or(Types::RESOURCE)
                    }
                    None => return None,
                },
            };
            set = set.or(one);
        }
        Some(set)
    }

    /// Converts a value to one of the types if it is a scalar that can be (library section 0.2). False when it cannot.
    pub fn coerce(self, value: &mut Value) -> bool {
        if self.contains(Types::of(value)) {
            return true;
        }
        let scalar = matches!(value, Value::Bool(_) | Value::Number(_) | Value::Str(_));
        if !scalar {
            return false;
        }
        if self.contains(Types::STRING) {
            *value = Value::Str(value.to_str());
            return true;
        }
        if self.contains(Types::NUMBER) {
            let number = match value {
                Value::Bool(b) => Some(f64::from(u8::from(*b))),
                Value::Str(s) => parse_number(s.as_bytes()),
                _ => None,
            };
            if let Some(n) = number {
                *value = Value::Number(n);
                return true;
            }
        }
        if self.contains(Types::BOOLEAN) {
            *value = Value::Bool(value.truthy());
            return true;
        }
        false
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Types::ANY {
            return f.write_str("any");
        }
        let names: Vec<&str> =
            Types::NAMES.iter().filter(|(t, _)| self.contains(*t)).map(|(_, n)| *n).collect();
        f.write_str(&names.join(" or "))
    }
}

/// A parameter of a native function.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name, without dollar.
    pub name: Cow<'static, str>,
    /// What it accepts.
    pub types: Types,
    /// May be left out.
    pub optional: bool,
}

/// One key of an options argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionDef {
    /// The key.
    pub key: &'static str,
    /// What it accepts, in the words of a signature.
    pub types: &'static str,
    /// Its default as documented; empty for none.
    pub default: &'static str,
    /// What it does, for editors and the manual.
    pub meaning: &'static str,
}

/// Shorthand for tables of options.
pub const fn option(
    key: &'static str,
    types: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> OptionDef {
    OptionDef { key, types, default, meaning }
}

/// The options of one parameter.
#[derive(Clone, Debug)]
pub struct OptionTable {
    /// Position of the parameter.
    pub param: usize,
    /// The keys.
    pub keys: &'static [OptionDef],
    /// What each of them accepts.
    types: Vec<Types>,
}

impl OptionTable {
    /// The message about a key that the table does not have.
    pub(crate) fn unknown(&self, function: &str, key: &str) -> Option<String> {
        OptionTable::unknown_to_all(&[self], function, key)
    }

    /// The message about a key that none of the tables has.
    pub(crate) fn unknown_to_all(tables: &[&OptionTable], function: &str, key: &str) -> Option<String> {
        let known = || tables.iter().flat_map(|t| t.keys).map(|o| o.key);
        if known().any(|k| k == key) {
            return None;
        }
        let near = crate::diag::suggest(key, known());
        let hint = near.map_or(String::new(), |n| format!(", did you mean '{n}'?"));
        Some(format!("{function}() option '{key}' is unknown{hint}"))
    }
}

/// A future that a native function waits for.
pub type BoxFuture = Pin<Box<dyn Future<Output = Result<Value, Error>> + Send>>;

/// Arguments of a callback.
pub struct CallArgs(Callback);

enum Callback {
    One(Value),
    Two(Value, Value),
    Many(Vec<Value>),
}

impl CallArgs {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Callback::One(_) => 1,
            Callback::Two(..) => 2,
            Callback::Many(list) => list.len(),
        }
    }

    /// Moves the arguments to the front of `slots`, which has room for all.
    #[inline]
    pub(crate) fn place(self, slots: &mut [Value]) {
        match (self.0, slots) {
            (Callback::One(a), [x, ..]) => x.put(a),
            (Callback::Two(a, b), [x, y, ..]) => {
                x.put(a);
                y.put(b);
            }
            (Callback::Many(list), slots) => {
                for (slot, value) in slots.iter_mut().zip(list) {
                    slot.put(value);
                }
            }
            _ => {}
        }
    }
}

impl From<[Value; 1]> for CallArgs {
    #[inline]
    fn from([a]: [Value; 1]) -> CallArgs {
        CallArgs(Callback::One(a))
    }
}

impl From<[Value; 2]> for CallArgs {
    #[inline]
    fn from([a, b]: [Value; 2]) -> CallArgs {
        CallArgs(Callback::Two(a, b))
    }
}

impl From<Vec<Value>> for CallArgs {
    fn from(list: Vec<Value>) -> CallArgs {
        CallArgs(Callback::Many(list))
    }
}

/// How a native function goes on.
pub enum Outcome {
    /// Finished.
    Value(Value),
    /// The execution is suspended until the host has the result.
    Pending(BoxFuture),
    /// The execution is suspended; the continuation gets the result.
    Wait(BoxFuture, Box<dyn Continuation>),
    /// The execution ends here (`Accept()` and the like). Not catchable.
    End(Vec<Value>),
    /// A script function is called and the continuation gets its result.
    Call(Box<NativeCall>),
}

impl From<Value> for Outcome {
    fn from(value: Value) -> Outcome {
        Outcome::Value(value)
    }
}

/// A callback into a script.
pub struct NativeCall {
    /// What to call.
    pub function: Value,
    /// With what.
    pub args: CallArgs,
    /// Gets the result.
    pub then: Box<dyn Continuation>,
}

/// The rest of a native function behind a callback or a wait.
pub trait Continuation: Send {
    /// Goes on with the result.
    ///
    /// # Errors
    /// As the native function itself.
    fn resume(&mut self, cx: &mut NativeCx<'_>, result: Value) -> Result<Next, Error>;

    /// As [`resume`](Continuation::resume), for functions that call back very often: one or two arguments of the
    /// next call may be stored in `slots`, to be followed by [`Next::Placed`].
    ///
    /// # Errors
    /// As [`resume`](Continuation::resume).
    fn step(&mut self, cx: &mut NativeCx<'_>, result: Value, slots: &mut [Value; 2]) -> Result<Next, Error> {
        let _ = slots;
        self.resume(cx, result)
    }
}

/// What a continuation wants next.
pub enum Next {
    /// The native function is finished.
    Value(Value),
    /// Calls the same function again.
    Again(CallArgs),
    /// Calls the same function again with that many arguments, which [`step`](Continuation::step) stored.
    Placed(u8),
    /// Calls another function.
    Call(Value, CallArgs),
    /// Waits; the result comes back to the continuation.
    Pending(BoxFuture),
}

impl<F: FnMut(&mut NativeCx<'_>, Value) -> Result<Next, Error> + Send> Continuation for F {
    fn resume(&mut self, cx: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        self(cx, result)
    }
}

/// The arguments of a native call, already checked and converted to the declared types.
pub struct Args<'a>(pub(crate) &'a mut [Value]);

impl Args<'_> {
    /// Number of arguments given.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without arguments.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The argument; `none` when left out.
    pub fn get(&self, i: usize) -> &Value {
        self.0.get(i).unwrap_or(&Value::None)
    }

    /// The argument unless it was left out or is `none`.
    pub fn given(&self, i: usize) -> Option<&Value> {
        self.0.get(i).filter(|v| !v.is_none())
    }

    /// Moves the argument out.
    pub fn take(&mut self, i: usize) -> Value {
        self.0.get_mut(i).map_or(Value::None, std::mem::take)
    }

    /// The bytes of a string argument; empty for other types.
    pub fn bytes(&self, i: usize) -> &[u8] {
        self.get(i).as_str_bytes().unwrap_or_default()
    }

    /// The number of a number argument; 0 for other types.
    pub fn number(&self, i: usize) -> f64 {
        self.get(i).as_number().unwrap_or(0.0)
    }

    /// A number used as count, length or offset: truncated toward zero.
    ///
    /// # Errors
    /// nan and infinities.
    pub fn integer(&self, i: usize) -> Result<i64, Error> {
        let n = self.number(i);
        if n.is_finite() {
            // `as` saturates, which is right for counts.
            Ok(n as i64)
        } else {
            Err(Error::exception("Expected a finite number"))
        }
    }

    /// [`integer`](Args::integer) with a default for a missing argument.
    ///
    /// # Errors
    /// nan and infinities.
    pub fn integer_or(&self, i: usize, default: i64) -> Result<i64, Error> {
        if self.given(i).is_some() { self.integer(i) } else { Ok(default) }
    }

    /// Truthiness of an argument, with a default for a missing one.
    pub fn flag(&self, i: usize, default: bool) -> bool {
        self.given(i).map_or(default, Value::truthy)
    }

    /// The array of an array argument; empty for other types.
    pub fn array(&self, i: usize) -> Array {
        self.get(i).as_array().cloned().unwrap_or_default()
    }

    /// A string argument.
    pub fn string(&self, i: usize) -> Str {
        match self.get(i) {
            Value::Str(s) => s.clone(),
            other => other.to_str(),
        }
    }

    /// Exchanges two arguments that were given.
    pub fn swap(&mut self, a: usize, b: usize) {
        if a.max(b) < self.0.len() {
            self.0.swap(a, b);
        }
    }

    /// All arguments.
    pub fn as_slice(&self) -> &[Value] {
        self.0
    }
}

type PureFn = fn(&mut NativeCx<'_>, Args<'_>) -> Result<Value, Error>;
type FullFn = dyn Fn(&mut NativeCx<'_>, Args<'_>) -> Result<Outcome, Error> + Send + Sync;

/// The code of a native function.
#[derive(Clone)]
pub enum NativeFn {
    /// Runs to completion.
    Pure(PureFn),
    /// May suspend, call back or end the execution.
    Full(Arc<FullFn>),
}

/// A native function: name, parameters, documentation and code in one entry.
pub struct FunctionDef {
    /// Name in scripts.
    pub name: Cow<'static, str>,
    /// Parameters; optional ones last.
    pub params: Vec<Param>,
    /// Type of further arguments, if any are accepted.
    pub variadic: Option<Types>,
    /// The signature as documented.
    pub signature: Cow<'static, str>,
    /// What it gives, in the words of a signature; empty when the signature does not say.
    pub returns: Cow<'static, str>,
    /// One paragraph for editors.
    pub doc: Cow<'static, str>,
    /// Chapter of the manual.
    pub group: &'static str,
    /// Tables of the parameters that are options.
    pub options: Vec<OptionTable>,
    /// The code.
    pub code: NativeFn,
    /// Whether some script has called it, for tests; only builds with debug assertions record it.
    pub called: AtomicBool,
}

impl fmt::Debug for FunctionDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature)
    }
}

impl FunctionDef {
    /// A function that runs to completion. `signature` reads
    /// `name(a: string, b: string or array, c?: number, ...rest: any) -> string or none`.
    ///
    /// # Panics
    /// On a malformed signature, which is a mistake in the table of the caller and shows on its first use.
    pub fn pure(signature: &'static str, doc: &'static str, code: PureFn) -> FunctionDef {
        FunctionDef::with_code(signature, doc, NativeFn::Pure(code))
    }

    /// A function that may suspend, call back or end the execution.
    ///
    /// # Panics
    /// As [`pure`](FunctionDef::pure).
    pub fn full<F>(signature: &'static str, doc: &'static str, code: F) -> FunctionDef
    where
        F: Fn(&mut NativeCx<'_>, Args<'_>) -> Result<Outcome, Error> + Send + Sync + 'static,
    {
        FunctionDef::with_code(signature, doc, NativeFn::Full(Arc::new(code)))
    }

    fn with_code(signature: &'static str, doc: &'static str, code: NativeFn) -> FunctionDef {
        let (call, returns) = signature.split_once(" -> ").unwrap_or((signature, ""));
        match FunctionDef::parse(call) {
            Some((name, params, variadic)) => FunctionDef {
                name: Cow::Borrowed(name),
                params,
                variadic,
                signature: Cow::Borrowed(call),
                returns: Cow::Borrowed(returns),
                doc: Cow::Borrowed(doc),
                group: "",
                options: Vec::new(),
                code,
                called: AtomicBool::new(false),
            },
            None => panic!("malformed signature: {signature}"),
        }
    }

    /// A function whose name and parameters are only known at run time (plugins).
    pub fn dynamic<F>(
        name: String,
        params: Vec<Param>,
        variadic: Option<Types>,
        doc: String,
        code: F,
    ) -> FunctionDef
    where
        F: Fn(&mut NativeCx<'_>, Args<'_>) -> Result<Outcome, Error> + Send + Sync + 'static,
    {
        let list: Vec<String> = params.iter().map(|p| format!("{}: {}", p.name, p.types)).collect();
        let signature = format!("{name}({})", list.join(", "));
        FunctionDef {
            name: Cow::Owned(name),
            params,
            variadic,
            signature: Cow::Owned(signature),
            returns: Cow::Borrowed(""),
            doc: Cow::Owned(doc),
            group: "",
            options: Vec::new(),
            code: NativeFn::Full(Arc::new(code)),
            called: AtomicBool::new(false),
        }
    }

    /// Declares the keys of the parameter named `options`.
    ///
    /// # Panics
    /// When there is no such parameter, which is a mistake in the table of the caller and shows on its first use.
    #[must_use]
    pub fn with_options(self, keys: &'static [OptionDef]) -> FunctionDef {
        self.with_options_of("options", keys)
    }

    /// Declares the keys of a parameter.
    ///
    /// # Panics
    /// As [`with_options`](FunctionDef::with_options).
    #[must_use]
    pub fn with_options_of(mut self, param: &str, keys: &'static [OptionDef]) -> FunctionDef {
        match self.params.iter().position(|p| p.name == param) {
            Some(param) => {
                // What is not in the words of a signature is for the function to check.
                let types = keys.iter().map(|o| Types::parse(o.types).unwrap_or(Types::ANY)).collect();
                self.options.push(OptionTable { param, keys, types });
            }
            None => panic!("no parameter {param} in {}", self.signature),
        }
        self
    }

    #[allow(clippy::type_complexity)]
    fn parse(signature: &'static str) -> Option<(&'static str, Vec<Param>, Option<Types>)> {
        let (name, rest) = signature.split_once('(')?;
        let list = rest.strip_suffix(')')?;
        let mut params = Vec::new();
        let mut variadic = None;
        for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, types) = part.split_once(':')?;
            let types = Types::parse(types.trim())?;
            if name.starts_with("...") {
                variadic = Some(types);
                continue;
            }
            let optional = name.ends_with('?');
            params.push(Param { name: Cow::Borrowed(name.trim_end_matches('?')), types, optional });
        }
        Some((name.trim(), params, variadic))
    }

    /// Arguments that must be given.
    pub fn required(&self) -> usize {
        self.params.iter().filter(|p| !p.optional).count()
    }

    /// The arity message, if `argc` arguments do not fit.
    pub(crate) fn check_arity(&self, argc: usize) -> Result<(), String> {
        let max = if self.variadic.is_some() { None } else { Some(self.params.len()) };
        arity_message(&self.name, self.required(), max, argc)
    }

    /// Checks types and converts scalars.
    #[inline(always)]
    pub(crate) fn check_types(&self, args: &mut [Value]) -> Result<(), Error> {
        if cfg!(debug_assertions) {
            self.called.store(true, Ordering::Relaxed);
        }
        let fits = args.len() <= self.params.len()
            && args.iter().zip(&self.params).all(|(value, p)| p.types.contains(Types::of(value)));
        if !fits {
            self.convert(args)?;
        }
        if self.options.is_empty() { Ok(()) } else { self.convert_options(args) }
    }

    /// Checks and converts the values of options: scalars as those of parameters, anything for a boolean by its
    /// truthiness, and none is as if the key were left out.
    #[inline(never)]
    fn convert_options(&self, args: &mut [Value]) -> Result<(), Error> {
        for table in &self.options {
            let Some(Value::Array(array)) = args.get_mut(table.param) else { continue };
            for (option, &types) in table.keys.iter().zip(&table.types) {
                let Some(value) = array.get_str(option.key) else { continue };
                if types.contains(Types::of(value)) || types == Types::BOOLEAN {
                    continue;
                }
                if value.is_none() {
                    array.remove(&Key::from(option.key));
                    continue;
                }
                let mut value = value.clone();
                if !types.coerce(&mut value) {
                    return Err(Error::exception(format!(
                        "Function '{}' expects option '{}' to be {types}, {} given",
                        self.name,
                        option.key,
                        value.type_name()
                    )));
                }
                array.insert_str(option.key, value);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn convert(&self, args: &mut [Value]) -> Result<(), Error> {
        for (i, value) in args.iter_mut().enumerate() {
            let (types, name, optional) = match (self.params.get(i), self.variadic) {
                (Some(p), _) => (p.types, &*p.name, p.optional),
                (None, Some(types)) => (types, "...", false),
                (None, None) => continue,
            };
            if types.contains(Types::of(value)) || (optional && value.is_none()) || types.coerce(value) {
                continue;
            }
            return Err(Error::exception(format!(
                "Function '{}' expects argument {} (${name}) to be {types}, {} given",
                self.name,
                i + 1,
                value.type_name()
            )));
        }
        Ok(())
    }
}

/// `Function 'f' expects 2 arguments, 1 given` and its kin (section 11).
pub(crate) fn arity_message(name: &str, min: usize, max: Option<usize>, given: usize) -> Result<(), String> {
    let bound = match max {
        Some(max) if given > max => (if min == max { "" } else { "at most " }, max),
        _ if given < min => (if max == Some(min) { "" } else { "at least " }, min),
        _ => return Ok(()),
    };
    let plural = if bound.1 == 1 { "" } else { "s" };
    let name = if name.is_empty() { "Anonymous function".to_owned() } else { format!("Function '{name}'") };
    Err(format!("{name} expects {}{} argument{plural}, {given} given", bound.0, bound.1))
}

type MethodFn = dyn Fn(&mut NativeCx<'_>, &Arc<Object>, Args<'_>) -> Result<Outcome, Error> + Send + Sync;

/// A method of a native class.
pub struct NativeMethod {
    /// Name in scripts.
    pub name: Cow<'static, str>,
    /// Parameters and documentation; its code is not used.
    pub def: FunctionDef,
    /// The code.
    pub code: Arc<MethodFn>,
}

/// A class of the library.
pub struct NativeClass {
    /// Name in scripts.
    pub name: Cow<'static, str>,
    /// One paragraph for editors.
    pub doc: &'static str,
    /// Creates an instance; `None` for classes that only the library creates.
    pub constructor: Option<Arc<FunctionDef>>,
    pub(crate) methods: Vec<NativeMethod>,
    pub(crate) statics: BTreeMap<Cow<'static, str>, Arc<FunctionDef>>,
}

impl fmt::Debug for NativeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl NativeClass {
    /// A class without constructor, methods or static functions.
    pub fn new(name: &'static str) -> NativeClass {
        NativeClass {
            name: Cow::Borrowed(name),
            doc: "",
            constructor: None,
            methods: Vec::new(),
            statics: BTreeMap::new(),
        }
    }

    /// Sets the constructor, a function that returns the instance.
    #[must_use]
    pub fn constructor(mut self, def: FunctionDef) -> NativeClass {
        self.constructor = Some(Arc::new(def));
        self
    }

    /// Adds a method.
    ///
    /// # Panics
    /// As [`FunctionDef::pure`].
    #[must_use]
    pub fn method<F>(mut self, signature: &'static str, doc: &'static str, code: F) -> NativeClass
    where
        F: Fn(&mut NativeCx<'_>, &Arc<Object>, Args<'_>) -> Result<Outcome, Error> + Send + Sync + 'static,
    {
        let def = FunctionDef::pure(signature, doc, |_, _| Ok(Value::None));
        self.methods.push(NativeMethod { name: def.name.clone(), def, code: Arc::new(code) });
        self
    }

    /// Declares the keys of the parameter named `options` of the method added last.
    ///
    /// # Panics
    /// As [`FunctionDef::with_options`], and without a method.
    #[must_use]
    pub fn with_options(mut self, keys: &'static [OptionDef]) -> NativeClass {
        match self.methods.pop() {
            Some(mut method) => {
                method.def = method.def.with_options(keys);
                self.methods.push(method);
            }
            None => panic!("class {} has no method yet", self.name),
        }
        self
    }

    /// Sets the documentation.
    #[must_use]
    pub fn doc(mut self, doc: &'static str) -> NativeClass {
        self.doc = doc;
        self
    }

    /// Adds a static function.
    #[must_use]
    pub fn function(mut self, def: FunctionDef) -> NativeClass {
        self.statics.insert(def.name.clone(), Arc::new(def));
        self
    }

    /// The methods in the order they were added.
    pub fn methods(&self) -> impl Iterator<Item = &FunctionDef> {
        self.methods.iter().map(|m| &m.def)
    }

    /// The static functions by name.
    pub fn statics(&self) -> impl Iterator<Item = &Arc<FunctionDef>> {
        self.statics.values()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        self.methods.iter().position(|m| m.name.as_bytes() == name).map(|i| i as u32)
    }
}

/// The functions and classes that a script may use.
#[derive(Default)]
pub struct Registry {
    parent: Option<Arc<Registry>>,
    functions: BTreeMap<Cow<'static, str>, Arc<FunctionDef>>,
    classes: BTreeMap<Cow<'static, str>, Arc<NativeClass>>,
    /// Names of older scripts, with what replaces them.
    old_names: BTreeMap<Cow<'static, str>, Cow<'static, str>>,
    /// Modules `extras://NAME`, with the names of what they export.
    modules: BTreeMap<&'static str, &'static [&'static str]>,
}

impl Registry {
    /// A table with the classes of the language itself (`Exception`).
    pub fn new() -> Registry {
        let mut registry = Registry::default();
        registry.add_class(crate::vm::builtin::exception_class());
        registry
    }

    /// A layer over `parent`; its entries win.
    pub fn child(parent: &Arc<Registry>) -> Registry {
        Registry { parent: Some(Arc::clone(parent)), ..Registry::default() }
    }

    /// Adds or replaces a function.
    pub fn add_function(&mut self, def: FunctionDef) {
        self.functions.insert(def.name.clone(), Arc::new(def));
    }

    /// Adds a function under a name of older scripts: it can be called, but nothing proposes it.
    pub fn add_alias(&mut self, alias: &'static str, name: &'static str) {
        if let Some(def) = self.function(name).cloned() {
            self.functions.insert(Cow::Borrowed(alias), def);
            self.set_old_name(alias, name);
        }
    }

    /// Marks a function as one of older scripts, replaced by another.
    pub fn set_old_name(&mut self, name: &'static str, replaced_by: &'static str) {
        self.old_names.insert(Cow::Borrowed(name), Cow::Borrowed(replaced_by));
    }

    /// What replaces a name of older scripts.
    pub fn replaced_by(&self, name: &str) -> Option<&str> {
        match self.old_names.get(name) {
            Some(new) => Some(new),
            None => self.parent.as_ref()?.replaced_by(name),
        }
    }

    /// Makes functions and classes available as the module `extras://NAME` too.
    pub fn add_module(&mut self, name: &'static str, exports: &'static [&'static str]) {
        self.modules.insert(name, exports);
    }

    /// What the module `extras://NAME` exports.
    pub fn module(&self, name: &str) -> Option<&'static [&'static str]> {
        match self.modules.get(name) {
            Some(exports) => Some(exports),
            None => self.parent.as_ref()?.module(name),
        }
    }

    /// Adds or replaces a class.
    pub fn add_class(&mut self, class: impl Into<Arc<NativeClass>>) {
        let class = class.into();
        self.classes.insert(class.name.clone(), class);
    }

    /// Looks a function up.
    pub fn function(&self, name: &str) -> Option<&Arc<FunctionDef>> {
        self.functions.get(name).or_else(|| self.parent.as_ref()?.function(name))
    }

    /// Looks a class up.
    pub fn class(&self, name: &str) -> Option<&Arc<NativeClass>> {
        self.classes.get(name).or_else(|| self.parent.as_ref()?.class(name))
    }

    /// Names of all functions and classes, for suggestions and editors; without names of older scripts.
    pub fn names(&self) -> Vec<&str> {
        let functions = self.functions().into_iter().map(|def| &*def.name);
        functions.chain(self.classes().into_iter().map(|class| &*class.name)).collect()
    }

    /// All functions by name, without names of older scripts. Upper layers hide what is below them.
    pub fn functions(&self) -> Vec<&Arc<FunctionDef>> {
        let mut all = BTreeMap::new();
        let mut layer = Some(self);
        while let Some(registry) = layer {
            for (name, def) in &registry.functions {
                if !registry.old_names.contains_key(name) {
                    all.entry(name).or_insert(def);
                }
            }
            layer = registry.parent.as_deref();
        }
        all.into_values().collect()
    }

    /// All classes by name. Upper layers hide what is below them.
    pub fn classes(&self) -> Vec<&Arc<NativeClass>> {
        let mut all = BTreeMap::new();
        let mut layer = Some(self);
        while let Some(registry) = layer {
            registry.classes.iter().for_each(|(name, class)| {
                all.entry(name).or_insert(class);
            });
            layer = registry.parent.as_deref();
        }
        all.into_values().collect()
    }
}

/// Calls a native function outside a machine, for tests and host code. Callbacks and waiting are not available.
///
/// # Errors
/// Those of the function, or [`Error::Fatal`] when it wants to suspend or call back.
pub fn call_native(
    def: &FunctionDef,
    args: &mut [Value],
    host: &mut dyn Host,
    shared: &Arc<Shared>,
) -> Result<Value, Error> {
    def.check_arity(args.len()).map_err(Error::exception)?;
    def.check_types(args)?;
    let limits = Limits::default();
    let mut cx = NativeCx::detached(host, shared, &limits);
    match &def.code {
        NativeFn::Pure(f) => f(&mut cx, Args(args)),
        NativeFn::Full(f) => match f(&mut cx, Args(args))? {
            Outcome::Value(v) => Ok(v),
            _ => Err(Error::fatal(format!("{}() needs a running script", def.name))),
        },
    }
}

/// A function value for a native function.
impl From<Arc<FunctionDef>> for Value {
    fn from(def: Arc<FunctionDef>) -> Value {
        Value::Function(Arc::new(Function::native(def)))
    }
}
