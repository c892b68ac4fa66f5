//! What the instructions of the dispatch loop do off their fast paths.

use super::Machine;
use super::access::{self, Inside};
use super::frame_stack::Mode;
use super::frames::{Flow, WINDOW, call_native_method, call_value, push_call};
use crate::array::Array;
use crate::ast::BinaryOp;
use crate::error::Error;
use crate::number::{INTEGER_DIGITS_MAX, exact_integer, integer_digits, write_number};
use crate::object::{Function, FunctionKind, Object, ObjectKind};
use crate::ops;
use crate::probe::Reached;
use crate::program::{ClassDef, Path, Program, Proto, Reg, Root};
use crate::registry::BoxFuture;
use crate::string::Str;
use crate::value::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The registers of a call.
pub(super) type Regs = [Value; WINDOW];

#[inline(always)]
pub(super) fn window(stack: &mut [Value], base: usize) -> Result<&mut Regs, Error> {
    // Every push reserves a whole window.
    stack
        .get_mut(base..)
        .and_then(|s| s.first_chunk_mut())
        .ok_or_else(|| Error::fatal("Register window is missing"))
}

#[cold]
pub(super) fn undefined(proto: &Proto, reg: Reg) -> Error {
    match proto.names.get(usize::from(reg)) {
        Some(name) => {
            let hint = proto.near(name);
            Error::exception(format!("Undefined variable ${name}{hint}"))
        }
        None => Error::exception("Value is missing"),
    }
}

/// Reads a register: temporaries are moved out, variables are copied.
#[inline(always)]
pub(super) fn fetch(regs: &mut Regs, src: Reg, proto: &Proto) -> Result<Value, Error> {
    if usize::from(src) >= proto.names.len() {
        return Ok(std::mem::replace(&mut regs[usize::from(src)], Value::Undef));
    }
    match &regs[usize::from(src)] {
        Value::Number(n) => Ok(Value::Number(*n)),
        Value::Undef => Err(undefined(proto, src)),
        other => Ok(other.clone()),
    }
}

#[inline(always)]
pub(super) fn defined<'r>(regs: &'r Regs, reg: Reg, proto: &Proto) -> Result<&'r Value, Error> {
    match &regs[usize::from(reg)] {
        Value::Undef => Err(undefined(proto, reg)),
        v => Ok(v),
    }
}

#[inline(always)]
pub(super) fn set_number(regs: &mut Regs, dst: Reg, n: f64) {
    regs[usize::from(dst)].put(Value::Number(n));
}

/// Computes what a function gives that needs no frame; false where it takes the call.
#[inline(never)]
pub(super) fn call_leaf(regs: &mut Regs, callee: &Proto, dst: Reg, start: Reg, argc: u8) -> bool {
    let first = usize::from(start);
    let Some(leaf) = callee.leaf else { return false };
    let Some(args) = regs.get_mut(first..first + usize::from(argc)) else { return false };
    let Some(value) = leaf.apply(args) else { return false };
    for v in args {
        v.put(Value::Undef);
    }
    regs[usize::from(dst)].put(value);
    true
}

/// The call of such a function with operands it cannot compute at once.
#[cold]
pub(super) fn call_anyway(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    slot: usize,
    callee: &Proto,
    index: u32,
    at: usize,
    dst: Reg,
) -> Result<Flow, Error> {
    let argc = usize::from(callee.params);
    push_call(m, stack, slot as u16, callee, index, at, argc, None, dst, Mode::Value)?;
    Ok(Flow::Continue)
}

#[inline(never)]
pub(super) fn copy_register(regs: &mut Regs, dst: Reg, src: Reg) {
    regs[usize::from(dst)] = regs[usize::from(src)].clone();
}

/// A binary operation off the fast path; in place when the target is the left operand.
#[inline(never)]
pub(super) fn binary_slow(
    regs: &mut Regs,
    op: BinaryOp,
    dst: Reg,
    a: Reg,
    b: Reg,
    proto: &Proto,
) -> Result<(), Error> {
    defined(regs, a, proto)?;
    defined(regs, b, proto)?;
    if dst == a && a != b {
        let mut left = std::mem::take(&mut regs[usize::from(a)]);
        let result = ops::assign(op, &mut left, &regs[usize::from(b)]);
        regs[usize::from(a)] = left;
        return result;
    }
    regs[usize::from(dst)] = ops::binary(op, &regs[usize::from(a)], &regs[usize::from(b)])?;
    Ok(())
}

