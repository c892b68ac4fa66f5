//! [`Value`]: any value of the language, with its conversions, truth and equality (language sections 4 and 5).

use crate::array::Array;
use crate::number::{number_to_string, parse_number, write_number};
use crate::object::{Function, Object, Resource};
use crate::string::Str;
use std::cmp::Ordering;
use std::sync::Arc;

/// A value. 16 bytes; cloning never copies more than that.
#[derive(Clone, Default)]
pub enum Value {
    /// Marks a variable that does not exist. Never seen by native functions.
    #[doc(hidden)]
    Undef,
    /// The "no value" value.
    #[default]
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A double.
    Number(f64),
    /// A byte string.
    Str(Str),
    /// An ordered map or list.
    Array(Array),
    /// Something callable.
    Function(Arc<Function>),
    /// An instance of a class; copies refer to the same instance.
    Object(Arc<Object>),
    /// An opaque handle of the library.
    Resource(Resource),
}

impl Value {
    /// A string value from bytes.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::Str(Str::from_bytes(bytes))
    }

    /// Name of the type as messages give it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undef | Value::None => "none",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Str(_) => "string",
            Value::Array(_) => "array",
            Value::Function(_) => "function",
            Value::Object(_) => "object",
            Value::Resource(_) => "resource",
        }
    }

    /// Truthiness (section 5.1).
    #[inline]
    pub fn truthy(&self) -> bool {
        match self {
            Value::Undef | Value::None => false,
            Value::Bool(b) => *b,
            Value::Number(n) => *n != 0.0,
            Value::Str(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Function(_) | Value::Object(_) | Value::Resource(_) => true,
        }
    }

    /// True for `none`.
    pub fn is_none(&self) -> bool {
        matches!(self, Value::None | Value::Undef)
    }

    /// Replaces the value; cheaper than an assignment when the old one is a number or the like, as it mostly is.
    #[inline(always)]
    pub(crate) fn put(&mut self, value: Value) {
        if matches!(self, Value::Undef | Value::None | Value::Bool(_) | Value::Number(_)) {
            // Nothing of the old value needs a destructor.
            std::mem::forget(std::mem::replace(self, value));
        } else {
            *self = value;
        }
    }

    /// Replaces the value by a copy; numbers and booleans, the most frequent, without a copy by way of the stack.
    #[inline(always)]
    pub fn copy_from(&mut self, from: &Value) {
        match from {
            Value::Number(n) => self.put(Value::Number(*n)),
            Value::Bool(b) => self.put(Value::Bool(*b)),
            other => self.copy_any(other),
        }
    }

    #[inline(never)]
    fn copy_any(&mut self, from: &Value) {
        *self = from.clone();
    }

    /// True when dropping the value may run further destructors.
    pub(crate) fn is_heap(&self) -> bool {
        matches!(self, Value::Array(_) | Value::Function(_) | Value::Object(_) | Value::Resource(_))
    }

    /// The bytes of a string value.
    pub fn as_str_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Str(s) => Some(s.as_bytes()),
            _ => None,
        }
    }

    /// The number of a number value.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// The boolean of a boolean value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The array of an array value.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// Conversion to number (section 4.9): everything that is no number is 0.
    pub fn to_number(&self) -> f64 {
        match self {
            Value::Number(n) => *n,
            Value::Bool(b) => f64::from(u8::from(*b)),
            Value::Str(s) => parse_number(s.as_bytes()).unwrap_or(0.0),
            _ => 0.0,
        }
    }

    /// Conversion to string (section 4.9).
    pub fn to_str(&self) -> Str {
        match self {
            Value::Str(s) => s.clone(),
            other => {
                let mut out = Vec::new();
                other.write_string(&mut out);
                Str::from_vec(out)
            }
        }
    }

    /// The string form as text, invalid UTF-8 replaced.
    pub fn to_string_lossy(&self) -> String {
        self.to_str().to_text().into_owned()
    }

    /// Appends the string form to `out`. Needs no native stack for nested arrays. A form longer than the memory limit
    /// of the running execution is cut off there.
    pub fn write_string(&self, out: &mut Vec<u8>) {
        self.write_string_within(out, crate::ops::string_room());
    }

    /// Appends the string form while `out` is not longer than `max`; false when it was cut off. Arrays that share
    /// parts can have string forms of any length.
    pub(crate) fn write_string_within(&self, out: &mut Vec<u8>, max: usize) -> bool {
        match self {
            Value::Str(s) => out.extend_from_slice(s.as_bytes()),
            Value::Array(a) => return write_array(a, out, max),
            scalar => scalar.write_scalar(out),
        }
        true
    }

    fn write_scalar(&self, out: &mut Vec<u8>) {
        match self {
            Value::Undef | Value::None => out.extend_from_slice(b"none"),
            Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
            Value::Number(n) => write_number(out, *n),
            Value::Function(_) => out.extend_from_slice(b"function"),
            Value::Object(o) => o.write_string(out),
            Value::Resource(_) => out.extend_from_slice(b"resource"),
            Value::Str(s) => {
                out.push(b'"');
                for c in s.as_bytes() {
                    if matches!(c, b'"' | b'\\') {
                        out.push(b'\\');
                    }
                    out.push(*c);
                }
                out.push(b'"');
            }
            Value::Array(_) => {}
        }
    }

    /// Strict equality `===` (section 5.2).
    #[inline]
    pub fn strict_eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => arrays_equal(a, b, false),
            _ => self.scalar_eq(other),
        }
    }

    /// Equality of keys: as [`strict_eq`](Self::strict_eq), but an array is the same key as itself even if it holds nan.
    /// Arrays with arrays as keys would otherwise be compared to their depths at each search.
    pub(crate) fn same_key(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Array(a), Value::Array(b)) => arrays_equal(a, b, true),
            _ => self.strict_eq(other),
        }
    }

    fn scalar_eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None | Value::Undef, Value::None | Value::Undef) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::Function(a), Value::Function(b)) => Arc::ptr_eq(a, b) || a.same(b),
            (Value::Object(a), Value::Object(b)) => Arc::ptr_eq(a, b),
            (Value::Resource(a), Value::Resource(b)) => a.same(b),
            _ => false,
        }
    }

    /// Loose equality `==` (section 5.3).
    pub fn loose_eq(&self, other: &Value) -> bool {
        use Value::{Bool, None, Number, Str, Undef};
        match (self, other) {
            (Number(a), Number(b)) => a == b,
            (Str(a), Str(b)) => a == b,
            (None | Undef, b) => b.is_none(),
            (_, None | Undef) => false,
            (Bool(a), Bool(b)) => a == b,
            (Bool(a), Number(b)) | (Number(b), Bool(a)) => f64::from(u8::from(*a)) == *b,
            (Bool(a), b) | (b, Bool(a)) => b.truthy() == *a,
            (Number(a), s @ Str(_)) | (s @ Str(_), Number(a)) => s.to_number() == *a,
            (Number(a), b) | (b, Number(a)) => f64::from(u8::from(b.truthy())) == *a,
            (a, b) => a.strict_eq(b),
        }
    }

    /// Order of `<` and the like (section 5.4); `None` when the combination has no order.
    pub fn order(&self, other: &Value) -> Option<Ordering> {
        use Value::{Bool, Number, Str};
        match (self, other) {
            (Number(a), Number(b)) => a.partial_cmp(b),
            (Str(a), Str(b)) => Some(a.cmp(b)),
            (Bool(_) | Number(_), Bool(_) | Number(_)) => self.to_number().partial_cmp(&other.to_number()),
            (Number(_) | Bool(_), Str(_)) | (Str(_), Number(_) | Bool(_)) => {
                self.to_number().partial_cmp(&other.to_number())
            }
            _ => Option::None,
        }
    }
}

