//! [`Array`]: the ordered map and list of the language, copy on write.
//!
//! Two forms, switched when needed: a dense list for keys 0..n-1 in order, and an insertion-ordered hash map for
//! everything else. Small maps are searched without an index.

mod key;
mod map;

pub use key::{BadKey, Key};
use map::{Entry, LINEAR_MAX, Map, Slot};

use crate::mem;
use crate::number::{SAFE_INTEGER_MAX, canonical_integer};
use crate::string::Str;
use crate::value::Value;
use std::fmt;
use std::sync::atomic::AtomicU32;
use triomphe::Arc;

/// Fixed part of an array in the memory account, bytes.
const ARRAY_COST: usize = 96;

#[derive(Clone)]
enum Repr {
    List(Vec<Value>),
    Map(Box<Map>),
}

struct ArrayData {
    repr: Repr,
    charged: usize,
}

impl Clone for ArrayData {
    fn clone(&self) -> ArrayData {
        ArrayData::new(self.repr.clone())
    }
}

impl ArrayData {
    fn new(repr: Repr) -> ArrayData {
        let mut data = ArrayData { repr, charged: 0 };
        data.recharge();
        data
    }

    #[inline]
    fn recharge(&mut self) {
        let now = ARRAY_COST
            + match &self.repr {
                Repr::List(list) => list.capacity() * size_of::<Value>(),
                Repr::Map(map) => {
                    map.entries.capacity() * size_of::<Entry>()
                        + map.index.get().map_or(0, |t| t.capacity() * (size_of::<Slot>() + 1))
                }
            };
        if now != self.charged {
            mem::charge(now.wrapping_sub(self.charged));
            self.charged = now;
        }
    }
}

impl Drop for ArrayData {
    fn drop(&mut self) {
        mem::release(self.charged);
        match &mut self.repr {
            Repr::List(list) => {
                if !list.is_empty() {
                    mem::drop_bounded(std::mem::take(list));
                }
            }
            Repr::Map(map) => {
                let entries = std::mem::take(&mut map.entries);
                mem::drop_bounded(entries.into_iter().flat_map(|e| {
                    let key = match e.key {
                        Key::Val(v) if v.is_heap() => v,
                        _ => Value::None,
                    };
                    [key, e.value]
                }));
            }
        }
    }
}

/// An ordered map from keys to values with value semantics. Cloning shares; the first write to a shared array copies.
#[derive(Clone)]
pub struct Array(Arc<ArrayData>);

impl Array {
    /// An empty array.
    pub fn new() -> Array {
        Array::from_list(Vec::new())
    }

    /// An empty array with room for `n` list items.
    pub fn with_capacity(n: usize) -> Array {
        Array::from_list(Vec::with_capacity(n))
    }

    /// A list with keys 0..n-1.
    pub fn from_list(values: Vec<Value>) -> Array {
        Array(Arc::new(ArrayData::new(Repr::List(values))))
    }

    /// Elements whose keys are distinct, which the caller vouches for: nothing is searched.
    pub fn from_distinct(elements: Vec<(Key, Value)>) -> Array {
        if elements.iter().enumerate().all(|(i, (k, _))| matches!(k, Key::Int(n) if *n == i as i64)) {
            return Array::from_list(elements.into_iter().map(|(_, v)| v).collect());
        }
        let entries = elements.into_iter().map(|(key, value)| Entry { key, value }).collect();
        Array(Arc::new(ArrayData::new(Repr::Map(Box::new(Map::from_entries(entries))))))
    }

    /// Number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0.repr {
            Repr::List(list) => list.len(),
            Repr::Map(map) => map.live,
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values when the keys are 0..n-1 in order and the array is in its dense form.
    #[inline]
    pub fn as_list(&self) -> Option<&[Value]> {
        match &self.0.repr {
            Repr::List(list) => Some(list),
            Repr::Map(_) => None,
        }
    }

