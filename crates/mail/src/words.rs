//! Text in header fields: encoded words (RFC 2047), unfolding and folding (RFC 5322 2.2.3).

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use encoding_rs::{Encoding, UTF_8};

/// Columns at which added fields are folded (RFC 5322 2.1.1, 78 without CRLF).
pub const COLUMNS: usize = 78;
/// Longest encoded word (RFC 2047 2).
const WORD_BYTES_MAX: usize = 75;

/// How an encoded word spells its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordEncoding {
    /// The shorter one.
    #[default]
    Shorter,
    /// Quoted-printable like.
    Q,
    /// Base64.
    B,
}

/// The text of a field body: unfolded, trimmed, encoded words decoded; never fails.
///
/// Raw 8-bit text is taken as UTF-8 if it is that, else as Latin-1.
pub fn decode(raw: &[u8]) -> String {
    let unfolded = unfold(raw);
    let mut out = String::with_capacity(unfolded.len());
    // Bytes of adjacent words of one charset: a character may be split between them.
    let mut pending: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut rest = &unfolded[..];
    while let Some(start) = memchr::memmem::find(rest, b"=?") {
        let Some((encoding, bytes, len)) = encoded_word(&rest[start..]) else {
            flush(&mut pending, &mut out);
            push_raw(&mut out, &rest[..start + 2]);
            rest = &rest[start + 2..];
            continue;
        };
        let between = &rest[..start];
        let joins = pending.is_some() && between.iter().all(u8::is_ascii_whitespace);
        if !joins {
            flush(&mut pending, &mut out);
            push_raw(&mut out, between);
        }
        match &mut pending {
            Some((same, collected)) if *same == encoding => collected.extend_from_slice(&bytes),
            _ => {
                flush(&mut pending, &mut out);
                pending = Some((encoding, bytes));
            }
        }
        rest = &rest[start + len..];
    }
    flush(&mut pending, &mut out);
    push_raw(&mut out, rest);
    out
}

/// The bytes of a field body on one line, without the white space around it. Line ends are removed, the white space
/// behind them stays (RFC 5322 2.2.3).
pub fn unfold(raw: &[u8]) -> Vec<u8> {
    let bytes: Vec<u8> = raw.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    bytes.trim_ascii().to_vec()
}

/// The text with its non-ASCII words as encoded words in UTF-8. Words in angle brackets stay (addresses), quoted
/// strings with non-ASCII text become encoded words as a whole.
pub fn encode(text: &str, encoding: WordEncoding) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() * 2);
    let mut run = String::new();
    let mut gap = String::new();
    for token in tokens(text) {
        match token {
            Token::Gap(space) => gap.push_str(space),
            Token::Encode(word) => {
                if run.is_empty() {
                    out.push_str(&gap);
                } else {
                    run.push_str(&gap);
                }
                gap.clear();
                run.push_str(&word);
            }
            Token::Plain(word) => {
                push_words(&mut out, &run, encoding);
                run.clear();
                out.push_str(&gap);
                gap.clear();
                out.push_str(word);
            }
        }
    }
    push_words(&mut out, &run, encoding);
    out.push_str(&gap);
    out
}

/// A display name: as it is, quoted where it has specials (RFC 5322 3.2.3), encoded words where it is not ASCII.
pub fn phrase(name: &str) -> String {
    if !name.is_ascii() {
        let mut out = String::new();
        push_words(&mut out, name, WordEncoding::Shorter);
        return out;
    }
    let plain =
        |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b));
    if !name.contains("=?") && name.split(' ').all(|word| !word.is_empty() && plain(word)) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `name: value` folded before white space so that lines keep to [`COLUMNS`] where they can, CRLF at the end.
