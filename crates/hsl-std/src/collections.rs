//! The classes `Map` and `Set` (library section C1, C2): typed hash tables shared by reference.

use hsl::{Args, Error, FunctionDef, NativeClass, NativeObject, Object, Str, Value, shareable};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

#[derive(Clone, PartialEq, Eq, Hash)]
enum ItemKey {
    Text(Str),
    /// Bits of the double, with one zero.
    Number(u64),
    Boolean(bool),
}

impl ItemKey {
    fn to_value(&self) -> Value {
        match self {
            ItemKey::Text(s) => Value::Str(s.clone()),
            ItemKey::Number(bits) => f64::from_bits(*bits).into(),
            ItemKey::Boolean(b) => (*b).into(),
        }
    }
}

const KEY_TYPES: &[&str] = &["string", "number", "boolean"];
const VALUE_TYPES: &[&str] = &["string", "number", "boolean", "array", "function", "object", "any"];

fn type_named(args: &Args<'_>, i: usize, known: &'static [&'static str]) -> Result<&'static str, Error> {
    let name = args.bytes(i);
    known
        .iter()
        .find(|t| t.as_bytes() == name)
        .copied()
        .ok_or_else(|| Error::exception(format!("Unknown type name '{}'", String::from_utf8_lossy(name))))
}

fn key(value: &Value, kind: &str) -> Result<ItemKey, Error> {
    match value {
        Value::Str(s) if kind == "string" => Ok(ItemKey::Text(s.clone())),
        Value::Number(n) if kind == "number" && !n.is_nan() => Ok(ItemKey::Number((n + 0.0).to_bits())),
        Value::Bool(b) if kind == "boolean" => Ok(ItemKey::Boolean(*b)),
        other => Err(Error::exception(format!("Key must be {kind}, {} given", other.type_name()))),
    }
}

/// Values are dropped outside the lock.
struct Map {
    key: &'static str,
    value: &'static str,
    items: Mutex<HashMap<ItemKey, Value>>,
}

impl Map {
    fn check(&self, value: &Value) -> Result<(), Error> {
        if self.value == "any" || value.type_name() == self.value {
            return Ok(());
        }
        Err(Error::exception(format!("Value must be {}, {} given", self.value, value.type_name())))
    }
}

impl NativeObject for Map {
    fn elements(&self) -> Option<Vec<(Value, Value)>> {
        Some(self.items.lock().iter().map(|(k, v)| (k.to_value(), v.clone())).collect())
    }

    fn shareable(&self) -> bool {
        let values: Vec<Value> = self.items.lock().values().cloned().collect();
        // A map that holds itself would never end.
        values.iter().all(|v| !matches!(v, Value::Object(_)) && shareable(v))
    }
}

fn map(o: &Arc<Object>) -> Result<&Map, Error> {
    o.data::<Map>().ok_or_else(|| Error::exception("Not a Map"))
}

static MAP: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("Map")
        .constructor(FunctionDef::pure(
            "Map(keytype: string, valuetype: string) -> Map",
            "A typed map.",
            |_, a| {
                let (key, value) = (type_named(&a, 0, KEY_TYPES)?, type_named(&a, 1, VALUE_TYPES)?);
                Ok(Object::native(&MAP, Map { key, value, items: Mutex::default() }))
            },
        ))
        .method(
            "set(key: any, value: any) -> boolean",
            "Stores a value; true if the key is new.",
            |_, o, mut a| {
                let map = map(o)?;
                let key = key(a.get(0), map.key)?;
                let value = a.take(1);
                map.check(&value)?;
                let old = map.items.lock().insert(key, value);
                Ok(Value::Bool(old.is_none()).into())
            },
        )
        .method("has(key: any) -> boolean", "Whether a key exists.", |_, o, a| {
            let map = map(o)?;
            Ok(Value::Bool(map.items.lock().contains_key(&key(a.get(0), map.key)?)).into())
        })
        .method("get(key: any) -> any", "The value of a key, or none.", |_, o, a| {
            let map = map(o)?;
            let key = key(a.get(0), map.key)?;
            Ok(map.items.lock().get(&key).cloned().unwrap_or_default().into())
        })
        .method("delete(key: any) -> boolean", "Removes a key; true if it existed.", |_, o, a| {
            let map = map(o)?;
            let key = key(a.get(0), map.key)?;
            let old = map.items.lock().remove(&key);
            Ok(Value::Bool(old.is_some()).into())
        })
        .method("merge(key: any, value: any) -> boolean", "Adds to the stored value.", |_, o, mut a| {
            let map = map(o)?;
            let key = key(a.get(0), map.key)?;
            let value = a.take(1);
            map.check(&value)?;
            let mut items = map.items.lock();
            let new = match items.get_mut(&key) {
                None => {
                    items.insert(key, value);
                    true
                }
                Some(slot) => {
                    hsl::add_assign(slot, &value)?;
                    false
                }
            };
            Ok(Value::Bool(new).into())
        })
        .method("size() -> number", "Number of keys.", |_, o, _| {
            Ok(Value::from(map(o)?.items.lock().len()).into())
        })
        .method("clear() -> none", "Removes all keys.", |_, o, _| {
            let old = std::mem::take(&mut *map(o)?.items.lock());
            drop(old);
            Ok(Value::None.into())
        })
        .method("entries() -> Iterator", "Iterator of keys and values.", |_, o, _| {
            Ok(Object::iterator(map(o)?.elements().unwrap_or_default()).into())
        });
    Arc::new(class)
});

struct Set {
    key: &'static str,
    items: Mutex<HashMap<ItemKey, ()>>,
}

impl NativeObject for Set {
    fn elements(&self) -> Option<Vec<(Value, Value)>> {
        Some(self.items.lock().keys().enumerate().map(|(i, k)| (i.into(), k.to_value())).collect())
    }

    fn shareable(&self) -> bool {
        true
    }
}

fn set(o: &Arc<Object>) -> Result<&Set, Error> {
    o.data::<Set>().ok_or_else(|| Error::exception("Not a Set"))
}

static SET: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("Set")
        .constructor(FunctionDef::pure("Set(keytype: string) -> Set", "A typed set.", |_, a| {
            Ok(Object::native(&SET, Set { key: type_named(&a, 0, KEY_TYPES)?, items: Mutex::default() }))
        }))
        .method("add(key: any) -> boolean", "Adds; true if new.", |_, o, a| {
            let set = set(o)?;
            Ok(Value::Bool(set.items.lock().insert(key(a.get(0), set.key)?, ()).is_none()).into())
        })
        .method("has(key: any) -> boolean", "Whether it is in the set.", |_, o, a| {
            let set = set(o)?;
            Ok(Value::Bool(set.items.lock().contains_key(&key(a.get(0), set.key)?)).into())
        })
        .method("delete(key: any) -> boolean", "Removes; true if it was there.", |_, o, a| {
            let set = set(o)?;
            Ok(Value::Bool(set.items.lock().remove(&key(a.get(0), set.key)?).is_some()).into())
        })
        .method("size() -> number", "Number of items.", |_, o, _| {
            Ok(Value::from(set(o)?.items.lock().len()).into())
        })
        .method("clear() -> none", "Removes all.", |_, o, _| {
            set(o)?.items.lock().clear();
            Ok(Value::None.into())
        })
        .method("values() -> Iterator", "Iterator of the items.", |_, o, _| {
            Ok(Object::iterator(set(o)?.elements().unwrap_or_default()).into())
        });
    Arc::new(class)
});

/// The classes of the group.
pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    vec![Arc::clone(&MAP), Arc::clone(&SET)]
}
