//! Reading and writing elements and properties, and writes through paths.

use crate::array::Array;
use crate::error::Error;
use crate::object::{Function, FunctionKind, Object, ObjectKind};
use crate::ops;
use crate::program::{ClassDef, Path, PathOp, Step};
use crate::value::Value;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Class whose private members the running code may use.
pub(crate) type Inside<'a> = Option<&'a Arc<ClassDef>>;

fn same_class(inside: Inside<'_>, class: &Arc<ClassDef>) -> bool {
    inside.is_some_and(|c| Arc::ptr_eq(c, class))
}

fn check_read(class: &Arc<ClassDef>, name: &[u8], inside: Inside<'_>) -> Result<(), Error> {
    if let Some(guard) = class.guarded.get(name)
        && guard.private
        && !same_class(inside, class)
    {
        return Err(private(class, name));
    }
    Ok(())
}

fn private(class: &ClassDef, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::exception(format!("Cannot access private member '{name}' of class '{}'", class.name))
}

fn check_write(class: &Arc<ClassDef>, name: &[u8], inside: Inside<'_>) -> Result<(), Error> {
    match class.guarded.get(name) {
        Some(guard) if !same_class(inside, class) => {
            if guard.private {
                return Err(private(class, name));
            }
            let name = String::from_utf8_lossy(name);
            Err(Error::exception(format!("Cannot write readonly member '{name}' of class '{}'", class.name)))
        }
        _ => Ok(()),
    }
}

/// The value of `object->name` if it is a number that may be read. `spot` is where the name was found last.
#[inline]
pub(crate) fn number_member(
    object: &Arc<Object>,
    name: &Value,
    spot: &AtomicU32,
    inside: Inside<'_>,
) -> Option<f64> {
    if let ObjectKind::Script { class, props, .. } = &object.0
        && let Value::Str(text) = name
        && (class.guarded.is_empty() || same_class(inside, class))
        && let Some(Value::Number(n)) = props.lock().get_ident(text, spot)
    {
        return Some(*n);
    }
    None
}

/// `object->name = n` if the property exists and may be written; false when it has to be done the long way.
#[inline]
pub(crate) fn set_number_member(
    object: &Arc<Object>,
    name: &Value,
    spot: &AtomicU32,
    n: f64,
    inside: Inside<'_>,
) -> bool {
    if let ObjectKind::Script { class, props, .. } = &object.0
        && let Value::Str(text) = name
        && (class.guarded.is_empty() || same_class(inside, class))
        && let Some(slot) = props.lock().get_ident_mut(text, spot)
    {
        slot.put(Value::Number(n));
        return true;
    }
    false
}

/// `object->name`: the quick way for the properties of a class without restrictions.
#[inline]
pub(crate) fn member(
    object: &Arc<Object>,
    name: &Value,
    spot: &AtomicU32,
    inside: Inside<'_>,
) -> Result<Value, Error> {
    if let ObjectKind::Script { class, props, .. } = &object.0
        && let Value::Str(text) = name
        && (class.guarded.is_empty() || same_class(inside, class))
        && let Some(value) = props.lock().get_ident(text, spot)
    {
        return Ok(value.clone());
    }
    property(object, name, inside)
}

/// `object->name = value`, as [`member`].
#[inline]
pub(crate) fn set_member(
    object: &Arc<Object>,
    name: &Value,
    spot: &AtomicU32,
    value: Value,
    inside: Inside<'_>,
) -> Result<(), Error> {
    if let ObjectKind::Script { class, props, .. } = &object.0
        && let Value::Str(text) = name
        && (class.guarded.is_empty() || same_class(inside, class))
    {
        let mut props = props.lock();
        if let Some(slot) = props.get_ident_mut(text, spot) {
            // No destructor of a value takes a lock.
            slot.put(value);
            return Ok(());
        }
    }
    set_property(object, name, value, inside)
}

/// `object->name` or `object["name"]`: a property, else a method bound to the object, else none.
pub(crate) fn property(object: &Arc<Object>, key: &Value, inside: Inside<'_>) -> Result<Value, Error> {
    match &object.0 {
        ObjectKind::Script { program, class, props } => {
            let Value::Str(name) = key else {
                let key = ops::key(key)?;
                return Ok(props.lock().get(&key).cloned().unwrap_or_default());
            };
            if !class.guarded.is_empty() {
                check_read(class, name.as_bytes(), inside)?;
            }
            if let Some(value) = props.lock().get_name(name) {
                return Ok(value.clone());
            }
            match class.methods.get(name) {
                Some(m) if m.private && !same_class(inside, class) => Err(private(class, name.as_bytes())),
                Some(m) => Ok(Value::Function(Arc::new(Function(FunctionKind::Script {
                    program: Arc::clone(program),
                    proto: m.proto,
                    captures: Box::default(),
                    this: Some(Arc::clone(object)),
                    closure: false,
                })))),
                None => Ok(Value::None),
            }
        }
        ObjectKind::Native { class, .. } => {
            let method = key.as_str_bytes().and_then(|name| class.find(name));
            Ok(method.map_or(Value::None, |method| bound(object, method)))
        }
        ObjectKind::Generator(_) => Ok(match key.as_str_bytes() {
            Some(b"next") => bound(object, 0),
            _ => Value::None,
        }),
    }
}

