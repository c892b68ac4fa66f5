//! Values with parameters: Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2183), with continuations and
//! charsets (RFC 2231) and the encoded words that many programs put in their place.

use std::collections::BTreeMap;

use crate::words;

/// No more parameters than this are kept, and no more pieces of one.
const PARAMETERS_MAX: usize = 100;

/// A value and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    value: String,
    /// Names in lower case with `*` parts, values unquoted.
    parameters: Vec<(String, Vec<u8>)>,
}

impl Parameters {
    /// Reads an unfolded field body; never fails.
    pub fn parse(text: &[u8]) -> Self {
        let mut rest = text;
        let value: Vec<u8> = without_comments(take_until(&mut rest, b";"));
        let value = words::text(value.trim_ascii()).to_ascii_lowercase().replace([' ', '\t'], "");
        let mut parameters = Vec::new();
        while !rest.is_empty() && parameters.len() < PARAMETERS_MAX {
            let name = take_until(&mut rest, b"=;");
            let name = words::text(without_comments(name).trim_ascii()).to_ascii_lowercase();
            if rest.first() == Some(&b'=') {
                rest = &rest[1..];
                let value = parameter_value(&mut rest);
                // The first one of a name counts.
                if !name.is_empty() && !parameters.iter().any(|(known, _)| *known == name) {
                    parameters.push((name, value));
                }
            }
            rest = rest.strip_prefix(b";").unwrap_or(rest);
        }
        Self { value, parameters }
    }

    /// The value in lower case, such as `text/plain`.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// A parameter as its bytes stand there.
    pub fn raw(&self, name: &str) -> Option<Vec<u8>> {
        let name = name.to_ascii_lowercase();
        self.parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    /// A parameter as text: pieces joined, charset and encoded words decoded.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        self.extended(&name).or_else(|| self.raw(&name).map(|value| words::decode(&value)))
    }

    /// The RFC 2231 form: `name*`, `name*0`, `name*0*` and so on.
    fn extended(&self, name: &str) -> Option<String> {
        let mut pieces: BTreeMap<usize, (bool, &[u8])> = BTreeMap::new();
        for (known, value) in &self.parameters {
            let Some(tail) = known.strip_prefix(name).and_then(|tail| tail.strip_prefix('*')) else {
                continue;
            };
            let (number, coded) = match tail.strip_suffix('*') {
                _ if tail.is_empty() => (0, true),
                Some(number) => (number.parse().ok()?, true),
                None => (tail.parse().ok()?, false),
            };
            pieces.entry(number).or_insert((coded, value));
        }
        let (first_coded, first) = *pieces.get(&0)?;
        let mut charset = "utf-8".to_owned();
        let mut bytes = Vec::new();
        let mut body = first;
        if first_coded {
            let mut marks = first.splitn(3, |b| *b == b'\'');
            if let (Some(name), Some(_), Some(text)) = (marks.next(), marks.next(), marks.next()) {
                charset = words::text(name);
                body = text;
            }
        }
        bytes.extend(if first_coded { percent_decoded(body) } else { body.to_vec() });
        for (number, (_, (coded, value))) in pieces.iter().enumerate().skip(1) {
            // A gap ends the value.
            if !pieces.contains_key(&number) {
                break;
            }
            bytes.extend(if *coded { percent_decoded(value) } else { value.to_vec() });
        }
        Some(words::charset_text(&bytes, &charset))
    }
}