    /// True when the keys are exactly 0..n-1 in order, whatever the form.
    pub fn is_list(&self) -> bool {
        match &self.0.repr {
            Repr::List(_) => true,
            Repr::Map(_) => self.iter().enumerate().all(|(i, (k, _))| k.as_int() == Some(i as i64)),
        }
    }

    /// The value at `key`.
    #[inline]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        match &self.0.repr {
            Repr::List(list) => match key {
                Key::Int(n) => usize::try_from(*n).ok().and_then(|i| list.get(i)),
                Key::Val(_) => None,
            },
            Repr::Map(map) => map.find(key).map(|i| &map.entries[i].value),
        }
    }

    /// The value at an integer key.
    #[inline]
    pub fn get_int(&self, key: i64) -> Option<&Value> {
        self.get(&Key::Int(key))
    }

    /// The value at a string key (converted: `"1"` is the integer key 1).
    #[inline]
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        self.get_bytes(key.as_bytes())
    }

    /// The value at a byte-string key.
    #[inline]
    pub fn get_bytes(&self, key: &[u8]) -> Option<&Value> {
        match canonical_integer(key) {
            Some(n) => self.get_int(n),
            None => match &self.0.repr {
                Repr::List(_) => None,
                Repr::Map(map) => map.find_bytes(key).map(|i| &map.entries[i].value),
            },
        }
    }

    /// The value at a string key that is no integer. `spot` is where such a key was found last.
    #[inline]
    pub(crate) fn get_ident(&self, key: &Str, spot: &AtomicU32) -> Option<&Value> {
        match &self.0.repr {
            Repr::List(_) => None,
            Repr::Map(map) => match map.at_spot(key, spot) {
                Some(i) => map.entries.get(i).map(|e| &e.value),
                None => map.entries.get(map.find_spot(key, spot)?).map(|e| &e.value),
            },
        }
    }

    /// The value at a string key.
    #[inline]
    pub(crate) fn get_name(&self, key: &Str) -> Option<&Value> {
        match canonical_integer(key.as_bytes()) {
            Some(n) => self.get_int(n),
            None => match &self.0.repr {
                Repr::List(_) => None,
                Repr::Map(map) => map.find_str(key).map(|i| &map.entries[i].value),
            },
        }
    }

    /// The value at a string key for changing, unless the key is an integer or missing. `spot` as in
    /// [`get_ident`](Self::get_ident).
    #[inline]
    pub(crate) fn get_ident_mut(&mut self, key: &Str, spot: &AtomicU32) -> Option<&mut Value> {
        match &mut Arc::make_mut(&mut self.0).repr {
            Repr::List(_) => None,
            Repr::Map(map) => {
                let at = match map.at_spot(key, spot) {
                    Some(i) => i,
                    None => map.find_spot(key, spot)?,
                };
                map.entries.get_mut(at).map(|e| &mut e.value)
            }
        }
    }

    /// The value at the key a value converts to; keys that cannot be are absent.
    #[inline]
    pub fn get_value(&self, key: &Value) -> Option<&Value> {
        match key {
            Value::Str(s) => self.get_bytes(s.as_bytes()),
            _ => self.get(&Key::from_value(key).ok()?),
        }
    }

    /// Creates or overwrites; an overwritten element keeps its position. Returns the old value.
    pub fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        let data = Arc::make_mut(&mut self.0);
        if let Repr::List(list) = &mut data.repr {
            if let Key::Int(n) = key {
                if let Some(slot) = usize::try_from(n).ok().and_then(|i| list.get_mut(i)) {
                    return Some(std::mem::replace(slot, value));
                }
                if n == list.len() as i64 {
                    list.push(value);
                    data.recharge();
                    return None;
                }
            }
            data.repr = Repr::Map(Box::new(Map::from_list(std::mem::take(list))));
        }
        match &mut data.repr {
            Repr::Map(map) => {
                let before = map.entries.capacity();
                let old = map.insert(key, value);
                // The search table grows at about the same pace and is counted along with the next growth.
                if map.entries.capacity() != before || map.entries.len() <= LINEAR_MAX {
                    data.recharge();
                }
                old
            }
            Repr::List(_) => None,
        }
    }

    /// [`insert`](Array::insert) at a string key.
    pub fn insert_str(&mut self, key: &str, value: impl Into<Value>) {
        self.insert(Key::from(key), value.into());
    }

    /// Appends at the next index: 0, or the highest integer key + 1. Returns false when that index would leave the
    /// exact integers.
    #[inline]
    pub fn push(&mut self, value: impl Into<Value>) -> bool {
        let data = Arc::make_mut(&mut self.0);
        match &mut data.repr {
            Repr::List(list) => {
                let before = list.capacity();
                list.push(value.into());
                if list.capacity() != before {
                    data.recharge();
                }
                true
            }
            Repr::Map(map) => {
                let next = map.next_index();
                if next > SAFE_INTEGER_MAX {
                    return false;
                }
                map.insert(Key::Int(next), value.into());
                data.recharge();
                true
            }
        }
    }

    /// Appends to a list that nobody else holds and that has room; false when this is not the case.
    #[inline(always)]
    pub(crate) fn push_fits(&mut self, value: Value) -> bool {
        if let Some(data) = Arc::get_mut(&mut self.0)
            && let Repr::List(list) = &mut data.repr
            && list.len() < list.capacity()
        {
            list.push(value);
            return true;
        }
        false
    }

    /// The element at `key` for changing, created by `none` when missing.
    #[inline]
    pub fn entry(&mut self, key: Key) -> &mut Value {
        let dense = match (&self.0.repr, &key) {
            (Repr::List(list), Key::Int(n)) => usize::try_from(*n).ok().filter(|i| *i < list.len()),
            _ => None,
        };
        if let Some(i) = dense {
            match &mut Arc::make_mut(&mut self.0).repr {
                Repr::List(list) => return &mut list[i],
                Repr::Map(_) => unreachable!("the form was checked above"),
            }
        }
        if self.get(&key).is_none() {
            self.insert(key.clone(), Value::None);
        }
        match &mut Arc::make_mut(&mut self.0).repr {
            Repr::List(list) => {
                // A list holds only integer keys below its length, and the key was just inserted.
                let i = key.as_int().unwrap_or(0) as usize;
                &mut list[i]
            }
            Repr::Map(map) => {
                let i = map.find(&key).unwrap_or(0);
                &mut map.entries[i].value
            }
        }
    }

    /// The element at `key` for changing, if there is one.
    #[inline]
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Value> {
        match &mut Arc::make_mut(&mut self.0).repr {
            Repr::List(list) => match key {
                Key::Int(n) => usize::try_from(*n).ok().and_then(|i| list.get_mut(i)),
                Key::Val(_) => None,
            },
            Repr::Map(map) => match map.find(key) {
                Some(i) => Some(&mut map.entries[i].value),
                None => None,
            },
        }
    }

    /// Removes an element; other keys stay. Returns its value.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        self.get(key)?;
        let data = Arc::make_mut(&mut self.0);
        if let Repr::List(list) = &mut data.repr {
            if key.as_int() == Some(list.len() as i64 - 1) {
                return list.pop();
            }
            data.repr = Repr::Map(Box::new(Map::from_list(std::mem::take(list))));
        }
        let old = match &mut data.repr {
            Repr::Map(map) => map.remove(key),
            Repr::List(_) => None,
        };
        data.recharge();
        old
    }

    /// Elements in insertion order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { array: self, at: 0 }
    }

    /// Values in insertion order.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.iter().map(|(_, v)| v)
    }

    /// Keys in insertion order.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.iter().map(|(k, _)| k)
    }

    /// The element at an iteration position, and the position after it. Positions start at 0 and stay valid while the
    /// array is not changed.
    #[inline]
    pub(crate) fn at_position(&self, mut at: usize) -> Option<(KeyRef<'_>, &Value, usize)> {
        match &self.0.repr {
            Repr::List(list) => list.get(at).map(|v| (KeyRef::Int(at as i64), v, at + 1)),
            Repr::Map(map) => loop {
                let entry = map.entries.get(at)?;
                at += 1;
                if !matches!(entry.value, Value::Undef) {
                    return Some((KeyRef::Key(&entry.key), &entry.value, at));
                }
            },
        }
    }

    /// The element at an iteration position and the position after it, for walks that stop in between. Positions
    /// start at 0 and stay valid while the array is not changed.
    pub fn element_at(&self, at: usize) -> Option<(Key, &Value, usize)> {
        self.at_position(at).map(|(key, value, next)| (key.to_key(), value, next))
    }

    /// The value at an iteration position and the position after it, as [`element_at`](Array::element_at).
    #[inline]
    pub fn value_at(&self, at: usize) -> Option<(&Value, usize)> {
        match &self.0.repr {
            Repr::List(list) => list.get(at).map(|v| (v, at + 1)),
            Repr::Map(_) => self.at_position(at).map(|(_, value, next)| (value, next)),
        }
    }

    /// Takes the values out in order, moving them when this is the only owner.
    pub fn into_values(mut self) -> Vec<Value> {
        match Arc::get_mut(&mut self.0) {
            Some(data) => match &mut data.repr {
                Repr::List(list) => std::mem::take(list),
                Repr::Map(map) => std::mem::take(&mut map.entries)
                    .into_iter()
                    .map(|e| e.value)
                    .filter(|v| !matches!(v, Value::Undef))
                    .collect(),
            },
            None => self.values().cloned().collect(),
        }
    }

    /// Takes keys and values out in order, moving them when this is the only owner.
    pub fn into_elements(self) -> Vec<(Key, Value)> {
        let keys: Vec<Key> = self.keys().collect();
        keys.into_iter().zip(self.into_values()).collect()
    }

    /// True when both share one block, so equality is certain.
    pub(crate) fn same_block(&self, other: &Array) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Identifies the block while the array lives.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Item `i` of a dense array for changing.
    #[inline(always)]
    pub(crate) fn slot_mut(&mut self, i: usize) -> Option<&mut Value> {
        match &self.0.repr {
            Repr::List(list) if i < list.len() => {}
            _ => return None,
        }
        match &mut Arc::make_mut(&mut self.0).repr {
            Repr::List(list) => list.get_mut(i),
            Repr::Map(_) => None,
        }
    }

    /// `a + b` (language section 7.4): integer keys of `other` are appended, others overwrite or append.
    pub fn merge(&mut self, other: &Array) {
        for (key, value) in other.iter() {
            match key {
                Key::Int(_) => {
                    self.push(value.clone());
                }
                key => {
                    self.insert(key, value.clone());
                }
            }
        }
    }
}