#[inline(never)]
pub(super) fn int_slow(
    regs: &mut Regs,
    op: BinaryOp,
    dst: Reg,
    a: Reg,
    n: i32,
    proto: &Proto,
) -> Result<(), Error> {
    defined(regs, a, proto)?;
    let right = Value::Number(f64::from(n));
    if dst == a {
        return ops::assign(op, &mut regs[usize::from(a)], &right);
    }
    regs[usize::from(dst)] = ops::binary(op, &regs[usize::from(a)], &right)?;
    Ok(())
}

#[inline(never)]
pub(super) fn concat(regs: &mut Regs, start: Reg, count: u8, interpolated: bool) -> Result<Value, Error> {
    let parts = &mut regs[usize::from(start)..usize::from(start) + usize::from(count)];
    let mut total = 0;
    let mut none = false;
    for p in parts.iter() {
        match p {
            Value::Str(s) => total += s.len(),
            other => {
                none |= other.is_none();
                total += 16;
            }
        }
    }
    if none && !interpolated {
        return Err(concat_none(parts));
    }
    if total <= SHORT {
        let mut out = Short { buf: [0; 2 * SHORT], len: 0 };
        for p in parts.iter_mut() {
            match p {
                Value::Str(s) => out.push(s.as_bytes()),
                Value::Number(n) if let Some(whole) = exact_integer(*n) => {
                    let mut digits = [0; INTEGER_DIGITS_MAX];
                    let at = integer_digits(&mut digits, whole);
                    out.push(&digits[at..]);
                }
                other => {
                    let text = ops::to_str(other)?;
                    if !out.fits(text.len()) {
                        return concat_long(parts, total);
                    }
                    out.push(text.as_bytes());
                }
            }
        }
        for p in parts.iter_mut() {
            p.put(Value::Undef);
        }
        return Ok(Value::Str(Str::from_bytes(&out.buf[..out.len])));
    }
    ops::check_length(total)?;
    concat_long(parts, total)
}

#[cold]
pub(super) fn concat_none(parts: &[Value]) -> Error {
    let i = parts.iter().position(Value::is_none).unwrap_or(0);
    let other = if i == 0 { parts.get(1) } else { parts.first() };
    let other = other.map_or("none", Value::type_name);
    let (a, b) = if i == 0 { ("none", other) } else { (other, "none") };
    Error::exception(format!("Unsupported operand types for .: {a} and {b}"))
}

/// Longest result that is put together on the native stack, bytes, with 16 counted for what is no string.
const SHORT: usize = 48;

/// Room for a short result on the native stack.
struct Short {
    buf: [u8; 2 * SHORT],
    len: usize,
}

