//! JSON and CSV, and the decoders of imported data files (library section 6, language section 12.4).

use crate::crypto::keys::{PrivateKey, certificate_value};
use hsl::{Array, DataError, Key, Str, Value, decode_text, parse_number, write_number};
use openssl::x509::X509;

/// Nesting of JSON and YAML.
const DEPTH_MAX: usize = 512;

/// Decodes an imported data file; the decoder behind [`hsl::Loader::decode`].
///
/// # Errors
/// The line and what is wrong.
pub fn decode(kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
    match kind {
        "txt" => Ok(decode_text(data, options)),
        "json" => decode_json(data, true).map_err(|offset| DataError {
            line: 1 + data[..offset.min(data.len())].iter().filter(|c| **c == b'\n').count() as u32,
            message: "Invalid JSON".into(),
        }),
        "csv" => decode_csv(data, options),
        "yaml" => crate::yaml::decode(data).map_err(|e| DataError { line: e.line, message: e.message }),
        "key" => PrivateKey::from_pem(data).map(PrivateKey::into_value).ok_or_else(|| DataError {
            line: 1,
            message: "Expected a PEM private key without password (RSA, Ed25519, EC)".into(),
        }),
        "crt" => decode_certificates(data, options.get_str("resource").is_some_and(Value::truthy)),
        _ => Err(DataError { line: 1, message: format!("No decoder for '{kind}' data") }),
    }
}

/// The certificates of a PEM file, as objects of class `X509` or as resources.
fn decode_certificates(data: &[u8], resources: bool) -> Result<Value, DataError> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let starts: Vec<usize> = memchr::memmem::find_iter(data, BEGIN).collect();
    let ends = starts.iter().copied().skip(1).chain([data.len()]);
    let mut list = Vec::new();
    for (start, end) in starts.iter().copied().zip(ends) {
        let block = &data[start..end];
        if !block[BEGIN.len()..].starts_with(b"CERTIFICATE-----") {
            continue;
        }
        let certificate = X509::from_pem(block).map_err(|_| DataError {
            line: 1 + memchr::memchr_iter(b'\n', &data[..start]).count() as u32,
            message: "Certificate cannot be read".into(),
        })?;
        list.push(if resources {
            certificate_value(certificate)
        } else {
            crate::crypto::x509::object(certificate)
        });
    }
    if list.is_empty() {
        return Err(DataError { line: 1, message: "Expected PEM certificates".into() });
    }
    Ok(list.into())
}

/// The JSON text of a value; `None` when it has none.
pub fn to_json(value: &Value) -> Option<String> {
    let mut out = Vec::new();
    encode_json(value, &JsonStyle { ensure_ascii: false, pretty: false }, 0, &mut out)?;
    String::from_utf8(out).ok()
}

// ---- JSON ----

/// Parses a JSON text; the error is the offset of the failure.
pub(crate) fn decode_json(text: &[u8], comments: bool) -> Result<Value, usize> {
    let mut p = Json { text, at: 0, comments };
    p.space()?;
    let value = p.value(0)?;
    p.space()?;
    if p.at == text.len() { Ok(value) } else { Err(p.at) }
}

struct Json<'a> {
    text: &'a [u8],
    at: usize,
    comments: bool,
}