/// A borrowed key of an element.
pub(crate) enum KeyRef<'a> {
    Int(i64),
    Key(&'a Key),
}

impl KeyRef<'_> {
    #[inline]
    pub(crate) fn to_value(&self) -> Value {
        match self {
            KeyRef::Int(n) => Value::Number(*n as f64),
            KeyRef::Key(k) => k.to_value(),
        }
    }

    pub(crate) fn to_key(&self) -> Key {
        match self {
            KeyRef::Int(n) => Key::Int(*n),
            KeyRef::Key(k) => (*k).clone(),
        }
    }
}

/// Iterator over the elements of an [`Array`].
pub struct Iter<'a> {
    array: &'a Array,
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Key, &'a Value);

    fn next(&mut self) -> Option<(Key, &'a Value)> {
        let (key, value, next) = self.array.at_position(self.at)?;
        self.at = next;
        Some((key.to_key(), value))
    }
}

impl<'a> IntoIterator for &'a Array {
    type Item = (Key, &'a Value);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<Value> for Array {
    fn from_iter<T: IntoIterator<Item = Value>>(values: T) -> Array {
        Array::from_list(values.into_iter().collect())
    }
}

impl<K: Into<Key>> FromIterator<(K, Value)> for Array {
    fn from_iter<T: IntoIterator<Item = (K, Value)>>(pairs: T) -> Array {
        let mut array = Array::new();
        for (key, value) in pairs {
            array.insert(key.into(), value);
        }
        array
    }
}

impl Default for Array {
    fn default() -> Array {
        Array::new()
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn next_index_follows_the_highest_key() {
        let mut a = Array::from_list(vec![1.into(), 2.into(), 3.into()]);
        a.remove(&Key::Int(2));
        a.push(9);
        assert_eq!(a.keys().filter_map(|k| k.as_int()).collect::<Vec<_>>(), [0, 1, 2]);
        let mut b = Array::new();
        b.insert(Key::Int(-5), Value::None);
        b.push(1);
        assert!(b.get_int(0).is_some());
        b.insert(Key::Int(10), Value::None);
        b.remove(&Key::Int(10));
        b.push(1);
        assert!(b.get_int(1).is_some());
    }

    #[test]
    fn deep_values_are_dropped_without_native_stack() {
        let mut a = Array::new();
        for _ in 0..1_000_000 {
            a = Array::from_list(vec![Value::Array(a)]);
        }
        let b = a.clone();
        assert!(Value::Array(a.clone()).strict_eq(&Value::Array(b)));
        drop(a);
    }

    proptest! {
        /// The array behaves like an association list.
        #[test]
        fn matches_a_model(ops in proptest::collection::vec((0u8..4, -3i64..40, 0i64..100), 0..200)) {
            let before = mem::used();
            {
                let mut a = Array::new();
                let mut model: Vec<(String, i64)> = Vec::new();
                for (op, k, v) in ops {
                    let name = if k % 2 == 0 { k.to_string() } else { format!("s{k}") };
                    match op {
                        0 | 1 => {
                            a.insert(Key::from(name.as_str()), v.into());
                            match model.iter_mut().find(|e| e.0 == name) {
                                Some(e) => e.1 = v,
                                None => model.push((name, v)),
                            }
                        }
                        2 => {
                            let had = a.remove(&Key::from(name.as_str())).is_some();
                            let at = model.iter().position(|e| e.0 == name);
                            prop_assert_eq!(had, at.is_some());
                            if let Some(at) = at {
                                model.remove(at);
                            }
                        }
                        _ => {
                            let next = model.iter().filter_map(|e| e.0.parse::<i64>().ok()).max().map_or(0, |n| (n + 1).max(0));
                            a.push(v);
                            model.push((next.to_string(), v));
                        }
                    }
                    let shared = a.clone();
                    prop_assert_eq!(shared.len(), model.len());
                }
                let got: Vec<(String, i64)> = a
                    .iter()
                    .map(|(k, v)| (k.to_value().to_string_lossy(), v.as_number().unwrap_or(-1.0) as i64))
                    .collect();
                prop_assert_eq!(got, model);
            }
            prop_assert_eq!(mem::used(), before);
        }
    }

    #[test]
    fn nested_keys_are_found_without_a_look_at_their_depths() {
        // Each key holds all keys before it; compared to its depths at each search this would not come to an end.
        let mut a = Array::new();
        for n in 0..200 {
            let mut key = a.clone();
            key.merge(&a);
            let mut value = Array::new();
            value.push(Value::Array(a.clone()));
            a.insert(Key::Val(Value::Array(key.clone())), Value::Array(value));
            assert_eq!(a.len(), n + 1);
            assert!(a.get_value(&Value::Array(key)).is_some());
        }
        let nan = Value::Array(Array::from_list(vec![Value::Number(f64::NAN)]));
        assert!(!nan.strict_eq(&nan));
        a.insert(Key::Val(nan.clone()), 1.into());
        assert_eq!(a.get_value(&nan).map(Value::to_number), Some(1.0));
    }
}
