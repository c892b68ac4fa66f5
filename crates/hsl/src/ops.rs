//! Operators on values (language section 7). Shared by the machine and by constant folding.

use crate::array::{Array, Key};
use crate::ast::BinaryOp;
use crate::error::Error;
use crate::format::format;
use crate::mem;
use crate::number::{INTEGER_DIGITS_MAX, exact_integer, integer_digits};
use crate::regex::Regex;
use crate::string::Str;
use crate::value::Value;
use std::cmp::Ordering;

/// Longest string and array, bytes and elements (section 15).
pub(crate) const LENGTH_MAX: usize = i32::MAX as usize;

type Outcome = Result<Value, Error>;

#[cold]
fn unsupported(op: &str, a: &Value, b: &Value) -> Error {
    Error::exception(format!("Unsupported operand types for {op}: {} and {}", a.type_name(), b.type_name()))
}

fn number(v: &Value) -> Option<f64> {
    match v {
        Value::Number(n) => Some(*n),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

/// Any binary operator.
pub(crate) fn binary(op: BinaryOp, a: &Value, b: &Value) -> Outcome {
    use BinaryOp::*;
    Ok(match op {
        Add => {
            let mut sum = a.clone();
            add_assign(&mut sum, b)?;
            sum
        }
        Sub => return sub(a, b),
        Mul => return mul(a, b),
        Rem if matches!(a, Value::Str(_)) => match (a, b) {
            (Value::Str(template), Value::Array(args)) => Value::Str(format(template.as_bytes(), args)?),
            _ => return Err(unsupported("%", a, b)),
        },
        Div | Rem | Pow => {
            let (Some(x), Some(y)) = (number(a), number(b)) else {
                return Err(unsupported(op.symbol(), a, b));
            };
            match op {
                Pow => Value::Number(x.powf(y)),
                _ if y == 0.0 => return Err(Error::exception("Division by zero")),
                Div => Value::Number(x / y),
                _ => Value::Number(x % y),
            }
        }
        Concat => {
            let mut out = Vec::new();
            for v in [a, b] {
                if v.is_none() {
                    return Err(unsupported(".", a, b));
                }
                write_string(v, &mut out)?;
            }
            Value::Str(Str::from_vec(out))
        }
        Eq => Value::Bool(a.loose_eq(b)),
        Ne => Value::Bool(!a.loose_eq(b)),
        StrictEq => Value::Bool(a.strict_eq(b)),
        StrictNe => Value::Bool(!a.strict_eq(b)),
        Lt => Value::Bool(less(a, b)),
        Gt => Value::Bool(less(b, a)),
        Le => Value::Bool(less_or_equal(a, b)),
        Ge => Value::Bool(less_or_equal(b, a)),
        Match => Value::Bool(matches(&Regex::from_value(b)?, a)?),
        NoMatch => Value::Bool(!matches(&Regex::from_value(b)?, a)?),
        BitAnd | BitOr | BitXor | Shl | Shr | UShr => {
            let (Some(x), Some(y)) = (number(a), number(b)) else {
                return Err(unsupported(op.symbol(), a, b));
            };
            let (x, y) = (to_i32(x), to_i32(y));
            let shift = (y as u32) & 31;
            match op {
                BitAnd => f64::from(x & y).into(),
                BitOr => f64::from(x | y).into(),
                BitXor => f64::from(x ^ y).into(),
                Shl => f64::from(x.wrapping_shl(shift)).into(),
                Shr => f64::from(x >> shift).into(),
                _ => f64::from((x as u32) >> shift).into(),
            }
        }
    })
}

pub(crate) fn less(a: &Value, b: &Value) -> bool {
    a.order(b) == Some(Ordering::Less)
}

pub(crate) fn less_or_equal(a: &Value, b: &Value) -> bool {
    matches!(a.order(b), Some(Ordering::Less | Ordering::Equal))
}

/// Truncated and wrapped modulo 2^32; nan and infinities are 0.
fn to_i32(n: f64) -> i32 {
    if n.is_finite() { n.trunc().rem_euclid(4_294_967_296.0) as u32 as i32 } else { 0 }
}

/// `subject =~ pattern`.
pub(crate) fn matches(regex: &Regex, subject: &Value) -> Result<bool, Error> {
    match subject {
        Value::Str(s) => regex.is_match(s.as_bytes()),
        v if v.is_none() => Err(Error::exception("Unsupported operand type for =~: none")),
        v => regex.is_match(to_str(v)?.as_bytes()),
    }
}

/// `a += b`; arrays and strings held only by `a` are changed in place. On an error `a` is unchanged.
///
/// # Errors
/// An exception for types that `+` does not take, and for results that are too long.
pub fn add_assign(a: &mut Value, b: &Value) -> Result<(), Error> {
    match (&mut *a, b) {
        (Value::Number(x), Value::Number(y)) => *x += y,
        (Value::Array(array), Value::Array(other)) => {
            check_elements(array.len() + other.len())?;
            array.merge(other);
        }
        (Value::Array(array), b) => {
            if !array.push(b.clone()) {
                return Err(Error::exception("Array has no further index"));
            }
        }
        (Value::Str(s), Value::Str(t)) => {
            check_length(s.len() + t.len())?;
            s.push_bytes(t.as_bytes());
        }
        (x, y) => match (number(x), number(y)) {
            (Some(x), Some(y)) => *a = Value::Number(x + y),
            _ => return Err(unsupported("+", x, y)),
        },
    }
    Ok(())
}

/// `a .= b`.
pub(crate) fn append_assign(a: &mut Value, b: &Value) -> Result<(), Error> {
    if a.is_none() || b.is_none() {
        return Err(unsupported(".", a, b));
    }
    if !matches!(a, Value::Str(_)) {
        *a = Value::Str(to_str(a)?);
    }
    let Value::Str(s) = a else { return Ok(()) };
    match b {
        Value::Str(t) => {
            check_length(s.len() + t.len())?;
            s.push_bytes(t.as_bytes());
        }
        Value::Number(n) if let Some(whole) = exact_integer(*n) => {
            let mut digits = [0; INTEGER_DIGITS_MAX];
            let at = integer_digits(&mut digits, whole);
            check_length(s.len() + INTEGER_DIGITS_MAX)?;
            s.push_bytes(&digits[at..]);
        }
        b => {
            let mut text = Vec::with_capacity(24);
            write_string(b, &mut text)?;
            check_length(s.len() + text.len())?;
            s.push_bytes(&text);
        }
    }
    Ok(())
}

/// `a op= b`, in place where that helps.
pub(crate) fn assign(op: BinaryOp, a: &mut Value, b: &Value) -> Result<(), Error> {
    match op {
        BinaryOp::Add => add_assign(a, b),
        BinaryOp::Concat => append_assign(a, b),
        op => {
            *a = binary(op, a, b)?;
            Ok(())
        }
    }
}

fn sub(a: &Value, b: &Value) -> Outcome {
    if let Value::Array(array) = a {
        let gone = |v: &Value| match b {
            Value::Array(list) => list.values().any(|x| x.strict_eq(v)),
            one => one.strict_eq(v),
        };
        let mut result = Array::new();
        for (key, value) in array.iter() {
            if !gone(value) {
                result.insert(key, value.clone());
            }
        }
        return Ok(Value::Array(result));
    }
    match (number(a), number(b)) {
        (Some(x), Some(y)) => Ok(Value::Number(x - y)),
        _ => Err(unsupported("-", a, b)),
    }
}

fn mul(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Str(s), Value::Number(n)) | (Value::Number(n), Value::Str(s)) => {
            repeat_string(s.as_bytes(), *n)
        }
        (Value::Array(list), Value::Number(n)) | (Value::Number(n), Value::Array(list)) => {
            let count = repeat_count(list.len(), *n, size_of::<Value>())?;
            if count == 0 {
                return Ok(Value::Array(Array::new()));
            }
            let mut result = list.clone();
            for _ in 1..count {
                result.merge(list);
            }
            Ok(Value::Array(result))
        }
        _ => match (number(a), number(b)) {
            (Some(x), Some(y)) => Ok(Value::Number(x * y)),
            _ => Err(unsupported("*", a, b)),
        },
    }
}

