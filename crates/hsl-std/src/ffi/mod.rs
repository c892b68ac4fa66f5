//! The class `FFI` (library section C12): functions of C libraries, through libffi. It is off unless the configuration
//! or an option of the shell allows it, because a mistake in its use crashes the process.
//!
//! A call that could be called back runs on a thread of its own while the script waits; other calls run on the thread of
//! the script.

mod raw;

use crate::environment;
use crate::file::{FileObject, Source};
use crate::support::check_string;
use hsl::{
    Args, Array, CallArgs, Continuation, Error, Function as ScriptFunction, FunctionDef, NativeCall,
    NativeClass, NativeCx, NativeObject, Next, Object, Outcome, Resource, Types, Value,
};
use openssl::x509::X509;
use raw::{Argument, Callback, Event, FfiValue, Function, KINDS, Kind, Library, Owner, Running, Shared};
use std::ffi::CString;
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};

/// Longest memory of `FFI::allocate`, bytes.
const ALLOCATE_MAX: i64 = 1 << 30;

struct Loaded(Library);

impl NativeObject for Loaded {}

fn wrap(value: FfiValue) -> Value {
    let shared: Shared = Arc::new(value);
    Value::Resource(Resource::new(shared, false))
}

fn ffi(value: &Value) -> Option<&Shared> {
    match value {
        Value::Resource(resource) => resource.data(),
        _ => None,
    }
}

fn needs_ffi<'a>(args: &'a Args<'_>, i: usize, function: &str) -> Result<&'a Shared, Error> {
    ffi(args.get(i)).ok_or_else(|| {
        Error::exception(format!("FFI::{function}() expects argument {} to be an FFIValue", i + 1))
    })
}

fn kind(value: &Value) -> Result<Kind, Error> {
    match value {
        Value::Resource(resource) => resource.data::<Kind>().copied(),
        _ => None,
    }
    .ok_or_else(|| Error::exception("FFI expects a type made by FFI::type()"))
}

fn kinds(list: &Array) -> Result<Vec<Kind>, Error> {
    let kinds: Vec<Kind> = list.values().map(kind).collect::<Result<_, _>>()?;
    let misplaced = kinds.iter().rev().skip(1).any(|k| *k == Kind::Variadic);
    if kinds.contains(&Kind::Void) || misplaced {
        return Err(Error::exception("FFI: 'void' is no argument, and '...' must be the last one"));
    }
    Ok(kinds)
}

fn allowed(cx: &NativeCx<'_>) -> Result<(), Error> {
    if environment::of(cx).ffi {
        return Ok(());
    }
    Err(Error::exception("FFI is not allowed: set scripting.ffi, or run hsh with -F"))
}

fn none_or<T>(value: Option<T>, wrap: impl FnOnce(T) -> Value) -> Value {
    value.map_or(Value::None, wrap)
}

/// A static function that is refused unless FFI is allowed.
fn guarded(
    signature: &'static str,
    doc: &'static str,
    code: fn(&mut NativeCx<'_>, Args<'_>) -> Result<Value, Error>,
) -> FunctionDef {
    FunctionDef::full(signature, doc, move |cx, args| {
        allowed(cx)?;
        code(cx, args).map(Outcome::Value)
    })
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("FFI")
        .doc("A library of C. Only where the configuration allows it; a mistake in its use crashes the process.")
        .constructor(FunctionDef::pure("FFI(path: string) -> FFI", "Loads a library.", |cx, a| {
            allowed(cx)?;
            let path = a.string(0);
            let library = Library::open(&path.to_text())
                .map_err(|e| Error::exception(format!("FFI: cannot load '{}': {e}", path.to_text())))?;
            Ok(Object::native(&CLASS, Loaded(library)))
        }))
        .method(
            "func(name: string, arguments: array, returntype: FFIType) -> FFIFunction or none",
            "A function of the library; none when there is no such.",
            |cx, o, a| {
                allowed(cx)?;
                let (arguments, result) = (kinds(&a.array(1))?, kind(a.get(2))?);
                if result == Kind::Variadic {
                    return Err(Error::exception("FFI: '...' is no result"));
                }
                let Some(address) = this(o)?.symbol(a.bytes(0)) else { return Ok(Value::None.into()) };
                let name = a.string(0).to_text().into_owned();
                Ok(callable(name, Function { address, arguments, result }).into())
            },
        )
        .method("symbol(name: string) -> FFIValue or none", "The address of a symbol.", |cx, o, a| {
            allowed(cx)?;
            let address = this(o)?.symbol(a.bytes(0));
            Ok(none_or(address, |at| wrap(FfiValue::pointer(at, Owner::Nobody))).into())
        });
    Arc::new(statics(class))
});

