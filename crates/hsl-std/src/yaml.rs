//! YAML 1.2 (library section 6, `yaml_decode`): the first document, core schema.

use hsl::{Array, Key, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Why a text is no YAML.
pub(crate) struct YamlError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Parses the first document.
pub(crate) fn decode(text: &[u8]) -> Result<Value, YamlError> {
    let text =
        std::str::from_utf8(text).map_err(|_| YamlError { line: 1, message: "Not valid UTF-8".into() })?;
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options::<Node>(text, options).map(|n| n.0).map_err(|e| YamlError {
        line: e.location().map_or(1, |l| u32::try_from(l.line()).unwrap_or(u32::MAX)),
        message: e.to_string().lines().next().unwrap_or("Invalid YAML").to_owned(),
    })
}

struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Node, D::Error> {
        d.deserialize_any(NodeVisitor).map(Node)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_bytes<E>(self, v: &[u8]) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(NodeVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element::<Node>()? {
            list.push(node.0);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut array = Array::new();
        while let Some((key, value)) = map.next_entry::<Node, Node>()? {
            let key = Key::from_value(&key.0)
                .map_err(|_| serde::de::Error::custom("Key cannot be nan or infinite"))?;
            array.insert(key, value.0);
        }
        Ok(array.into())
    }
}