impl Json<'_> {
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) -> Result<(), usize> {
        loop {
            match self.peek() {
                b' ' | b'\t' | b'\r' | b'\n' if self.at < self.text.len() => self.at += 1,
                b'/' if self.comments => {
                    let rest = &self.text[self.at..];
                    if rest.starts_with(b"//") {
                        self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    } else if rest.starts_with(b"/*") {
                        self.at += 2 + 2 + memchr::memmem::find(&rest[2..], b"*/").ok_or(self.at)?;
                    } else {
                        return Err(self.at);
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn literal(&mut self, word: &[u8], value: Value) -> Result<Value, usize> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.at);
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, usize> {
        match self.peek() {
            b'{' | b'[' if depth >= DEPTH_MAX => Err(self.at),
            b'"' => Ok(Value::Str(self.string()?)),
            b'{' => {
                self.at += 1;
                let mut object = Array::new();
                self.space()?;
                if self.peek() == b'}' {
                    self.at += 1;
                    return Ok(object.into());
                }
                loop {
                    self.space()?;
                    if self.peek() != b'"' {
                        return Err(self.at);
                    }
                    let key = self.string()?;
                    self.space()?;
                    if self.peek() != b':' {
                        return Err(self.at);
                    }
                    self.at += 1;
                    self.space()?;
                    let value = self.value(depth + 1)?;
                    object.insert(Key::of_str(&key), value);
                    self.space()?;
                    match self.peek() {
                        b',' => self.at += 1,
                        b'}' => {
                            self.at += 1;
                            return Ok(object.into());
                        }
                        _ => return Err(self.at),
                    }
                }
            }
            b'[' => {
                self.at += 1;
                let mut list = Vec::new();
                self.space()?;
                if self.peek() == b']' {
                    self.at += 1;
                    return Ok(list.into());
                }
                loop {
                    self.space()?;
                    list.push(self.value(depth + 1)?);
                    self.space()?;
                    match self.peek() {
                        b',' => self.at += 1,
                        b']' => {
                            self.at += 1;
                            return Ok(list.into());
                        }
                        _ => return Err(self.at),
                    }
                }
            }
            b't' => self.literal(b"true", Value::Bool(true)),
            b'f' => self.literal(b"false", Value::Bool(false)),
            b'n' => self.literal(b"null", Value::None),
            _ => self.number(),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Value, usize> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let zero = self.peek() == b'0';
        let whole = self.digits();
        if whole == 0 || (zero && whole > 1) {
            return Err(start);
        }
        let mut simple = whole <= 15;
        if self.peek() == b'.' {
            simple = false;
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.at);
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            simple = false;
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.at);
            }
        }
        let text = &self.text[start..self.at];
        if simple {
            let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |d| (true, d));
            let n = digits.iter().fold(0i64, |n, c| n * 10 + i64::from(c - b'0')) as f64;
            return Ok(Value::Number(if negative { -n } else { n }));
        }
        match std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok()) {
            Some(n) if n.is_finite() => Ok(Value::Number(n)),
            _ => Err(start),
        }
    }

    fn string(&mut self) -> Result<Str, usize> {
        self.at += 1;
        let start = self.at;
        // Most strings have no escapes and are taken in one piece.
        while let Some(c) = self.text.get(self.at) {
            match c {
                b'"' => {
                    let bytes = &self.text[start..self.at];
                    if std::str::from_utf8(bytes).is_err() {
                        return Err(start);
                    }
                    self.at += 1;
                    return Ok(Str::from_bytes(bytes));
                }
                b'\\' => break,
                0..=0x1f => return Err(self.at),
                _ => self.at += 1,
            }
        }
        let mut out = self.text[start..self.at].to_vec();
        loop {
            let c = *self.text.get(self.at).ok_or(self.at)?;
            self.at += 1;
            match c {
                b'"' => {
                    if std::str::from_utf8(&out).is_err() {
                        return Err(start);
                    }
                    return Ok(Str::from_vec(out));
                }
                b'\\' => self.escape(&mut out)?,
                0..=0x1f => return Err(self.at - 1),
                c => out.push(c),
            }
        }
    }

    fn hex(&mut self) -> Result<u32, usize> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(self.at)?;
        let n =
            digits.iter().try_fold(0u32, |n, c| Some(n * 16 + (*c as char).to_digit(16)?)).ok_or(self.at)?;
        self.at += 4;
        Ok(n)
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), usize> {
        let c = *self.text.get(self.at).ok_or(self.at)?;
        self.at += 1;
        out.push(match c {
            b'"' | b'\\' | b'/' => c,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.hex()?;
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xdc00..0xe000).contains(&low) {
                        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    } else {
                        self.at = back;
                    }
                }
                // A lone surrogate has no character.
                let c = char::from_u32(code).unwrap_or('\u{fffd}');
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.at - 1),
        });
        Ok(())
    }
}

/// How JSON is written.
pub(crate) struct JsonStyle {
    pub(crate) ensure_ascii: bool,
    pub(crate) pretty: bool,
}

