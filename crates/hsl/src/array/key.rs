//! Keys of arrays and their hashes.

use super::Array;
use crate::number::{SAFE_INTEGER_MAX, canonical_integer};
use crate::string::Str;
use crate::value::Value;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

/// Seeded once per process, so that keys chosen by a client cannot aim at one bucket.
static HASHER: LazyLock<foldhash::fast::RandomState> = LazyLock::new(foldhash::fast::RandomState::default);

/// A key after conversion (language section 4.5).
#[derive(Clone, Debug)]
pub enum Key {
    /// An integer key.
    Int(i64),
    /// A string that is no integer, or any other value, matched by strict equality.
    Val(Value),
}

/// The value given as key cannot be one: not a number or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl Key {
    /// Converts a value to a key.
    ///
    /// # Errors
    /// [`BadKey`] for nan and infinities.
    #[inline]
    pub fn from_value(value: &Value) -> Result<Key, BadKey> {
        match value {
            Value::Number(n) => {
                let n = n.trunc();
                if n.abs() <= SAFE_INTEGER_MAX as f64 {
                    Ok(Key::Int(n as i64))
                } else if n.is_finite() {
                    // Outside the exact integers the double itself is the key.
                    Ok(Key::Val(Value::Number(n)))
                } else {
                    Err(BadKey)
                }
            }
            Value::Str(s) => Ok(Key::of_str(s)),
            Value::Bool(b) => Ok(Key::Int(i64::from(*b))),
            other => Ok(Key::Val(other.clone())),
        }
    }

    /// Converts a string to a key.
    #[inline]
    pub fn of_str(text: &Str) -> Key {
        match canonical_integer(text.as_bytes()) {
            Some(n) => Key::Int(n),
            None => Key::Val(Value::Str(text.clone())),
        }
    }

    /// The key as a value of the language.
    #[inline]
    pub fn to_value(&self) -> Value {
        match self {
            Key::Int(n) => Value::Number(*n as f64),
            Key::Val(v) => v.clone(),
        }
    }

    /// The integer, if this is an integer key.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Key::Int(n) => Some(*n),
            Key::Val(_) => None,
        }
    }

    #[inline]
    pub(super) fn same(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Int(a), Key::Int(b)) => a == b,
            (Key::Val(Value::Str(a)), Key::Val(Value::Str(b))) => a == b,
            (Key::Val(a), Key::Val(b)) => a.same_key(b),
            _ => false,
        }
    }

    pub(super) fn hash(&self) -> u32 {
        let mut h = HASHER.build_hasher();
        match self {
            Key::Int(n) => {
                h.write_i64(*n >> 16);
                return (h.finish() as u32).wrapping_add(*n as u16 as u32);
            }
            Key::Val(Value::Str(s)) => return hash_str(s.as_bytes()),
            Key::Val(Value::Array(a)) => hash_array(a, &mut h),
            Key::Val(Value::Object(o)) => h.write_usize(std::sync::Arc::as_ptr(o) as usize),
            Key::Val(Value::Number(n)) => h.write_u64(n.to_bits()),
            Key::Val(other) => h.write_u8(other.type_name().as_bytes().first().copied().unwrap_or(0)),
        }
        h.finish() as u32
    }
}

/// Equal arrays begin with equal plain values; to look deeper would take time without bound.
pub(super) fn hash_array(a: &Array, h: &mut impl Hasher) {
    h.write_usize(a.len());
    for value in a.values().take(8) {
        match value {
            // Both zeros are equal.
            Value::Number(n) => h.write_u64((n + 0.0).to_bits()),
            Value::Str(s) => h.write(s.as_bytes()),
            Value::Array(inner) => h.write_usize(inner.len()),
            _ => {}
        }
    }
}

/// Keys that differ in the last two bytes only are neighbours in the table, as they often are in scripts that count: they
/// share its cache lines. Chosen keys gain nothing by it: below one beginning no two keys have the same hash, and where the
/// group of a beginning is depends on the seed.
#[inline]
pub(super) fn hash_str(text: &[u8]) -> u32 {
    let mut h = HASHER.build_hasher();
    let tail = match text {
        [start @ .., a, b] => {
            h.write(start);
            u32::from(*a) << 8 | u32::from(*b)
        }
        short => {
            h.write(short);
            0
        }
    };
    (h.finish() as u32).wrapping_add(tail)
}

impl From<i64> for Key {
    fn from(n: i64) -> Key {
        Key::Int(n)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key::of_str(&Str::from(text))
    }
}
