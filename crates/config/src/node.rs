//! YAML as an ordered tree, to change a file and write it again with its key order.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt::{self, Write};

/// Any YAML value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the YAML types")]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(pairs) => pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, made an empty map or list where it is absent or null.
    pub fn entry(&mut self, key: &str, default: Node) -> &mut Node {
        if !matches!(self, Node::Map(_)) {
            *self = Node::Map(Vec::new());
        }
        let Node::Map(pairs) = self else { unreachable!("it was made a map above") };
        let index = match pairs.iter().position(|(known, _)| known == key) {
            Some(index) => index,
            None => {
                pairs.push((key.to_owned(), Node::Null));
                pairs.len() - 1
            }
        };
        let value = &mut pairs[index].1;
        if *value == Node::Null {
            *value = default;
        }
        value
    }

    /// Sets the value of a key, in place or at the end.
    pub fn set(&mut self, key: &str, value: Node) {
        *self.entry(key, Node::Null) = value;
    }

    /// Removes a key of a map; gives what it had.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let Node::Map(pairs) = self else { return None };
        let index = pairs.iter().position(|(known, _)| known == key)?;
        Some(pairs.remove(index).1)
    }

    /// The document as YAML: block style, literal blocks for text of several lines, nothing folded.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        match self {
            Node::Map(pairs) if !pairs.is_empty() => write_map(&mut out, pairs, 0, false),
            Node::List(items) if !items.is_empty() => write_list(&mut out, items, 0),
            scalar => {
                write_scalar(&mut out, scalar, 0);
                out.push('\n');
            }
        }
        out
    }
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn write_map(out: &mut String, pairs: &[(String, Node)], depth: usize, mut inline_first: bool) {
    for (key, value) in pairs {
        if !std::mem::take(&mut inline_first) {
            indent(out, depth);
        }
        write_string(out, key);
        out.push(':');
        write_value(out, value, depth);
    }
}

fn write_list(out: &mut String, items: &[Node], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push('-');
        match item {
            Node::Map(pairs) if !pairs.is_empty() => {
                out.push(' ');
                write_map(out, pairs, depth + 1, true);
            }
            other => write_value(out, other, depth),
        }
    }
}

fn write_value(out: &mut String, value: &Node, depth: usize) {
    match value {
        Node::Map(pairs) if !pairs.is_empty() => {
            out.push('\n');
            write_map(out, pairs, depth + 1, false);
        }
        Node::List(items) if !items.is_empty() => {
            out.push('\n');
            write_list(out, items, depth + 1);
        }
        scalar => {
            out.push(' ');
            write_scalar(out, scalar, depth);
            out.push('\n');
        }
    }
}

fn write_scalar(out: &mut String, value: &Node, depth: usize) {
    // Writing to a String cannot fail.
    let _ = match value {
        Node::Null => write!(out, "null"),
        Node::Bool(value) => write!(out, "{value}"),
        Node::Int(value) => write!(out, "{value}"),
        Node::Float(value) => write!(out, "{value:?}"),
        Node::List(_) => write!(out, "[]"),
        Node::Map(_) => write!(out, "{{}}"),
        Node::Str(text) if is_literal(text) => {
            let chomp = match (text.ends_with('\n'), text.ends_with("\n\n")) {
                (false, _) => "-",
                (true, false) => "",
                (true, true) => "+",
            };
            // The explicit indentation keeps a first line that begins with spaces.
            let _ = write!(out, "|2{chomp}");
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                out.push('\n');
                if !line.is_empty() {
                    indent(out, depth + 1);
                    out.push_str(line);
                }
            }
            Ok(())
        }
        Node::Str(text) => {
            write_string(out, text);
            Ok(())
        }
    };
}

/// Text of several lines that a literal block can hold.
fn is_literal(text: &str) -> bool {
    text.contains('\n')
        && !text.trim_matches('\n').is_empty()
        && !text.starts_with('\n')
        && text.chars().all(|c| {
            c == '\n'
                || c == '\t'
                || (c >= ' '
                    && c != '\u{7f}'
                    && !('\u{80}'..='\u{9f}').contains(&c)
                    && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
        })
        && !text.split('\n').any(|line| !line.is_empty() && line.trim().is_empty())
}

fn write_string(out: &mut String, text: &str) {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/' | b'.'))
        && text.as_bytes()[0].is_ascii_alphabetic()
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || ('\u{7f}'..='\u{9f}').contains(&c) => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Int(value))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
                Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Str(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut pairs: Vec<(String, Node)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Node>()? {
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("duplicate key '{key}'")));
                    }
                    pairs.push((key, value));
                }
                Ok(Node::Map(pairs))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