/// Writes a value; `None` when it has no JSON form.
pub(crate) fn encode_json(value: &Value, style: &JsonStyle, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    if out.len() > crate::support::STRING_MAX {
        return None;
    }
    match value {
        Value::Array(_) if depth >= DEPTH_MAX => return None,
        Value::None => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) if n.is_finite() => write_number(out, *n),
        Value::Str(s) => encode_json_string(s.as_bytes(), style, out)?,
        Value::Array(a) => {
            let list = a.is_list();
            let (open, close) = if list { (b'[', b']') } else { (b'{', b'}') };
            out.push(open);
            let line = |out: &mut Vec<u8>, depth: usize| {
                if style.pretty {
                    out.push(b'\n');
                    out.resize(out.len() + 4 * depth, b' ');
                }
            };
            let mut first = true;
            for (key, value) in a.iter() {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                line(out, depth + 1);
                if !list {
                    encode_json_string(key.to_value().to_str().as_bytes(), style, out)?;
                    out.extend_from_slice(if style.pretty { b": " } else { b":" });
                }
                encode_json(value, style, depth + 1, out)?;
            }
            if !a.is_empty() {
                line(out, depth);
            }
            out.push(close);
        }
        _ => return None,
    }
    Some(())
}

fn encode_json_string(bytes: &[u8], style: &JsonStyle, out: &mut Vec<u8>) -> Option<()> {
    out.push(b'"');
    let plain = |c: &u8| (0x20..0x7f).contains(c) && *c != b'"' && *c != b'\\';
    if bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return Some(());
    }
    for c in std::str::from_utf8(bytes).ok()?.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c if c.is_ascii() => out.push(c as u8),
            c if style.ensure_ascii => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
    Some(())
}

// ---- CSV ----

struct Column {
    kind: Kind,
    /// Words that mean none.
    none: Vec<Str>,
    yes: Vec<Str>,
    no: Vec<Str>,
}

#[derive(PartialEq)]
enum Kind {
    Text,
    Number,
    Boolean,
}

fn words(v: Option<&Value>, default: &[&str]) -> Vec<Str> {
    match v {
        Some(Value::Array(list)) => list.values().map(Value::to_str).collect(),
        _ => default.iter().map(|w| Str::from(*w)).collect(),
    }
}

fn column(schema: &Array, line: u32) -> Result<Column, DataError> {
    let kind = match schema.get_str("type").and_then(Value::as_str_bytes) {
        None | Some(b"string") => Kind::Text,
        Some(b"number") => Kind::Number,
        Some(b"boolean") => Kind::Boolean,
        Some(other) => {
            let message = format!("Unknown schema type '{}'", String::from_utf8_lossy(other));
            return Err(DataError { line, message });
        }
    };
    let none = match schema.get_str("nullable") {
        Some(Value::Array(list)) => list.values().map(Value::to_str).collect(),
        Some(v) if v.truthy() => vec![Str::new()],
        _ => Vec::new(),
    };
    let yes = words(schema.get_str("true"), &["true"]);
    let no = words(schema.get_str("false"), &["false"]);
    Ok(Column { kind, none, yes, no })
}

impl Column {
    fn read(&self, field: &[u8], line: u32) -> Result<Value, DataError> {
        let is = |list: &[Str]| list.iter().any(|w| w.as_bytes() == field);
        if is(&self.none) {
            return Ok(Value::None);
        }
        let shown = || String::from_utf8_lossy(field).into_owned();
        match self.kind {
            Kind::Text => Ok(Value::bytes(field)),
            Kind::Number => parse_number(field)
                .map(Value::Number)
                .ok_or_else(|| DataError { line, message: format!("'{}' is not a number", shown()) }),
            Kind::Boolean if is(&self.yes) => Ok(Value::Bool(true)),
            Kind::Boolean if is(&self.no) => Ok(Value::Bool(false)),
            Kind::Boolean => Err(DataError { line, message: format!("'{}' is not a boolean", shown()) }),
        }
    }
}