pub fn folded_field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 8);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = out.len();
    let mut rest = value.trim_ascii();
    let mut first = true;
    while !rest.is_empty() {
        let blank = rest.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(rest.len());
        let word = rest[blank..].iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(rest.len() - blank);
        let space: &[u8] = if first { b" " } else { &rest[..blank] };
        if !first && column + blank + word > COLUMNS {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        out.extend_from_slice(space);
        out.extend_from_slice(&rest[blank..blank + word]);
        column += space.len() + word;
        rest = &rest[blank + word..];
        first = false;
    }
    if first {
        out.push(b' ');
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A field body that cannot end its field: each line end not followed by white space becomes a fold, lines that hold
/// nothing but white space vanish, and so does NUL.
pub fn contained(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for line in value.split(|b| matches!(b, b'\r' | b'\n')) {
        if line.iter().all(|b| matches!(b, b' ' | b'\t' | 0)) {
            continue;
        }
        if !out.is_empty() {
            out.extend_from_slice(b"\r\n");
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                out.push(b'\t');
            }
        }
        out.extend(line.iter().copied().filter(|b| *b != 0));
    }
    out
}

/// Bytes of a named charset as text; of an unknown one as [`text`] takes them.
pub fn charset_text(bytes: &[u8], charset: &str) -> String {
    match Encoding::for_label(charset.trim().as_bytes()) {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
        None => text(bytes),
    }
}

/// Bytes as text: UTF-8 if they are that, else Latin-1.
pub fn text(raw: &[u8]) -> String {
    match std::str::from_utf8(raw) {
        Ok(text) => text.to_owned(),
        Err(_) => raw.iter().map(|&b| char::from(b)).collect(),
    }
}

fn push_raw(out: &mut String, raw: &[u8]) {
    out.push_str(&text(raw));
}

fn flush(pending: &mut Option<(&'static Encoding, Vec<u8>)>, out: &mut String) {
    if let Some((encoding, bytes)) = pending.take() {
        out.push_str(&encoding.decode_without_bom_handling(&bytes).0);
    }
}

/// The charset, bytes and length of the encoded word at the start of `text`; `None` if it is none.
fn encoded_word(text: &[u8]) -> Option<(&'static Encoding, Vec<u8>, usize)> {
    let inside = text.get(2..)?;
    let charset_end = inside.iter().position(|&b| b == b'?')?;
    let charset = inside[..charset_end].split(|&b| b == b'*').next()?;
    if charset.is_empty() || charset.iter().any(u8::is_ascii_whitespace) {
        return None;
    }
    let kind = inside.get(charset_end + 1)?;
    if inside.get(charset_end + 2) != Some(&b'?') {
        return None;
    }
    let body_start = charset_end + 3;
    let body_len = memchr::memmem::find(inside.get(body_start..)?, b"?=")?;
    let body = &inside[body_start..body_start + body_len];
    let bytes = match kind {
        b'Q' | b'q' => q_decoded(body),
        b'B' | b'b' => b_decoded(body)?,
        _ => return None,
    };
    let encoding = match Encoding::for_label(charset) {
        Some(encoding) => encoding,
        None if charset.eq_ignore_ascii_case(b"utf8mb4") => UTF_8,
        None => return None,
    };
    Some((encoding, bytes, 2 + body_start + body_len + 2))
}

fn q_decoded(body: &[u8]) -> Vec<u8> {
    let hex = |b: u8| char::from(b).to_digit(16);
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        let pair = || Some(hex(*body.get(at + 1)?)? * 16 + hex(*body.get(at + 2)?)?);
        match (body[at], pair()) {
            (b'=', Some(byte)) => {
                // Two hex digits.
                out.push(byte as u8);
                at += 3;
                continue;
            }
            (b'_', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        at += 1;
    }
    out
}

fn b_decoded(body: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let clean: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    LENIENT.decode(clean).ok()
}

enum Token<'a> {
    Gap(&'a str),
    Plain(&'a str),
    Encode(String),
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if matches!(first, ' ' | '\t') {
            rest.find(|c| !matches!(c, ' ' | '\t')).unwrap_or(rest.len())
        } else if first == '"' {
            quoted_end(rest)
        } else {
            rest.find([' ', '\t']).unwrap_or(rest.len())
        };
        let (token, behind) = rest.split_at(end);
        out.push(match first {
            ' ' | '\t' => Token::Gap(token),
            _ if token.is_ascii() || first == '<' => Token::Plain(token),
            '"' if token.len() > 1 && token.ends_with('"') => {
                Token::Encode(unquoted(&token[1..token.len() - 1]))
            }
            _ => Token::Encode(token.to_owned()),
        });
        rest = behind;
    }
    out
}

/// Where the quoted string at the start of `text` ends (behind its quote), or the first word if it does not.
fn quoted_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.find([' ', '\t']).unwrap_or(text.len())
}

fn unquoted(inside: &str) -> String {
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// Writes `run` as one or more encoded words of at most 75 bytes, characters undivided.
fn push_words(out: &mut String, run: &str, encoding: WordEncoding) {
    if run.is_empty() {
        return;
    }
    let q_len: usize = run.bytes().map(|b| if q_is_plain(b) || b == b' ' { 1 } else { 3 }).sum();
    let base64 = match encoding {
        WordEncoding::Q => false,
        WordEncoding::B => true,
        WordEncoding::Shorter => run.len().div_ceil(3) * 4 < q_len,
    };
    let (head, room) = if base64 {
        ("=?UTF-8?B?", (WORD_BYTES_MAX - 12) / 4 * 3)
    } else {
        ("=?UTF-8?Q?", WORD_BYTES_MAX - 12)
    };
    let cost = |c: char| {
        let mut buf = [0; 4];
        let bytes = c.encode_utf8(&mut buf).bytes();
        if base64 {
            bytes.count()
        } else {
            bytes.map(|b| if q_is_plain(b) || b == b' ' { 1 } else { 3 }).sum()
        }
    };
    let mut start = 0;
    let mut used = 0;
    let mut pieces = Vec::new();
    for (at, c) in run.char_indices() {
        let need = cost(c);
        if used + need > room {
            pieces.push(&run[start..at]);
            start = at;
            used = 0;
        }
        used += need;
    }
    pieces.push(&run[start..]);
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(head);
        if base64 {
            base64::engine::general_purpose::STANDARD.encode_string(piece, out);
        } else {
            for b in piece.bytes() {
                match b {
                    b' ' => out.push('_'),
                    b if q_is_plain(b) => out.push(char::from(b)),
                    b => out.push_str(&format!("={b:02X}")),
                }
            }
        }
        out.push_str("?=");
    }
}

/// RFC 2047 5 (3): the bytes that are safe in every place.
fn q_is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!*+-/".contains(&b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes() {
        let cases: &[(&[u8], &str)] = &[
            (b" plain\r\n\ttext \r\n", "plain\ttext"),
            (b"=?utf-8?Q?J=C3=B6rg_M?=", "Jörg M"),
            (b"=?UTF-8?B?SsO2?=\r\n =?UTF-8?B?cmc=?=", "Jörg"),
            (b"=?utf-8?Q?=C3?= =?utf-8?Q?=B6?=", "ö"),
            (b"=?iso-8859-1*en?q?=F6?= x =?ISO-8859-1?Q?y?=", "ö x y"),
            (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg?=", "日本"),
            (b"=?nope?Q?x?= =?utf-8?X?y?= =?utf-8?Q?z", "=?nope?Q?x?= =?utf-8?X?y?= =?utf-8?Q?z"),
            (b"caf\xe9", "café"),
            ("café".as_bytes(), "café"),
        ];
        for (raw, text) in cases {
            assert_eq!(decode(raw), *text, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn encodes_only_what_needs_it() {
        assert_eq!(encode("Re: plain", WordEncoding::Q), "Re: plain");
        assert_eq!(encode("Re: über alle plain", WordEncoding::Q), "Re: =?UTF-8?Q?=C3=BCber?= alle plain");
        assert_eq!(
            encode("\"Jörg Müller\" <jörg@x>", WordEncoding::Q),
            "=?UTF-8?Q?J=C3=B6rg_M=C3=BCller?= <jörg@x>"
        );
        let long = encode(&"ä".repeat(100), WordEncoding::B);
        assert!(long.split(' ').all(|word| word.len() <= WORD_BYTES_MAX), "{long}");
    }

    #[test]
    fn folds_at_78() {
        let field = folded_field("Subject", &b"word ".repeat(40));
        let text = String::from_utf8(field).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= COLUMNS), "{text}");
        assert_eq!(text.replace("\r\n", ""), format!("Subject: {}", "word ".repeat(40).trim()));
        assert_eq!(folded_field("X", b""), b"X: \r\n");
    }

    #[test]
    fn values_stay_in_their_field() {
        assert_eq!(contained(b"a\r\nBcc: x\n\r\n\r\nbody"), b"a\r\n\tBcc: x\r\n\tbody");
        assert_eq!(contained(b"a\r\n b\r\n \r\n"), b"a\r\n b");
    }

    proptest! {
        #[test]
        fn round_trip(text in "[a-zäöü€ 日]{0,120}", b: bool) {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let encoding = if b { WordEncoding::B } else { WordEncoding::Q };
            let field = folded_field("Subject", encode(&words, encoding).as_bytes());
            prop_assert!(field.is_ascii());
            prop_assert_eq!(decode(&field[8..]), words);
        }

        #[test]
        fn never_panics(raw in prop::collection::vec(any::<u8>(), 0..200), head in "(=\\?utf-8\\?[QB]\\?){0,3}") {
            let mut bytes = head.into_bytes();
            bytes.extend_from_slice(&raw);
            decode(&bytes);
            let kept = contained(&bytes);
            prop_assert!(kept.windows(2).all(|w| w[0] != b'\n' || w[1] == b' ' || w[1] == b'\t'));
        }
    }
}