/// What is left to write of an array that is being printed.
enum Unwritten {
    /// The elements from a position on.
    Elements(Array, usize),
    /// `=>` and the value behind a key that was an array itself.
    Pair(Value),
}

/// Writes nested arrays, in values and in keys, with a stack of its own.
fn write_array(array: &Array, out: &mut Vec<u8>, max: usize) -> bool {
    let mut stack = vec![Unwritten::Elements(array.clone(), 0)];
    out.push(b'[');
    while let Some(part) = stack.pop() {
        let value = match part {
            Unwritten::Pair(value) => value,
            Unwritten::Elements(array, at) => {
                let Some((key, value, next)) = array.at_position(at) else {
                    out.push(b']');
                    continue;
                };
                if out.len() > max {
                    return false;
                }
                if at > 0 {
                    out.push(b',');
                }
                let (key, value) = (key.to_value(), value.clone());
                stack.push(Unwritten::Elements(array, next));
                if let Value::Array(inner) = key {
                    stack.push(Unwritten::Pair(value));
                    stack.push(Unwritten::Elements(inner, 0));
                    out.push(b'[');
                    continue;
                }
                key.write_scalar(out);
                value
            }
        };
        out.extend_from_slice(b"=>");
        match value {
            Value::Array(inner) => {
                out.push(b'[');
                stack.push(Unwritten::Elements(inner, 0));
            }
            scalar => scalar.write_scalar(out),
        }
    }
    true
}