fn statics(class: NativeClass) -> NativeClass {
    class
        .function(guarded("type(name: string) -> FFIType", "A type of C.", |_, a| {
            let name = a.string(0);
            let found = KINDS.iter().find(|(n, _)| n.as_bytes() == name.as_bytes());
            let found = found.map(|(_, kind)| Value::Resource(Resource::new(*kind, false)));
            found.ok_or_else(|| {
                let known: Vec<&str> = KINDS.iter().map(|(n, _)| *n).collect();
                Error::exception(format!("FFI: unknown type '{}', expected {}", name.to_text(), known.join(", ")))
            })
        }))
        .function(guarded("cnumber(type: FFIType, number: number) -> FFIValue", "A number of C.", |_, a| {
            let kind = kind(a.get(0))?;
            if matches!(kind, Kind::Void | Kind::Variadic) {
                return Err(Error::exception("FFI::cnumber() expects a type of numbers"));
            }
            Ok(wrap(FfiValue::new(kind, kind.bits(a.number(1)), Owner::Nobody)))
        }))
        .function(guarded("cstring(value: string) -> FFIValue", "A copy of a text, with NUL behind it.", |_, a| {
            raw::cstring(a.bytes(0)).map(wrap).ok_or_else(|| Error::too_large("FFI::cstring"))
        }))
        .function(guarded("nullptr() -> FFIValue", "The null pointer.", |_, _| {
            Ok(wrap(FfiValue::pointer(0, Owner::Nobody)))
        }))
        .function(guarded("allocate(size: number) -> FFIValue", "Zeroed memory.", |_, a| {
            let size = a.integer(0)?;
            if !(0..=ALLOCATE_MAX).contains(&size) {
                return Err(Error::exception(format!("FFI::allocate(): expected 0 to {ALLOCATE_MAX} bytes")));
            }
            raw::allocate(size as usize).map(wrap).ok_or_else(|| Error::too_large("FFI::allocate"))
        }))
        .function(guarded(
            "callback(arguments: array, returntype: FFIType, function: function) -> FFIValue",
            "A function pointer that calls a script function, while a call of the script runs and the value lives.",
            |_, a| {
                let (arguments, result) = (kinds(&a.array(0))?, kind(a.get(1))?);
                if arguments.contains(&Kind::Variadic) || result == Kind::Variadic {
                    return Err(Error::exception("FFI::callback() has no '...'"));
                }
                let value = Callback::value(a.get(2).clone(), arguments, result);
                value.map(wrap).map_err(|e| Error::exception(format!("FFI::callback(): {e}")))
            },
        ))
        .function(guarded(
            "memcpy(pointer: FFIValue, data: string) -> FFIValue",
            "Copies bytes to where a pointer points.",
            |_, a| {
                if !raw::copy(needs_ffi(&a, 0, "memcpy")?, a.bytes(1)) {
                    return Err(Error::exception("FFI::memcpy() expects a pointer that is not null"));
                }
                Ok(a.get(0).clone())
            },
        ))
        .function(guarded("byref(value: FFIValue) -> FFIValue", "A pointer to a copy of a value.", |_, a| {
            Ok(wrap(raw::byref(needs_ffi(&a, 0, "byref")?)))
        }))
        .function(guarded(
            "deref(value: FFIValue, type?: FFIType) -> FFIValue or none",
            "The value that a pointer points to; none for the null pointer.",
            |_, a| {
                let kind = if a.given(1).is_some() { kind(a.get(1))? } else { Kind::Pointer };
                let bits = raw::deref(needs_ffi(&a, 0, "deref")?, kind);
                // What the pointer owns stays while the new value lives.
                let kept = Owner::Values(vec![a.get(0).clone()]);
                Ok(none_or(bits, |bits| wrap(FfiValue::new(kind, bits, kept))))
            },
        ))
        .function(guarded("offset(pointer: FFIValue, n: number) -> FFIValue", "The pointer plus bytes.", |_, a| {
            let n = a.integer(1)?;
            let base = needs_ffi(&a, 0, "offset")?;
            let kept = Owner::Values(vec![a.get(0).clone()]);
            Ok(wrap(FfiValue::new(Kind::Pointer, base.bits.wrapping_add_signed(n), kept)))
        }))
        .function(guarded(
            "string(pointer: FFIValue, size?: number) -> string or none",
            "The bytes at a pointer: so many, or up to NUL.",
            |_, a| {
                let size = match a.given(1) {
                    Some(_) => Some(
                        usize::try_from(a.integer(1)?)
                            .map_err(|_| Error::exception("FFI::string() expects a size of 0 or more"))?,
                    ),
                    None => None,
                };
                check_string("FFI::string", size.unwrap_or(0))?;
                Ok(raw::read(needs_ffi(&a, 0, "string")?, size).into())
            },
        ))
        .function(guarded("number(value: FFIValue) -> number", "The number of a value.", |_, a| {
            let value = needs_ffi(&a, 0, "number")?;
            Ok(value.kind.number(value.bits).into())
        }))
        .function(guarded(
            "number64(value: FFIValue) -> array",
            "The upper and lower 32 bits of a value, in two's complement.",
            |_, a| {
                let value = needs_ffi(&a, 0, "number64")?;
                let wide = value.kind.wide(value.bits);
                Ok(vec![Value::from((wide >> 32) as u32), Value::from(wide as u32)].into())
            },
        ))
        .function(guarded(
            "attach(pointer: FFIValue, destructor?: FFIValue) -> FFIValue",
            "Frees what a pointer points to with the value, by `free` or a function pointer.",
            |_, a| {
                let destructor = match a.given(1) {
                    Some(_) => Some(needs_ffi(&a, 1, "attach")?).filter(|d| d.bits != 0),
                    None => None,
                };
                if !raw::attach(needs_ffi(&a, 0, "attach")?, destructor.map(|d| &**d)) {
                    return Err(Error::exception("FFI::attach() expects a pointer that owns nothing and is not null"));
                }
                Ok(a.get(0).clone())
            },
        ))
        .function(guarded(
            "detach(pointer: FFIValue) -> FFIValue",
            "Leaves what a pointer points to when the value goes.",
            |_, a| {
                raw::detach(needs_ffi(&a, 0, "detach")?);
                Ok(a.get(0).clone())
            },
        ))
}

