//! Encoded words of header fields (RFC 2047; library section 6).

use hsl::{FunctionDef, Value};

/// Longest encoded word (RFC 2047 section 2).
const WORD_MAX: usize = 75;
const Q_HEAD: &str = "=?utf-8?Q?";
const B_HEAD: &str = "=?utf-8?B?";

/// The functions.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "mimeword_encode(string: string) -> string",
            "Text as encoded words; printable ASCII stays as it is.",
            |_, a| Ok(encode(a.bytes(0)).map_or_else(|| a.get(0).clone(), Value::from)),
        ),
        FunctionDef::pure(
            "mimeword_decode(string: string) -> string",
            "Text with its encoded words decoded to UTF-8.",
            |_, a| {
                let text = a.bytes(0);
                let core = text.trim_ascii();
                if memchr::memmem::find(core, b"=?").is_none() {
                    return Ok(a.get(0).clone());
                }
                let start = text.len() - text.trim_ascii_start().len();
                let mut out = text[..start].to_vec();
                out.extend_from_slice(mail::words::decode(core).as_bytes());
                out.extend_from_slice(&text[start + core.len()..]);
                Ok(out.into())
            },
        ),
    ]
}

/// Encoded words; `None` for text that needs none.
fn encode(text: &[u8]) -> Option<String> {
    if text.iter().all(|c| (b' '..=b'~').contains(c)) && memchr::memmem::find(text, b"=?").is_none() {
        return None;
    }
    // What is not UTF-8 is taken as Latin-1, whose bytes are the code points.
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => text.iter().map(|c| char::from(*c)).collect(),
    };
    let q: usize = text.chars().map(|c| q_char(c).len()).sum();
    let b = text.len().div_ceil(3) * 4;
    Some(if q > 2 * b { words_b(&text) } else { words_q(&text) })
}

fn q_char(c: char) -> String {
    if c == ' ' {
        return "_".to_owned();
    }
    // The set that is safe in every place (RFC 2047 section 5 (3)).
    if c.is_ascii_alphanumeric() || "!*+-/".contains(c) {
        return c.to_string();
    }
    c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("={b:02X}")).collect()
}

fn words_q(text: &str) -> String {
    let room = WORD_MAX - Q_HEAD.len() - 2;
    let mut words = vec![String::new()];
    for c in text.chars() {
        let piece = q_char(c);
        if words.last().is_some_and(|w| w.len() + piece.len() > room) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push_str(&piece);
        }
    }
    let words: Vec<String> = words.iter().map(|w| format!("{Q_HEAD}{w}?=")).collect();
    words.join(" ")
}

fn words_b(text: &str) -> String {
    let room = (WORD_MAX - B_HEAD.len() - 2) / 4 * 3;
    let mut words = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|w| w.len() + c.len_utf8() > room) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let code =
        |w: &String| String::from_utf8(crate::encoding::base64_encode(w.as_bytes())).unwrap_or_default();
    let words: Vec<String> = words.iter().map(|w| format!("{B_HEAD}{}?=", code(w))).collect();
    words.join(" ")
}
