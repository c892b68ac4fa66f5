//! Values and messages as the shell shows them.

use hsl::{Array, Diagnostic, Value};
use std::fmt::Write;

/// Nested arrays shown; deeper ones are dots.
const DEPTH_MAX: usize = 8;
/// Elements shown of one array.
const ELEMENTS_MAX: usize = 100;
/// Bytes shown of one string.
const STRING_BYTES_MAX: usize = 10_000;

/// A value in the notation of the language.
pub fn show(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    out
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Str(text) => write_text(out, text.as_bytes()),
        Value::Array(array) => write_array(out, array, depth),
        Value::Object(object) => {
            out.push_str("Object(");
            out.push_str(object.class_name());
            out.push(')');
        }
        Value::Function(function) => {
            out.push_str("function ");
            out.push_str(function.name());
        }
        Value::Resource(_) => out.push_str("resource"),
        Value::None | Value::Undef => out.push_str("none"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Number(_) => out.push_str(&value.to_string_lossy()),
    }
}

fn write_array(out: &mut String, array: &Array, depth: usize) {
    if depth >= DEPTH_MAX && !array.is_empty() {
        return out.push_str("[...]");
    }
    out.push('[');
    let list = array.is_list();
    for (i, (key, value)) in array.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if i >= ELEMENTS_MAX {
            out.push_str("...");
            break;
        }
        if !list {
            write_value(out, &key.to_value(), DEPTH_MAX);
            out.push_str(" => ");
        }
        write_value(out, value, depth + 1);
    }
    out.push(']');
}

fn write_text(out: &mut String, text: &[u8]) {
    let shown = &text[..text.len().min(STRING_BYTES_MAX)];
    out.push('"');
    for chunk in shown.utf8_chunks() {
        let mut chars = chunk.valid().chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '$' if chars.peek().is_some_and(|n| n.is_ascii_alphabetic() || matches!(n, '_' | '{')) => {
                    out.push_str("\\$");
                }
                c if c.is_control() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| write_byte(out, b));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| write_byte(out, *b));
    }
    out.push('"');
    if shown.len() < text.len() {
        out.push_str("...");
    }
}

fn write_byte(out: &mut String, byte: u8) {
    // Writing to a string does not fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// [`show`], in a colour for the type if asked for.
pub fn coloured(value: &Value, colour: bool) -> String {
    let code = match value {
        _ if !colour => "",
        Value::Str(_) => "\x1b[32m",
        Value::Number(_) => "\x1b[36m",
        Value::Bool(_) => "\x1b[33m",
        Value::Object(_) | Value::Function(_) | Value::Resource(_) => "\x1b[35m",
        _ => "",
    };
    let off = if code.is_empty() { "" } else { "\x1b[0m" };
    format!("{code}{}{off}", show(value))
}

/// A failure with its source line and the calls that led to it.
pub fn failure(error: &hsl::ScriptError, colour: bool) -> String {
    format!("{}{}", diagnostic(&error.diagnostic, colour), printable(&error.trace()))
}

/// A message with its source line and a caret, in colour if asked for.
pub fn diagnostic(d: &Diagnostic, colour: bool) -> String {
    let (bold, off) = match (colour, d.severity) {
        (false, _) => ("", ""),
        (true, hsl::Severity::Warning) => ("\x1b[1;33m", "\x1b[0m"),
        (true, _) => ("\x1b[1;31m", "\x1b[0m"),
    };
    let label = if d.severity == hsl::Severity::Warning { "warning: " } else { "" };
    let mut out = format!("{}: {bold}{label}{}{off}", d.place, printable(&d.message));
    for step in &d.path {
        out.push_str(&format!("\n  included from {step}"));
    }
    if !d.source_line.is_empty() {
        let before = (d.place.column as usize).saturating_sub(1);
        let caret: String = d
            .source_line
            .char_indices()
            .take_while(|(at, _)| *at < before)
            .map(|(_, c)| if c == '\t' { '\t' } else { ' ' })
            .collect();
        out.push_str(&format!("\n  | {}\n  | {caret}{bold}^{off}", printable(&d.source_line)));
    }
    out
}

/// Without control characters, which could move the cursor or worse.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\t' | '\n') { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let mut array = Array::new();
        array.insert_str("a", 1.5);
        array.insert_str("b", Value::from(Array::from_list(vec![Value::None, true.into()])));
        for (value, text) in [
            (Value::from("a\"b\\\n$x $ 5\u{1b}é"), "\"a\\\"b\\\\\\n\\$x $ 5\\x1bé\""),
            (Value::bytes(b"\xff"), "\"\\xff\""),
            (Value::from(array), "[\"a\" => 1.5, \"b\" => [none, true]]"),
            (Value::from(Array::new()), "[]"),
        ] {
            assert_eq!(show(&value), text);
        }
    }

    #[test]
    fn large_values_are_cut() {
        let mut value = Value::from(Array::from_list(vec![1.0.into(); 200]));
        assert!(show(&value).ends_with("1, ...]"));
        for _ in 0..20 {
            value = Value::from(Array::from_list(vec![value]));
        }
        assert_eq!(show(&value), format!("{}[...]{}", "[".repeat(8), "]".repeat(8)));
        assert!(show(&Value::from("x".repeat(20_000).as_str())).ends_with("\"..."));
    }
}