impl Short {
    fn fits(&self, more: usize) -> bool {
        // The parts that `total` counted at their full length may still follow.
        self.len + more + SHORT <= self.buf.len()
    }

    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buf.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

pub(super) fn concat_long(parts: &mut [Value], total: usize) -> Result<Value, Error> {
    let mut out = Vec::with_capacity(total);
    for p in parts.iter_mut() {
        match std::mem::replace(p, Value::Undef) {
            Value::Str(s) => out.extend_from_slice(s.as_bytes()),
            Value::Number(n) => write_number(&mut out, n),
            other => ops::write_string(&other, &mut out)?,
        }
    }
    Ok(Value::Str(Str::from_vec(out)))
}

#[inline(never)]
pub(super) fn append(regs: &mut Regs, a: Reg, b: Reg, proto: &Proto) -> Result<(), Error> {
    defined(regs, a, proto)?;
    defined(regs, b, proto)?;
    if a == b {
        let copy = regs[usize::from(b)].clone();
        return ops::append_assign(&mut regs[usize::from(a)], &copy);
    }
    let mut left = std::mem::take(&mut regs[usize::from(a)]);
    let result = match (&mut left, &regs[usize::from(b)]) {
        (Value::Str(s), Value::Str(t)) if s.len() + t.len() < 1 << 16 => {
            s.push_bytes(t.as_bytes());
            Ok(())
        }
        (left, right) => ops::append_assign(left, right),
    };
    regs[usize::from(a)] = left;
    result
}

pub(super) fn compare(
    regs: &Regs,
    a: Reg,
    b: Reg,
    proto: &Proto,
    test: fn(&Value, &Value) -> bool,
) -> Result<bool, Error> {
    Ok(test(defined(regs, a, proto)?, defined(regs, b, proto)?))
}

pub(super) fn run_path(
    m: &mut Machine,
    slot: usize,
    regs: &mut Regs,
    path: &Path,
    src: Value,
    inside: Inside<'_>,
) -> Result<Value, Error> {
    for step in &path.steps {
        if let crate::program::Step::Index(r) = step
            && matches!(regs[usize::from(*r)], Value::Undef)
        {
            return Err(Error::exception("Undefined variable used as key"));
        }
    }
    match path.root {
        Root::Reg(r) => {
            let mut root = std::mem::replace(&mut regs[usize::from(r)], Value::Undef);
            let result = access::path(&mut root, path, regs, src, inside);
            regs[usize::from(r)] = root;
            result
        }
        Root::Global(g) => {
            let state = &mut m.programs[slot];
            check_augmented(&state.globals[g as usize], path, || {
                state.program.global_names[g as usize].to_string()
            })?;
            access::path(&mut state.globals[g as usize], path, regs, src, inside)
        }
        Root::Static(s) => access::path(&mut m.programs[slot].statics[s as usize], path, regs, src, inside),
        Root::Cell(c) => {
            let Some(f) = m.frames.script() else { return Err(Error::fatal("Cell is missing")) };
            let cell = Arc::clone(f.cell(c)?);
            let mut root = std::mem::replace(&mut *cell.0.lock(), Value::Undef);
            let result = check_augmented(&root, path, || {
                m.programs[slot].program.protos[f.proto as usize].cell_names[usize::from(c)].to_string()
            })
            .and_then(|()| access::path(&mut root, path, regs, src, inside));
            *cell.0.lock() = root;
            result
        }
    }
}

/// Changing a variable that does not exist.
pub(super) fn check_augmented(root: &Value, path: &Path, name: impl Fn() -> String) -> Result<(), Error> {
    if path.steps.is_empty()
        && matches!(root, Value::Undef)
        && matches!(path.op, crate::program::PathOp::Augment(_) | crate::program::PathOp::Increment { .. })
    {
        return Err(Error::exception(format!("Undefined variable ${}", name())));
    }
    Ok(())
}

/// Tells the observer, if there is one; the future that it wants to wait for.
#[cold]
#[inline(never)]
pub(super) fn probe(m: &mut Machine, stack: &[Value], slot: usize, index: u32) -> Option<BoxFuture> {
    let mut observer = m.observer.take()?;
    let at = Reached { slot, index, frames: &m.frames, programs: &m.programs, stack };
    let future = observer.reached(&at);
    m.observer = Some(observer);
    future
}

pub(super) fn function(kind: FunctionKind) -> Value {
    Value::Function(Arc::new(Function(kind)))
}

pub(super) fn no_member(v: &Value) -> Error {
    Error::exception(format!("Cannot access a member of {}", v.type_name()))
}

#[inline(always)]
pub(super) fn compare_const(regs: &Regs, a: Reg, k: u16, proto: &Proto, strict: bool) -> Result<bool, Error> {
    let (left, right) = (&regs[usize::from(a)], &proto.consts[usize::from(k)]);
    if let Value::Number(x) = left
        && let Value::Number(y) = right
    {
        return Ok(if strict { x < y } else { x <= y });
    }
    compare_slow(regs, a, proto, right, strict)
}

#[inline(never)]
pub(super) fn compare_slow(
    regs: &Regs,
    a: Reg,
    proto: &Proto,
    right: &Value,
    strict: bool,
) -> Result<bool, Error> {
    let left = defined(regs, a, proto)?;
    Ok(if strict { ops::less(left, right) } else { ops::less_or_equal(left, right) })
}

#[inline(never)]
pub(super) fn set_index(
    regs: &mut Regs,
    base: Reg,
    key: Reg,
    value: Value,
    inside: Inside<'_>,
    proto: &Proto,
) -> Result<(), Error> {
    let mut root = std::mem::replace(&mut regs[usize::from(base)], Value::Undef);
    let result = match &mut root {
        Value::Object(object) => match defined(regs, key, proto) {
            Ok(key) => access::set_property(object, key, value, inside),
            Err(e) => Err(e),
        },
        Value::Array(array) => defined(regs, key, proto).and_then(ops::key).map(|key| {
            array.insert(key, value);
        }),
        Value::Undef | Value::None | Value::Bool(_) | Value::Number(_) => {
            defined(regs, key, proto).and_then(ops::key).map(|key| {
                let mut array = Array::new();
                array.insert(key, value);
                root = Value::Array(array);
            })
        }
        other => Err(Error::exception(format!("Cannot use subscript on {} for writing", other.type_name()))),
    };
    regs[usize::from(base)] = root;
    result
}

/// Puts the arguments of a spread call into the registers behind the callee.
pub(super) fn place_args(stack: &mut Vec<Value>, at: usize, args: Vec<Value>) -> Result<usize, Error> {
    let argc = args.len();
    if argc > 1 << 20 {
        return Err(Error::exception("Too many arguments"));
    }
    super::frames::reserve(stack, at + argc);
    for (slot, value) in stack[at..].iter_mut().zip(args) {
        *slot = value;
    }
    Ok(argc)
}

/// Calls a method of the object at `at`; the arguments follow it.
#[allow(clippy::too_many_arguments)]
pub(super) fn call_method(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    program: &Arc<Program>,
    slot: usize,
    proto: &Proto,
    at: usize,
    argc: usize,
    k: u32,
    dst: Reg,
) -> Result<Flow, Error> {
    let name = &proto.consts[k as usize];
    let simple = match (&stack[at], name) {
        (Value::Object(object), Value::Str(name)) => match &object.0 {
            ObjectKind::Script { program: owner, class, .. } if Arc::ptr_eq(owner, program) => {
                class.methods.get(name).filter(|m| !m.private).map(|m| m.proto)
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(method) = simple {
        let callee = &program.protos[method as usize];
        push_call(m, stack, slot as u16, callee, method, at, argc, None, dst, Mode::Value)?;
        return Ok(Flow::Continue);
    }
    let object = match &stack[at] {
        Value::Object(object) => Arc::clone(object),
        other => return Err(no_member(other)),
    };
    let text = name.as_str_bytes().unwrap_or_default();
    match &object.0 {
        ObjectKind::Script { program: owner, class, .. } => {
            let inside = proto.class.map(|c| &program.classes[c as usize]);
            if let Some(method) = class.methods.get(text) {
                if method.private && !inside.is_some_and(|c| Arc::ptr_eq(c, class)) {
                    return Err(Error::exception(format!(
                        "Cannot access private member '{}' of class '{}'",
                        String::from_utf8_lossy(text),
                        class.name
                    )));
                }
                if Arc::ptr_eq(owner, program) {
                    let callee = &program.protos[method.proto as usize];
                    push_call(m, stack, slot as u16, callee, method.proto, at, argc, None, dst, Mode::Value)?;
                    return Ok(Flow::Continue);
                }
            }
            let value = access::property(&object, name, inside)?;
            if value.is_none() {
                return Err(no_method(&object, text));
            }
            stack[at] = Value::Undef;
            call_value(m, stack, &value, at, argc, dst)
        }
        ObjectKind::Native { class, .. } => match class.find(text) {
            Some(method) => call_native_method(m, stack, &object, method, at + 1, argc, dst),
            None => Err(no_method(&object, text)),
        },
        ObjectKind::Generator(_) if text == b"next" => {
            call_native_method(m, stack, &object, 0, at + 1, argc, dst)
        }
        ObjectKind::Generator(_) => Err(no_method(&object, text)),
    }
}

/// Looks a public method up and notes where it is; 0 when there is none.
#[cold]
pub(super) fn remember_method(found: &AtomicU64, class: &ClassDef, name: &Value) -> u64 {
    let method = name.as_str_bytes().and_then(|n| class.methods.get(n)).filter(|m| !m.private);
    let hit = method.map_or(0, |m| (u64::from(class.index) + 1) << 32 | u64::from(m.proto));
    found.store(hit, Relaxed);
    hit
}

pub(super) fn no_method(object: &Object, name: &[u8]) -> Error {
    let text = String::from_utf8_lossy(name);
    let hint = match &object.0 {
        ObjectKind::Script { class, .. } => {
            let names: Vec<String> = class.methods.keys().map(|k| k.to_text().into_owned()).collect();
            crate::diag::hint(&text, "", names.iter().map(|n| &**n))
        }
        ObjectKind::Native { class, .. } => {
            crate::diag::hint(&text, "", class.methods.iter().map(|m| &*m.name))
        }
        ObjectKind::Generator(_) => crate::diag::hint(&text, "", ["next"].into_iter()),
    };
    Error::exception(format!("Class '{}' has no function '{text}'{hint}", object.class_name()))
}