/// The string repeated; counts below 1 give the empty string.
///
/// # Errors
/// When the result would exceed the length or memory limit.
pub fn repeat_string(text: &[u8], n: f64) -> Result<Value, Error> {
    let count = repeat_count(text.len(), n, 1)?;
    Ok(Value::Str(Str::from_vec(text.repeat(count))))
}

fn repeat_count(len: usize, n: f64, item_bytes: usize) -> Result<usize, Error> {
    if n.is_nan() || n < 1.0 || len == 0 {
        return Ok(0);
    }
    let total = len as f64 * n.trunc();
    if total > LENGTH_MAX as f64 {
        return Err(Error::fatal("Value is too long"));
    }
    check_memory(total as usize * item_bytes)?;
    Ok(n as usize)
}

/// Raises when a string or array would become longer than the language allows.
pub(crate) fn check_length(len: usize) -> Result<(), Error> {
    if len > LENGTH_MAX {
        return Err(Error::fatal("Value is too long"));
    }
    if len > 1 << 16 {
        return check_memory(len);
    }
    Ok(())
}

/// Raises when an array of `count` elements would be too long or not fit into memory.
pub(crate) fn check_elements(count: usize) -> Result<(), Error> {
    if count > LENGTH_MAX {
        return Err(Error::fatal("Value is too long"));
    }
    if count > 1 << 12 {
        return check_memory(count * size_of::<Value>());
    }
    Ok(())
}