/// Same keys and strictly equal values in the same order; needs no native stack, and compares parts that arrays share
/// only once. With `identity` a block is equal to itself whatever it holds.
fn arrays_equal(a: &Array, b: &Array, identity: bool) -> bool {
    if identity && a.same_block(b) {
        return true;
    }
    let mut work = vec![(a.clone(), b.clone())];
    let mut seen = std::collections::HashSet::new();
    while let Some((a, b)) = work.pop() {
        if a.same_block(&b) && (identity || !may_hold_nan(&a)) {
            continue;
        }
        if a.len() != b.len() {
            return false;
        }
        for ((ka, va), (kb, vb)) in a.iter().zip(b.iter()) {
            for (x, y) in [(&ka.to_value(), &kb.to_value()), (va, vb)] {
                match (x, y) {
                    (Value::Array(x), Value::Array(y)) => {
                        if seen.insert((x.address(), y.address())) {
                            work.push((x.clone(), y.clone()));
                        }
                    }
                    _ if x.scalar_eq(y) => {}
                    _ => return false,
                }
            }
        }
    }
    true
}

/// nan is not equal to itself, so a shared block that holds one (or may hold one deeper) has to be compared.
fn may_hold_nan(a: &Array) -> bool {
    a.values().any(|v| match v {
        Value::Number(n) => n.is_nan(),
        Value::Array(_) => true,
        _ => false,
    })
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Undef => f.write_str("undef"),
            Value::Str(s) => s.fmt(f),
            Value::Array(a) => a.fmt(f),
            Value::Number(n) => f.write_str(&number_to_string(*n)),
            other => f.write_str(&other.to_string_lossy()),
        }
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Value {
        Value::Number(n)
    }
}

macro_rules! from_integer {
    ($($t:ty),*) => {
        $(impl From<$t> for Value {
            fn from(n: $t) -> Value {
                Value::Number(n as f64)
            }
        })*
    };
}
from_integer!(i32, u32, i64, u64, usize, u16, u8);

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::Str(Str::from(s))
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::Str(Str::from(s))
    }
}

impl From<&[u8]> for Value {
    fn from(s: &[u8]) -> Value {
        Value::Str(Str::from(s))
    }
}

impl From<Vec<u8>> for Value {
    fn from(s: Vec<u8>) -> Value {
        Value::Str(Str::from(s))
    }
}

impl From<Str> for Value {
    fn from(s: Str) -> Value {
        Value::Str(s)
    }
}

impl From<Array> for Value {
    fn from(a: Array) -> Value {
        Value::Array(a)
    }
}

impl From<Vec<Value>> for Value {
    fn from(list: Vec<Value>) -> Value {
        Value::Array(Array::from_list(list))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Value {
        v.map_or(Value::None, Into::into)
    }
}

/// Builds a [`Value`] from a literal in the notation of the language.
///
/// ```
/// use hsl::value;
/// let v = value!({ "host" => "mx1", "port" => 25, "tls" => [true, none] });
/// assert_eq!(v.to_string_lossy(), r#"["host"=>"mx1","port"=>25,"tls"=>[0=>true,1=>none]]"#);
/// ```
#[macro_export]
macro_rules! value {
    (none) => { $crate::Value::None };
    ([ $($item:tt),* $(,)? ]) => {
        $crate::Value::Array($crate::Array::from_list(vec![ $($crate::value!($item)),* ]))
    };
    ({ $($key:expr => $item:tt),* $(,)? }) => {{
        #[allow(unused_mut)]
        let mut array = $crate::Array::new();
        $( array.insert($crate::Key::from($key), $crate::value!($item)); )*
        $crate::Value::Array(array)
    }};
    ($other:expr) => { $crate::Value::from($other) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_16_bytes() {
        assert_eq!(size_of::<Value>(), 16);
        assert_eq!(size_of::<crate::array::Key>(), 16);
    }

    #[test]
    fn values_may_cross_threads() {
        fn check<T: Send + Sync>() {}
        check::<Value>();
    }

    #[test]
    fn loose_equality_table() {
        let t = |b: bool| Value::Bool(b);
        for (a, b, equal) in [
            (Value::None, Value::None, true),
            (Value::None, t(false), false),
            (5.into(), t(true), false),
            (1.into(), t(true), true),
            ("x".into(), t(true), true),
            ("10".into(), "10.0".into(), false),
            (255.into(), "0xff".into(), true),
            (0.into(), "abc".into(), true),
            (1.into(), value!([7]), true),
            (value!([1]), value!(["1"]), false),
            ("".into(), value!([]), false),
            (f64::NAN.into(), f64::NAN.into(), false),
        ] {
            assert_eq!(a.loose_eq(&b), equal, "{a:?} == {b:?}");
            assert_eq!(b.loose_eq(&a), equal, "{b:?} == {a:?}");
        }
    }

    #[test]
    fn string_form_of_arrays() {
        assert_eq!(value!(["a", 5, { "k" => "q\"" }]).to_string_lossy(), r#"[0=>"a",1=>5,2=>["k"=>"q\""]]"#);
    }
}
