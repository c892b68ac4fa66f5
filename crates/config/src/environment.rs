//! Templates of the environment in configuration files: `key: !Env "${NAME:default}"`.
//!
//! They are filled in before a file is parsed, and only in programs that were told to (`--config-env-substitution`):
//! in any other a template is an error, so that no server starts with the template's own text as a value. What comes of
//! a template has the type that its text would have without quotes (number, boolean or string).

use crate::load::Error;
use granit_parser::{Event, Parser, Span};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether this process fills templates in.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Turns the templates on for the rest of the process.
pub fn allow() {
    ALLOWED.store(true, Relaxed);
}

/// The tag of a template.
const TAG: &str = "!Env";

/// The text of a file with its templates filled in from the environment of the process.
///
/// # Errors
/// A template while they are off, one that cannot be read, and a variable that is neither set nor has a default.
pub(crate) fn fill(file: &str, text: &str) -> Result<Option<String>, Error> {
    if !text.contains(TAG) {
        return Ok(None);
    }
    let lookup = |name: &str| match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is not valid UTF-8")),
    };
    substitute(file, text, ALLOWED.load(Relaxed), &lookup)
}

type Lookup<'a> = &'a dyn Fn(&str) -> Result<Option<String>, String>;

fn substitute(file: &str, text: &str, allowed: bool, lookup: Lookup<'_>) -> Result<Option<String>, Error> {
    let mut out = String::new();
    let mut copied = 0;
    // Marks count characters.
    let mut at = Position { text, chars: 0, bytes: 0 };
    for event in Parser::new_from_str(text) {
        // The parser of the configuration says what is wrong, and better.
        let Ok((event, span)) = event else { return Ok(None) };
        let (tag, template) = match &event {
            Event::Scalar(value, _, _, Some(tag)) => (tag, Some(value)),
            Event::SequenceStart(.., Some(tag)) | Event::MappingStart(.., Some(tag)) => (tag, None),
            _ => continue,
        };
        if format!("{}{}", tag.original_handle(), tag.suffix()) != TAG {
            continue;
        }
        let fail = |message: String| fail(file, &span, message);
        let Some(template) = template else { return Err(fail(format!("{TAG} stands before a text only"))) };
        if !allowed {
            return Err(fail(format!("{TAG} needs the flag --config-env-substitution")));
        }
        let value = expand(template, lookup).map_err(fail)?;
        let start = at.seek(span.tag_start.unwrap_or(span.start).index());
        out.push_str(&text[copied..start]);
        write_scalar(&mut out, &value);
        copied = at.seek(span.end.index());
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(&text[copied..]);
    Ok(Some(out))
}

/// Turns numbers of characters into bytes, going forward only.
struct Position<'a> {
    text: &'a str,
    chars: usize,
    bytes: usize,
}

impl Position<'_> {
    fn seek(&mut self, chars: usize) -> usize {
        while self.chars < chars
            && let Some(c) = self.text.get(self.bytes..).and_then(|rest| rest.chars().next())
        {
            self.bytes += c.len_utf8();
            self.chars += 1;
        }
        self.bytes
    }
}

fn fail(file: &str, span: &Span, message: String) -> Error {
    let at = span.tag_start.unwrap_or(span.start);
    Error::Value {
        file: file.to_owned(),
        line: at.line() as u64,
        column: at.col() as u64 + 1,
        pointer: String::new(),
        message,
    }
}

/// Fills the variables of a template in; what stands around them stays.
fn expand(template: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((inside, behind)) = after.split_once('}') else {
            return Err(format!("'{template}' has no closing brace"));
        };
        let (name, default) = match inside.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.is_empty() || name.contains(['=', '\0', '$', '{', ' ']) {
            return Err(format!(
                "'{name}' is not the name of a variable, expected ${{NAME}} or ${{NAME:default}}"
            ));
        }
        out.push_str(before);
        match (lookup(name)?, default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "{name} is not set in the environment and has no default; set it or write ${{{name}:default}}"
                ));
            }
        }
        rest = behind;
        found = true;
    }
    if !found {
        return Err(format!("'{template}' names no variable, expected ${{NAME}} or ${{NAME:default}}"));
    }
    out.push_str(rest);
    Ok(out)
}

/// As it would stand there without quotes, where that is a number or a boolean; else in quotes.
fn write_scalar(out: &mut String, value: &str) {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let number =
        digits.starts_with(|c: char| c.is_ascii_digit()) && value.parse::<f64>().is_ok_and(f64::is_finite);
    if number || matches!(value, "true" | "false") {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, allowed: bool) -> Result<Option<String>, String> {
        let lookup = |name: &str| {
            Ok(match name {
                "PORT" => Some("2525".to_owned()),
                "HOST" => Some("mx\u{e9}\n\"1\"".to_owned()),
                "ON" => Some("true".to_owned()),
                "BAD" => return Err("BAD is not valid UTF-8".to_owned()),
                _ => None,
            })
        };
        substitute("f", text, allowed, &lookup).map_err(|e| e.to_string())
    }

    #[test]
    fn templates_are_filled_in_with_their_type() {
        for (text, expected) in [
            ("a: !Env \"${PORT}\"\nb: 1\n", "a: 2525\nb: 1\n"),
            ("\u{e9}: !Env ${PORT} # c\nb: !Env '${ON}'", "\u{e9}: 2525 # c\nb: true"),
            ("- !Env \"${NO:25}\"\n- {x: !Env \"${NO:a:b}\"}", "- 25\n- {x: \"a:b\"}"),
            ("a: !Env \"x${PORT}-${NO:}y\"", "a: \"x2525-y\""),
            ("a: !Env \"${HOST}\"", "a: \"mx\u{e9}\\u000a\\\"1\\\"\""),
            ("a: !Env \"${NO:}\"", "a: \"\""),
            ("a: !Env \"${NO:inf}\"\nb: !Env \"${NO:1e3}\"", "a: \"inf\"\nb: 1e3"),
        ] {
            assert_eq!(with(text, true).unwrap().as_deref(), Some(expected), "{text}");
        }
        // A text that only speaks of it.
        assert_eq!(with("a: \"!Env ${PORT}\"\n# !Env\n", false).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            (
                "a: 1\nb: !Env \"${NO}\"",
                "f:2:4: NO is not set in the environment and has no default; set it or write ${NO:default}",
            ),
            ("b: !Env \"${BAD}\"", "f:1:4: BAD is not valid UTF-8"),
            ("b: !Env \"PORT\"", "f:1:4: 'PORT' names no variable, expected ${NAME} or ${NAME:default}"),
            ("b: !Env \"${PORT\"", "f:1:4: '${PORT' has no closing brace"),
            (
                "b: !Env \"${}\"",
                "f:1:4: '' is not the name of a variable, expected ${NAME} or ${NAME:default}",
            ),
            ("b: !Env [1]", "f:1:4: !Env stands before a text only"),
        ] {
            assert_eq!(with(text, true).unwrap_err(), expected, "{text}");
        }
        assert_eq!(
            with("b: !Env \"${PORT}\"", false).unwrap_err(),
            "f:1:4: !Env needs the flag --config-env-substitution"
        );
    }
}