/// Parses CSV with the options of `csv_decode`.
pub(crate) fn decode_csv(text: &[u8], options: &Array) -> Result<Value, DataError> {
    let delimiter = match options.get_str("delimiter").map(Value::to_str) {
        None => b',',
        Some(d) => match d.as_bytes() {
            [c] => *c,
            _ => return Err(DataError { line: 1, message: "Delimiter must be one byte".into() }),
        },
    };
    let header = options.get_str("header").is_none_or(Value::truthy);
    let schema = options.get_str("schema").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut names: Option<Vec<Str>> = None;
    let mut columns: Vec<Option<Column>> = Vec::new();
    let mut rows: Vec<Value> = Vec::new();
    let mut reader = Csv { text, at: 0, line: 1, delimiter };
    while let Some((line, fields)) = reader.row()? {
        if header && names.is_none() {
            for name in &fields {
                let rule = schema.get_bytes(name.as_bytes()).and_then(Value::as_array);
                columns.push(rule.map(|r| column(r, line)).transpose()?);
            }
            names = Some(fields);
            continue;
        }
        if !header && columns.len() < fields.len() {
            for i in columns.len()..fields.len() {
                let rule = schema.get_int(i as i64).and_then(Value::as_array);
                columns.push(rule.map(|r| column(r, line)).transpose()?);
            }
        }
        let mut row = Array::new();
        for (i, field) in fields.into_iter().enumerate() {
            let value = match columns.get(i) {
                Some(Some(column)) => column.read(field.as_bytes(), line)?,
                _ => Value::Str(field),
            };
            match &names {
                None => {
                    row.push(value);
                }
                Some(names) => match names.get(i) {
                    Some(name) => {
                        row.insert(Key::of_str(name), value);
                    }
                    None => return Err(DataError { line, message: "More fields than columns".into() }),
                },
            }
        }
        rows.push(row.into());
    }
    Ok(rows.into())
}

struct Csv<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    delimiter: u8,
}

impl Csv<'_> {
    /// The next row that is not blank, with its line.
    fn row(&mut self) -> Result<Option<(u32, Vec<Str>)>, DataError> {
        loop {
            if self.at >= self.text.len() {
                return Ok(None);
            }
            let line = self.line;
            if self.line_end() {
                continue;
            }
            let mut fields = vec![self.field()?];
            loop {
                if self.text.get(self.at) == Some(&self.delimiter) {
                    self.at += 1;
                    fields.push(self.field()?);
                } else if self.at >= self.text.len() || self.line_end() {
                    return Ok(Some((line, fields)));
                } else {
                    return Err(DataError { line: self.line, message: "Text after a closing quote".into() });
                }
            }
        }
    }

    fn line_end(&mut self) -> bool {
        let n = match &self.text[self.at..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => return false,
        };
        self.at += n;
        self.line += 1;
        true
    }

    fn field(&mut self) -> Result<Str, DataError> {
        if self.text.get(self.at) != Some(&b'"') {
            let rest = &self.text[self.at..];
            let mut len = rest.iter().position(|c| *c == self.delimiter || *c == b'\n').unwrap_or(rest.len());
            if rest.get(len) == Some(&b'\n') && len > 0 && rest[len - 1] == b'\r' {
                len -= 1;
            }
            self.at += len;
            return Ok(Str::from_bytes(&rest[..len]));
        }
        let line = self.line;
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            match rest {
                [b'"', b'"', ..] => {
                    out.push(b'"');
                    self.at += 2;
                }
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(Str::from_vec(out));
                }
                [c, ..] => {
                    self.line += u32::from(*c == b'\n');
                    out.push(*c);
                    self.at += 1;
                }
                [] => return Err(DataError { line, message: "Quote is never closed".into() }),
            }
        }
    }
}

/// One row of CSV; `None` when a value cannot be a field.
pub(crate) fn encode_csv_row(values: &Array, delimiter: u8, out: &mut Vec<u8>) -> Option<()> {
    for (i, value) in values.values().enumerate() {
        if i > 0 {
            out.push(delimiter);
        }
        let text = match value {
            Value::None => Str::new(),
            Value::Bool(_) | Value::Number(_) | Value::Str(_) => value.to_str(),
            _ => return None,
        };
        let special = |c: &u8| *c == delimiter || matches!(c, b'"' | b'\r' | b'\n' | b'\t' | b' ');
        if text.as_bytes().iter().any(special) {
            out.push(b'"');
            for c in text.as_bytes() {
                if *c == b'"' {
                    out.push(b'"');
                }
                out.push(*c);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trip() {
        let style = JsonStyle { ensure_ascii: true, pretty: false };
        for text in
            [r#"{"a":[1,2.5,"x\n\u00e5"],"b":{"c":null,"d":true}}"#, "[]", "-0.5", r#""\ud83d\ude00""#]
        {
            let value = decode_json(text.as_bytes(), false).unwrap();
            let mut out = Vec::new();
            encode_json(&value, &style, 0, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn json_errors() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{bad", "[1,]", "01", "1.", "\"\u{1}\"", "// x\n1", "nul", "\"\\x\"", "1e999", &deep]
        {
            assert!(decode_json(bad.as_bytes(), false).is_err(), "{bad:.20}");
        }
        assert!(decode_json(b"/* a */ 1 // b", true).is_ok());
    }
}