fn this(object: &Arc<Object>) -> Result<&Library, Error> {
    object.data::<Loaded>().map(|l| &l.0).ok_or_else(|| Error::exception("Not an FFI"))
}

/// A value that can be called.
fn callable(name: String, function: Function) -> Value {
    let code = move |_: &mut NativeCx<'_>, args: Args<'_>| call(&function, &args);
    let doc = "A function of C.".to_owned();
    let def = FunctionDef::dynamic(name, Vec::new(), Some(Types::ANY), doc, code);
    Value::Function(Arc::new(ScriptFunction::native(Arc::new(def))))
}

fn argument(declared: Option<Kind>, value: &Value, at: usize) -> Result<Argument, Error> {
    let wrong = |expected: &str| {
        Err(Error::exception(format!(
            "FFI: argument {} expects {expected}, {} given",
            at + 1,
            value.type_name()
        )))
    };
    match (declared, value) {
        (None | Some(Kind::Variadic), value) => match ffi(value) {
            Some(v) => Ok(Argument::Bits(v.kind, v.bits)),
            None => wrong("an FFIValue"),
        },
        (Some(kind), Value::Resource(_)) => match ffi(value) {
            Some(v) if (kind == Kind::Pointer) == (v.kind == Kind::Pointer) => {
                let bits = if kind == v.kind || kind == Kind::Pointer {
                    v.bits
                } else if matches!(kind, Kind::Float | Kind::Double)
                    || matches!(v.kind, Kind::Float | Kind::Double)
                {
                    kind.bits(v.kind.number(v.bits))
                } else {
                    kind.cut(v.kind.wide(v.bits))
                };
                Ok(Argument::Bits(kind, bits))
            }
            _ => wrong(if kind == Kind::Pointer { "a pointer" } else { "a number" }),
        },
        (Some(Kind::Pointer), Value::None) => Ok(Argument::Bits(Kind::Pointer, 0)),
        (Some(Kind::Pointer), Value::Str(text)) => {
            // C would see the text only up to the NUL.
            CString::new(text.as_bytes()).map(Argument::Text).or_else(|_| wrong("a text without NUL"))
        }
        (Some(Kind::Pointer), _) => wrong("a string, none or a pointer"),
        (Some(kind), Value::Number(n)) => Ok(Argument::Bits(kind, kind.bits(*n))),
        (Some(kind), Value::Bool(b)) => Ok(Argument::Bits(kind, kind.bits(f64::from(u8::from(*b))))),
        (Some(_), _) => wrong("a number"),
    }
}