fn bound(object: &Arc<Object>, method: u32) -> Value {
    Value::Function(Arc::new(Function(FunctionKind::NativeMethod { object: Arc::clone(object), method })))
}

/// `isset(object->name)`.
pub(crate) fn has_property(object: &Arc<Object>, key: &Value, inside: Inside<'_>) -> bool {
    match &object.0 {
        ObjectKind::Script { class, props, .. } => {
            if let Value::Str(name) = key
                && check_read(class, name.as_bytes(), inside).is_err()
            {
                return false;
            }
            props.lock().get_value(key).is_some()
        }
        ObjectKind::Native { class, .. } => key.as_str_bytes().is_some_and(|n| class.find(n).is_some()),
        ObjectKind::Generator(_) => false,
    }
}

/// `object->name = value`.
pub(crate) fn set_property(
    object: &Arc<Object>,
    key: &Value,
    value: Value,
    inside: Inside<'_>,
) -> Result<(), Error> {
    let ObjectKind::Script { class, props, .. } = &object.0 else {
        return Err(Error::exception(format!("Cannot write a member of class '{}'", object.class_name())));
    };
    if let Value::Str(name) = key
        && !class.guarded.is_empty()
    {
        check_write(class, name.as_bytes(), inside)?;
    }
    if let Value::Str(name) = key
        && let Some(slot) = props.lock().get_ident_mut(name, &AtomicU32::new(0))
    {
        // No destructor of a value takes a lock.
        slot.put(value);
        return Ok(());
    }
    let key = ops::key(key)?;
    let old = props.lock().insert(key, value);
    drop(old);
    Ok(())
}

/// `base[key]`.
pub(crate) fn index(base: &Value, key: &Value, inside: Inside<'_>) -> Result<Value, Error> {
    match base {
        Value::Object(object) => property(object, key, inside),
        base => ops::index(base, key),
    }
}

/// `base[key]` without errors: what is missing or cannot be read is none.
pub(crate) fn index_quiet(base: &Value, key: &Value, inside: Inside<'_>) -> Value {
    if key.is_none() && matches!(key, Value::Undef) {
        return Value::None;
    }
    index(base, key, inside).unwrap_or_default()
}

/// `isset(base[key])`.
pub(crate) fn has_index(base: &Value, key: &Value, inside: Inside<'_>) -> bool {
    match base {
        Value::Array(a) => a.get_value(key).is_some(),
        Value::Str(_) => ops::index(base, key).is_ok_and(|v| !v.is_none()),
        Value::Object(o) => has_property(o, key, inside),
        _ => false,
    }
}

enum Walked {
    Done(Value),
    /// The path goes on inside this object at this step.
    Object(Arc<Object>, usize),
}

/// Performs a path operation; `root` is changed in place. The value is the result for the destination register.
pub(crate) fn path(
    root: &mut Value,
    path: &Path,
    regs: &[Value],
    src: Value,
    inside: Inside<'_>,
) -> Result<Value, Error> {
    let mut src = Some(src);
    let mut walked = walk(root, path, 0, false, regs, &mut src)?;
    loop {
        let (object, at) = match walked {
            Walked::Done(value) => return Ok(value),
            Walked::Object(object, at) => (object, at),
        };
        let ObjectKind::Script { class, props, .. } = &object.0 else {
            return Err(Error::exception(format!(
                "Cannot write a member of class '{}'",
                object.class_name()
            )));
        };
        if let Some(Step::Index(key)) = path.steps.get(at)
            && let Value::Str(name) = &regs[usize::from(*key)]
            && !class.guarded.is_empty()
        {
            check_write(class, name.as_bytes(), inside)?;
        }
        // Nothing else of this execution runs until the properties are back.
        let mut inner = Value::Array(std::mem::take(&mut *props.lock()));
        let result = walk(&mut inner, path, at, true, regs, &mut src);
        if let Value::Array(back) = inner {
            let empty = std::mem::replace(&mut *props.lock(), back);
            drop(empty);
        }
        walked = result?;
    }
}

fn missing() -> Error {
    Error::exception("Cannot change a missing element")
}