/// A parameter for a field: quoted, or in RFC 2231 form where it is not ASCII.
pub fn write_parameter(name: &str, value: &str) -> String {
    let clean: String = value.chars().filter(|c| !c.is_control()).collect();
    if !clean.is_ascii() {
        let mut out = format!("{name}*=utf-8''");
        for b in clean.bytes() {
            // attribute-char of RFC 2231 7.
            if b.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        return out;
    }
    let token = !clean.is_empty()
        && clean.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b));
    if token {
        return format!("{name}={clean}");
    }
    format!("{name}=\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Takes what stands before one of the marks, quoted strings and comments skipped over.
fn take_until<'a>(rest: &mut &'a [u8], marks: &[u8]) -> &'a [u8] {
    let all = *rest;
    let (mut at, mut depth, mut quoted) = (0, 0_usize, false);
    while at < all.len() {
        match all[at] {
            b'\\' => at += 1,
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            b if !quoted && depth == 0 && marks.contains(&b) => break,
            _ => {}
        }
        at += 1;
    }
    let at = at.min(all.len());
    *rest = &all[at..];
    &all[..at]
}

fn parameter_value(rest: &mut &[u8]) -> Vec<u8> {
    let trimmed = rest.trim_ascii_start();
    if let Some(inside) = trimmed.strip_prefix(b"\"") {
        let mut value = Vec::new();
        let mut at = 0;
        while at < inside.len() {
            match inside[at] {
                b'"' => break,
                b'\\' if at + 1 < inside.len() => {
                    at += 1;
                    value.push(inside[at]);
                }
                b => value.push(b),
            }
            at += 1;
        }
        *rest = inside.get(at + 1..).unwrap_or_default();
        // Whatever follows the quote up to the next parameter is noise.
        take_until(rest, b";");
        return value;
    }
    without_comments(take_until(rest, b";")).trim_ascii().to_vec()
}

fn without_comments(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text[at] {
            b'\\' if depth > 0 => at += 1,
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b if depth == 0 => out.push(b),
            _ => {}
        }
        at += 1;
    }
    out
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'%'
            && let (Some(high), Some(low)) = (hex(text.get(at + 1)), hex(text.get(at + 2)))
        {
            // Two hex digits.
            out.push((high * 16 + low) as u8);
            at += 3;
            continue;
        }
        out.push(text[at]);
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_and_parameters() {
        let p = Parameters::parse(
            b"Text / Plain (a;b) ; Charset=\"utf-8\" x; name=a\\b;name=second; =q; bare; e=\"\\\"\"",
        );
        assert_eq!(p.value(), "text/plain");
        assert_eq!(p.get("CHARSET").as_deref(), Some("utf-8"));
        assert_eq!(p.get("name").as_deref(), Some("a\\b"));
        assert_eq!(p.get("e").as_deref(), Some("\""));
        assert_eq!(p.get("bare"), None);
    }

    #[test]
    fn extended_parameters() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"a; filename*=utf-8''r%C3%A9sum%C3%A9.pdf", Some("r\u{e9}sum\u{e9}.pdf")),
            (b"a; filename*=iso-8859-1'en'%E9", Some("\u{e9}")),
            (b"a; filename*0*=utf-8''%C3; filename*1*=%A9; filename*2=\".x\"", Some("\u{e9}.x")),
            (b"a; filename*1=b; filename*0=a", Some("ab")),
            (b"a; filename*0=a; filename*2=c", Some("a")),
            (b"a; filename=plain; filename*=utf-8''better", Some("better")),
            (b"a; filename==?utf-8?Q?=C3=A9?=", Some("\u{e9}")),
            (b"a; filename*=%zz", Some("%zz")),
            (b"a", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                Parameters::parse(text).get("filename").as_deref(),
                *expected,
                "{}",
                text.escape_ascii()
            );
        }
    }

    proptest! {
        #[test]
        fn written_parameters_read_back(value in "[ -~\u{e9}\u{20ac}]{0,40}") {
            let text = format!("x/y; {}", write_parameter("n", &value));
            let read = Parameters::parse(text.as_bytes()).raw("n");
            if value.is_ascii() {
                prop_assert_eq!(read, Some(value.into_bytes()));
            } else {
                prop_assert_eq!(Parameters::parse(text.as_bytes()).get("n"), Some(value));
            }
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..120)) {
            Parameters::parse(&text).get("a");
        }
    }
}