fn call(function: &Function, args: &Args<'_>) -> Result<Outcome, Error> {
    let fixed = function.arguments.iter().take_while(|k| **k != Kind::Variadic).count();
    let variadic = fixed < function.arguments.len();
    if args.len() < fixed || (!variadic && args.len() > fixed) {
        return Err(Error::exception(format!("FFI: expected {fixed} arguments, {} given", args.len())));
    }
    let declared = |i: usize| function.arguments.get(i).copied();
    let list: Vec<Argument> = args
        .as_slice()
        .iter()
        .enumerate()
        .map(|(i, v)| argument(declared(i), v, i))
        .collect::<Result<_, _>>()?;
    if !raw::has_callbacks() {
        let bits = function.call(&list).map_err(|e| Error::exception(format!("FFI: {e}")))?;
        return Ok(result(function.result, bits).into());
    }
    let kept = args.as_slice().to_vec();
    let running = Running::start(function.clone(), list, kept)
        .map_err(|e| Error::exception(format!("FFI: no thread for the call: {e}")))?;
    let mut state = Calling { running, result: function.result, wanted: None };
    Ok(match state.wait()? {
        Next::Value(value) => Outcome::Value(value),
        Next::Call(function, args) => {
            Outcome::Call(Box::new(NativeCall { function, args, then: Box::new(state) }))
        }
        _ => return Err(Error::fatal("FFI: nothing to wait for")),
    })
}

fn result(kind: Kind, bits: u64) -> Value {
    match kind {
        Kind::Void => Value::None,
        Kind::Pointer if bits == 0 => Value::None,
        kind => wrap(FfiValue::new(kind, bits, Owner::Nobody)),
    }
}

/// A call on a thread of its own, answered by script functions.
struct Calling {
    running: Running,
    result: Kind,
    /// Type of the result that the callback owes.
    wanted: Option<Kind>,
}

impl Calling {
    /// Blocks until C calls back or returns, as a call of C blocks.
    fn wait(&mut self) -> Result<Next, Error> {
        match self.running.events.recv() {
            Ok(Event::Callback { function, arguments, result }) => {
                self.wanted = Some(result);
                let list: Vec<Value> = arguments
                    .into_iter()
                    .map(|(kind, bits)| wrap(FfiValue::new(kind, bits, Owner::Nobody)))
                    .collect();
                Ok(Next::Call(function, CallArgs::from(list)))
            }
            Ok(Event::Returned(Ok(bits))) => Ok(Next::Value(result(self.result, bits))),
            Ok(Event::Returned(Err(error))) => Err(Error::exception(format!("FFI: {error}"))),
            Err(_) => Err(Error::exception("FFI: the call ended without a result")),
        }
    }
}

impl Continuation for Calling {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        let bits = match self.wanted.take() {
            None | Some(Kind::Void) => 0,
            Some(kind) => match argument(Some(kind), &result, 0) {
                Ok(Argument::Bits(_, bits)) => bits,
                // A text would be gone before C could read it.
                Ok(Argument::Text(_)) => {
                    return Err(Error::exception("FFI: a callback gives texts by FFI::cstring()"));
                }
                Err(error) => return Err(error),
            },
        };
        self.running.answer(bits);
        self.wait()
    }
}

/// `X509.toFFIValue()`.
pub(crate) fn certificate_pointer(cx: &NativeCx<'_>, object: &Arc<Object>, certificate: &X509) -> Value {
    if allowed(cx).is_err() {
        return Value::None;
    }
    let kept = Owner::Values(vec![Value::Object(Arc::clone(object))]);
    wrap(FfiValue::pointer(raw::certificate_address(certificate), kept))
}

/// `Socket.toFFIValue()`.
pub(crate) fn descriptor(cx: &NativeCx<'_>, object: &Arc<Object>, descriptor: i32) -> Value {
    if allowed(cx).is_err() {
        return Value::None;
    }
    let kept = Owner::Values(vec![Value::Object(Arc::clone(object))]);
    wrap(FfiValue::new(Kind::S32, Kind::S32.bits(f64::from(descriptor)), kept))
}

/// `File.toFFIValue()`: a stream with the content and the position. On disk both share the position, as far as the
/// stream's buffer lets them.
pub(crate) fn file_pointer(cx: &NativeCx<'_>, file: &FileObject) -> Value {
    if allowed(cx).is_err() {
        return Value::None;
    }
    let stream = file.with(|source| match source {
        Source::Closed => None,
        Source::Disk(file, _) => raw::stream_over(OwnedFd::from(file.try_clone().ok()?)),
        Source::Memory(cursor) => {
            let position = cursor.stream_position().ok()?;
            raw::stream_of(cursor.get_ref(), position)
        }
        Source::Content(reader) => {
            // C wants the bytes in one place.
            let position = reader.stream_position().ok()?;
            let mut bytes = Vec::new();
            reader.rewind().ok()?;
            reader.read_to_end(&mut bytes).ok()?;
            reader.seek(std::io::SeekFrom::Start(position)).ok()?;
            raw::stream_of(&bytes, position)
        }
    });
    none_or(stream, wrap)
}

/// The classes of the group.
pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    vec![Arc::clone(&CLASS)]
}