fn walk(
    root: &mut Value,
    path: &Path,
    from: usize,
    in_object: bool,
    regs: &[Value],
    src: &mut Option<Value>,
) -> Result<Walked, Error> {
    let creates = path.op == PathOp::Assign;
    let mut cur = root;
    if path.steps.is_empty() {
        return finish(cur, path, src);
    }
    for (i, step) in path.steps.iter().enumerate().skip(from) {
        let last = i + 1 == path.steps.len();
        if let Value::Object(object) = cur {
            return Ok(Walked::Object(Arc::clone(object), i));
        }
        if path.arrows[i] && !(in_object && i == from) {
            if path.op == PathOp::Unset && cur.is_none() {
                return Ok(Walked::Done(Value::Bool(false)));
            }
            return Err(Error::exception(format!("Cannot access a member of {}", cur.type_name())));
        }
        match cur {
            Value::Array(_) => {}
            Value::Undef | Value::None | Value::Bool(_) | Value::Number(_) if creates => {
                *cur = Value::Array(Array::new());
            }
            Value::Undef | Value::None if path.op == PathOp::Unset => {
                return Ok(Walked::Done(Value::Bool(false)));
            }
            Value::Undef | Value::None => return Err(missing()),
            other => {
                return Err(Error::exception(format!(
                    "Cannot use subscript on {} for writing",
                    other.type_name()
                )));
            }
        }
        let Value::Array(array) = cur else { return Err(missing()) };
        match step {
            Step::Append => {
                if !creates {
                    return Err(Error::exception("'[]' can only be assigned to"));
                }
                if last {
                    let value = src.take().unwrap_or_default();
                    if !array.push(value) {
                        return Err(Error::exception("Array has no further index"));
                    }
                    return Ok(Walked::Done(Value::None));
                }
                let n = array.keys().filter_map(|k| k.as_int()).max().map_or(0, |n| (n + 1).max(0));
                cur = array.entry(crate::array::Key::Int(n));
            }
            Step::Index(reg) => {
                let key = ops::key(&regs[usize::from(*reg)])?;
                if last {
                    return match path.op {
                        PathOp::Assign => {
                            array.insert(key, src.take().unwrap_or_default());
                            Ok(Walked::Done(Value::None))
                        }
                        PathOp::Unset => Ok(Walked::Done(Value::Bool(array.remove(&key).is_some()))),
                        _ => match array.get_mut(&key) {
                            Some(slot) => finish(slot, path, src),
                            None => Err(missing()),
                        },
                    };
                }
                cur = if creates {
                    array.entry(key)
                } else {
                    match array.get_mut(&key) {
                        Some(slot) => slot,
                        None if path.op == PathOp::Unset => return Ok(Walked::Done(Value::Bool(false))),
                        None => return Err(missing()),
                    }
                };
            }
            Step::Slice(first) => {
                if !last {
                    return Err(Error::exception("A slice cannot be written through"));
                }
                let (start, end) = (&regs[usize::from(*first)], &regs[usize::from(*first) + 1]);
                return match path.op {
                    PathOp::Assign => match src.take() {
                        Some(Value::Array(items)) => {
                            ops::replace_slice(array, start, end, Some(&items))?;
                            Ok(Walked::Done(Value::None))
                        }
                        other => Err(Error::exception(format!(
                            "A slice can only be replaced by an array, {} given",
                            other.unwrap_or_default().type_name()
                        ))),
                    },
                    PathOp::Unset => {
                        Ok(Walked::Done(Value::Bool(ops::replace_slice(array, start, end, None)?)))
                    }
                    PathOp::Augment(op) => {
                        let mut part =
                            ops::slice(&Value::Array(array.clone()), Some(start), Some(end), None)?;
                        ops::assign(op, &mut part, &src.take().unwrap_or_default())?;
                        let Value::Array(items) = &part else {
                            return Err(Error::exception(format!(
                                "A slice can only be replaced by an array, {} given",
                                part.type_name()
                            )));
                        };
                        ops::replace_slice(array, start, end, Some(items))?;
                        Ok(Walked::Done(part))
                    }
                    PathOp::Increment { .. } => Err(Error::exception("Cannot increment array")),
                };
            }
        }
    }
    Ok(Walked::Done(Value::None))
}

/// Applies the operation to the place itself.
fn finish(slot: &mut Value, path: &Path, src: &mut Option<Value>) -> Result<Walked, Error> {
    match path.op {
        PathOp::Assign => {
            *slot = src.take().unwrap_or_default();
            Ok(Walked::Done(Value::None))
        }
        PathOp::Augment(op) => {
            ops::assign(op, slot, &src.take().unwrap_or_default())?;
            Ok(Walked::Done(slot.clone()))
        }
        PathOp::Increment { delta, prefix } => {
            let Value::Number(n) = slot else {
                return Err(Error::exception(format!("Cannot increment {}", slot.type_name())));
            };
            let old = *n;
            *n += f64::from(delta);
            Ok(Walked::Done(Value::Number(if prefix { *n } else { old })))
        }
        PathOp::Unset => {
            let had = !matches!(slot, Value::Undef);
            *slot = Value::Undef;
            Ok(Walked::Done(Value::Bool(had)))
        }
    }
}
