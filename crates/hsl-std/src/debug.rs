//! Values of variables as a debugger gets them: JSON text of `{"name": {"format": "json", "value": "<json text>"}}`.
//!
//! A string that is not UTF-8 comes as `"format": "base64"`; an array with such a string inside as the base64 form of its
//! JSON text with the bytes left as they are. Objects, functions and resources are strings that name them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsl::{Array, Value};
use std::sync::Arc;

/// Longest text of one value, bytes; what is longer is cut.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting that is shown.
const DEPTH_MAX: u32 = 32;

/// What is said of an exception that is about to be raised.
#[derive(Debug, Clone)]
pub struct Raised<'a> {
    /// What a handler would get.
    pub value: &'a Value,
    /// Whether there is one.
    pub caught: bool,
}

/// The JSON text; an exception becomes the member `__throw`.
pub fn values(raised: Option<&Raised<'_>>, variables: &[(Arc<str>, Value)]) -> String {
    let mut out = String::from("{");
    if let Some(raised) = raised {
        let message = match raised.value {
            Value::Object(_) => raised.value.to_string_lossy(),
            other => String::from_utf8_lossy(&json(other)).into_owned(),
        };
        member(&mut out, "__throw", raised.value, &mut |out| {
            out.push_str(",\"uncaught\":");
            out.push_str(if raised.caught { "false" } else { "true" });
            out.push_str(",\"message\":");
            text(out, &message);
        });
    }
    for (name, value) in variables {
        member(&mut out, name, value, &mut |_| {});
    }
    out.push('}');
    out
}

fn member(out: &mut String, name: &str, value: &Value, more: &mut dyn FnMut(&mut String)) {
    if out.len() > 1 {
        out.push(',');
    }
    text(out, name);
    let (format, shown) = match value {
        // What is not UTF-8 is shown as it is, not as JSON.
        Value::Str(s) if std::str::from_utf8(s.as_bytes()).is_err() => {
            let bytes = s.as_bytes();
            ("base64", STANDARD.encode(&bytes[..bytes.len().min(VALUE_BYTES_MAX)]))
        }
        other => match String::from_utf8(json(other)) {
            Ok(shown) => ("json", shown),
            Err(bytes) => ("base64", STANDARD.encode(bytes.as_bytes())),
        },
    };
    out.push_str(":{\"format\":\"");
    out.push_str(format);
    out.push_str("\",\"value\":");
    text(out, &shown);
    more(out);
    out.push('}');
}

/// Appends a JSON string.
fn text(out: &mut String, value: &str) {
    out.push_str(&serde_json::Value::from(value).to_string());
}

/// JSON text of a value; bytes of strings that are not UTF-8 stay as they are.
fn json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value, 0);
    out
}

fn write(out: &mut Vec<u8>, value: &Value, depth: u32) {
    match value {
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) if n.is_finite() => out.extend_from_slice(value.to_string_lossy().as_bytes()),
        // JSON has no such number.
        Value::Number(_) => write_bytes(out, value.to_string_lossy().as_bytes()),
        Value::Str(s) => write_bytes(out, s.as_bytes()),
        Value::Array(array) => write_array(out, array, depth),
        Value::Object(object) => write_bytes(out, format!("Object({})", object.class_name()).as_bytes()),
        Value::Function(_) | Value::Resource(_) => write_bytes(out, value.to_string_lossy().as_bytes()),
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array, depth: u32) {
    let list = array.is_list();
    out.push(if list { b'[' } else { b'{' });
    if depth >= DEPTH_MAX {
        write_bytes(out, b"...");
        out.extend_from_slice(if list { b"]" } else { b":\"...\"}" });
        return;
    }
    for (i, (key, value)) in array.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if out.len() > VALUE_BYTES_MAX {
            write_bytes(out, b"...");
            if !list {
                out.extend_from_slice(b":\"...\"");
            }
            break;
        }
        if !list {
            write_bytes(out, key.to_value().to_str().as_bytes());
            out.push(b':');
        }
        write(out, value, depth + 1);
    }
    out.push(if list { b']' } else { b'}' });
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let cut = bytes.len() > VALUE_BYTES_MAX;
    let bytes = if cut { &bytes[..VALUE_BYTES_MAX] } else { bytes };
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        let quoted = serde_json::Value::from(chunk.valid()).to_string();
        out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        out.extend_from_slice(chunk.invalid());
    }
    if cut {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: Value) -> String {
        values(None, &[("v".into(), value)])
    }

    #[test]
    fn by_type() {
        let mut map = Array::new();
        map.insert_str("k", 1.5);
        map.push("a\"b");
        let cases: Vec<(Value, &str)> = vec![
            (Value::None, r#"{"v":{"format":"json","value":"null"}}"#),
            (Value::Bool(true), r#"{"v":{"format":"json","value":"true"}}"#),
            (Value::Number(3.0), r#"{"v":{"format":"json","value":"3"}}"#),
            (Value::Number(f64::INFINITY), r#"{"v":{"format":"json","value":"\"inf\""}}"#),
            (Value::bytes("ö\n".as_bytes()), r#"{"v":{"format":"json","value":"\"ö\\n\""}}"#),
            (Value::bytes(b"\xff\x00"), r#"{"v":{"format":"base64","value":"/wA="}}"#),
            (
                Value::Array(Array::from_list(vec![Value::Number(1.0), Value::None])),
                r#"{"v":{"format":"json","value":"[1,null]"}}"#,
            ),
            (Value::Array(map), r#"{"v":{"format":"json","value":"{\"k\":1.5,\"0\":\"a\\\"b\"}"}}"#),
            (
                Value::Array(Array::from_list(vec![Value::bytes(b"\xff")])),
                r#"{"v":{"format":"base64","value":"WyL/Il0="}}"#,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(one(value.clone()), expected, "{value:?}");
        }
    }

    #[test]
    fn an_exception_says_whether_it_is_caught() {
        let thrown = Value::bytes(b"oh");
        let shown = values(Some(&Raised { value: &thrown, caught: false }), &[("a".into(), Value::None)]);
        assert_eq!(
            shown,
            r#"{"__throw":{"format":"json","value":"\"oh\"","uncaught":true,"message":"\"oh\""},"a":{"format":"json","value":"null"}}"#
        );
    }

    #[test]
    fn long_and_deep_values_are_cut() {
        let mut deep = Value::None;
        for _ in 0..100 {
            deep = Value::Array(Array::from_list(vec![deep]));
        }
        let long = Value::Array(Array::from_list(vec![Value::bytes(&[b'x'; 1000]); 1000]));
        for value in [deep, long, Value::bytes(&vec![b'y'; 1 << 20])] {
            let shown = one(value);
            assert!(shown.len() < 2 * VALUE_BYTES_MAX, "{}", shown.len());
            let outer: serde_json::Value = serde_json::from_str(&shown).unwrap();
            let inner = outer["v"]["value"].as_str().unwrap();
            serde_json::from_str::<serde_json::Value>(inner).unwrap();
        }
    }
}