/// The string form of a value, raising when it would not fit into memory.
pub(crate) fn to_str(v: &Value) -> Result<Str, Error> {
    match v {
        Value::Str(s) => Ok(s.clone()),
        v => {
            let mut out = Vec::new();
            write_string(v, &mut out)?;
            Ok(Str::from_vec(out))
        }
    }
}

/// Appends the string form of a value, raising when it would not fit into memory.
pub(crate) fn write_string(v: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    if v.write_string_within(out, string_room()) {
        return Ok(());
    }
    check_memory(out.len())?;
    Err(Error::fatal("Value is too long"))
}

/// Longest string that the running execution could still hold.
pub(crate) fn string_room() -> usize {
    LENGTH_MAX.min(MEMORY_LIMIT.get().saturating_sub(mem::used().max(0) as usize))
}

thread_local! {
    static MEMORY_LIMIT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

/// Sets the limit that [`check_memory`] applies on this thread; returns the old one.
pub(crate) fn set_memory_limit(bytes: usize) -> usize {
    MEMORY_LIMIT.replace(bytes)
}

/// Raises when `bytes` more would exceed the memory limit of the running execution.
///
/// # Errors
/// [`Error::Fatal`]: scripts cannot catch it.
pub fn check_memory(bytes: usize) -> Result<(), Error> {
    let used = mem::used().max(0) as usize;
    if used.saturating_add(bytes) > MEMORY_LIMIT.get() {
        return Err(Error::fatal("Memory limit reached"));
    }
    Ok(())
}

/// Runs an operation that may make at most `bytes` of new values: for constants, which no execution pays for.
pub(crate) fn within<R>(bytes: usize, operation: impl FnOnce() -> R) -> R {
    let outer = set_memory_limit((mem::used().max(0) as usize).saturating_add(bytes));
    let result = operation();
    set_memory_limit(outer);
    result
}

/// Unary minus.
pub(crate) fn negate(v: &Value) -> Outcome {
    number(v).map(|n| Value::Number(-n)).ok_or_else(|| unary("-", v))
}

/// Unary plus.
pub(crate) fn plus(v: &Value) -> Outcome {
    number(v).map(Value::Number).ok_or_else(|| unary("+", v))
}

/// `~`.
pub(crate) fn bit_not(v: &Value) -> Outcome {
    number(v).map(|n| Value::Number(f64::from(!to_i32(n)))).ok_or_else(|| unary("~", v))
}

fn unary(op: &str, v: &Value) -> Error {
    Error::exception(format!("Unsupported operand type for {op}: {}", v.type_name()))
}

/// Converts a key, raising for those that cannot be one.
pub(crate) fn key(v: &Value) -> Result<Key, Error> {
    Key::from_value(v).map_err(|_| Error::exception("Array key cannot be nan or infinite"))
}

/// `base[key]` on everything but objects.
pub(crate) fn index(base: &Value, at: &Value) -> Outcome {
    match base {
        Value::Array(array) => {
            if let (Some(list), Value::Number(n)) = (array.as_list(), at) {
                let i = *n as usize;
                if i as f64 == *n && i < list.len() {
                    return Ok(list[i].clone());
                }
            }
            if let Value::Str(s) = at {
                return Ok(array.get_bytes(s.as_bytes()).cloned().unwrap_or_default());
            }
            Ok(array.get(&key(at)?).cloned().unwrap_or_default())
        }
        Value::Str(s) => match at {
            Value::Number(n) if *n > -1.0 => {
                Ok(s.as_bytes().get(*n as usize).map_or(Value::None, |c| Value::Str(Str::from_byte(*c))))
            }
            _ => Ok(Value::None),
        },
        Value::None | Value::Undef => Ok(Value::None),
        other => Err(Error::exception(format!("Cannot use subscript on {}", other.type_name()))),
    }
}

/// Bounds of a slice with step 1 or -1 and so on: the positions it visits.
struct Range {
    start: i64,
    end: i64,
    step: i64,
}

fn bounds(
    len: usize,
    from: Option<&Value>,
    to: Option<&Value>,
    step: Option<&Value>,
) -> Result<Range, Error> {
    let whole = |v: Option<&Value>| -> Result<Option<i64>, Error> {
        match v {
            None | Some(Value::Undef | Value::None) => Ok(None),
            Some(v) => match number(v) {
                // `as` saturates: huge numbers are beyond any end.
                Some(n) if !n.is_nan() => Ok(Some(n.trunc() as i64)),
                _ => Err(Error::exception(format!("Slice bounds must be numbers, {} given", v.type_name()))),
            },
        }
    };
    let len = len as i64;
    let step = whole(step)?.unwrap_or(1);
    if step == 0 {
        return Err(Error::exception("Slice step cannot be 0"));
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |v: i64| if v < 0 { v.saturating_add(len).max(low) } else { v.min(high) };
    let start = whole(from)?.map_or(if step > 0 { low } else { high }, clamp);
    let end = whole(to)?.map_or(if step > 0 { high } else { low }, clamp);
    Ok(Range { start, end, step })
}

impl Range {
    fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.start;
        std::iter::from_fn(move || {
            let inside = if self.step > 0 { at < self.end } else { at > self.end };
            let here = at;
            at = at.saturating_add(self.step);
            inside.then_some(here as usize)
        })
    }
}

/// `base[from:to:step]`.
pub(crate) fn slice(base: &Value, from: Option<&Value>, to: Option<&Value>, step: Option<&Value>) -> Outcome {
    match base {
        Value::Str(s) => {
            let range = bounds(s.len(), from, to, step)?;
            let bytes = s.as_bytes();
            if range.step == 1 {
                let (start, end) = (range.start as usize, range.end.max(range.start) as usize);
                return Ok(Value::Str(Str::from_bytes(&bytes[start..end])));
            }
            Ok(Value::Str(Str::from_vec(range.positions().map(|i| bytes[i]).collect())))
        }
        Value::Array(array) => {
            let range = bounds(array.len(), from, to, step)?;
            check_elements(array.len())?;
            let values: Vec<Value> = match array.as_list() {
                Some(list) if range.step == 1 => {
                    list[range.start as usize..range.end.max(range.start) as usize].to_vec()
                }
                Some(list) => range.positions().map(|i| list[i].clone()).collect(),
                None => {
                    let all: Vec<&Value> = array.values().collect();
                    range.positions().map(|i| all[i].clone()).collect()
                }
            };
            Ok(Value::Array(Array::from_list(values)))
        }
        other => Err(Error::exception(format!("Cannot slice {}", other.type_name()))),
    }
}

/// `array[from:to] = items`: integer keys are renumbered, others stay. `None` removes the slice and keeps keys.
pub(crate) fn replace_slice(
    array: &mut Array,
    from: &Value,
    to: &Value,
    items: Option<&Array>,
) -> Result<bool, Error> {
    let range = bounds(array.len(), Some(from), Some(to), None)?;
    let (start, end) = (range.start as usize, range.end.max(range.start) as usize);
    let Some(items) = items else {
        let keys: Vec<Key> = array.keys().skip(start).take(end - start).collect();
        for key in &keys {
            array.remove(key);
        }
        return Ok(!keys.is_empty());
    };
    check_elements(array.len() + items.len())?;
    let mut result = Array::with_capacity(array.len() + items.len());
    let copy = |result: &mut Array, key: Key, value: &Value| match key {
        Key::Int(_) => {
            result.push(value.clone());
        }
        key => {
            result.insert(key, value.clone());
        }
    };
    let mut put = false;
    for (i, (key, value)) in array.iter().enumerate() {
        if i == start {
            items.values().for_each(|v| {
                result.push(v.clone());
            });
            put = true;
        }
        if !(start..end).contains(&i) {
            copy(&mut result, key, value);
        }
    }
    if !put {
        items.values().for_each(|v| {
            result.push(v.clone());
        });
    }
    *array = result;
    Ok(true)
}
