//! Encodings and data formats (library section 6).

use crate::data::{JsonStyle, decode_csv, decode_json, encode_csv_row, encode_json};
use crate::support::{check_string, flag, options};
use hsl::{Args, Array, Error, FunctionDef, NativeCx, OptionDef, Value, option};

const CSV_WRITE: &[OptionDef] = &[option("delimiter", "string", ",", "One byte between fields.")];
const CSV_READ: &[OptionDef] = &[
    option("delimiter", "string", ",", "One byte between fields."),
    option("header", "boolean", "true", "The first row names the columns, and rows are associative."),
    option(
        "schema",
        "array",
        "",
        "Column name to an array of `type` (string, boolean, number), `nullable`, and the words for `true` and `false`.",
    ),
];
const JSON_WRITE: &[OptionDef] = &[
    option("ensure_ascii", "boolean", "true", "Writes other characters as `\\uXXXX`."),
    option("pretty_print", "boolean", "false", "Indents."),
];
const JSON_READ: &[OptionDef] = &[option("allow_comments", "boolean", "false", "Accepts `//` and `/* */`.")];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure("base32_encode(string: string) -> string", "RFC 4648 section 6.", |_, a| {
            Ok(encode_bits(a.bytes(0), BASE32, 5, true).into())
        }),
        FunctionDef::pure(
            "base32_decode(string: string) -> string",
            "RFC 4648 section 6, lenient.",
            |_, a| Ok(decode_bits(a.bytes(0), BASE32, 5).into()),
        ),
        FunctionDef::pure("base64_encode(string: string) -> string", "RFC 4648 section 4.", |_, a| {
            Ok(encode_bits(a.bytes(0), BASE64, 6, true).into())
        }),
        FunctionDef::pure(
            "base64_decode(string: string) -> string",
            "RFC 4648 section 4, lenient.",
            |_, a| Ok(decode_bits(a.bytes(0), BASE64, 6).into()),
        ),
        FunctionDef::pure(
            "base64url_encode(string: string) -> string",
            "RFC 4648 section 5 without padding.",
            |_, a| Ok(encode_bits(a.bytes(0), BASE64URL, 6, false).into()),
        ),
        FunctionDef::pure(
            "base64url_decode(string: string) -> string",
            "RFC 4648 section 5, lenient.",
            |_, a| Ok(decode_bits(a.bytes(0), BASE64URL, 6).into()),
        ),
        FunctionDef::pure(
            "csv_encode(values: array, options?: array) -> string",
            "One row of CSV, or all rows.",
            csv_encode,
        )
        .with_options(CSV_WRITE),
        FunctionDef::pure(
            "csv_decode(string: string, options?: array) -> array or none",
            "Rows of a CSV text.",
            |_, a| {
                // Errors of the data give none by contract.
                Ok(decode_csv(a.bytes(0), &options(&a, 1)).unwrap_or_default())
            },
        )
        .with_options(CSV_READ),
        FunctionDef::pure(
            "json_encode(value: any, options?: array) -> string or none",
            "JSON text of a value.",
            |_, a| {
                let o = options(&a, 1);
                let style = JsonStyle {
                    ensure_ascii: flag(&o, "ensure_ascii", true),
                    pretty: flag(&o, "pretty_print", false),
                };
                let mut out = Vec::new();
                Ok(match encode_json(a.get(0), &style, 0, &mut out) {
                    Some(()) => out.into(),
                    None => Value::None,
                })
            },
        )
        .with_options(JSON_WRITE),
        FunctionDef::pure(
            "json_decode(string: string, options?: array) -> any",
            "Value of a JSON text.",
            |_, a| {
                let comments = flag(&options(&a, 1), "allow_comments", false);
                Ok(decode_json(a.bytes(0), comments).unwrap_or_default())
            },
        )
        .with_options(JSON_READ),
        FunctionDef::pure("url_encode(string: string) -> string", "Percent-encoding (RFC 3986).", |_, a| {
            Ok(url_encode(a.bytes(0)).into())
        }),
        FunctionDef::pure("url_decode(string: string) -> string", "Percent-decoding (RFC 3986).", |_, a| {
            Ok(url_decode(a.bytes(0)).into())
        }),
        FunctionDef::pure("xtext_encode(text: string) -> string", "RFC 3461 section 4.", |_, a| {
            let mut out = Vec::new();
            for c in a.bytes(0) {
                if (b'!'..=b'~').contains(c) && !b"+=".contains(c) {
                    out.push(*c);
                } else {
                    out.extend_from_slice(format!("+{c:02X}").as_bytes());
                }
            }
            Ok(out.into())
        }),
        FunctionDef::pure("xtext_decode(text: string) -> string", "RFC 3461 section 4.", |_, a| {
            Ok(unescape(a.bytes(0), b'+').into())
        }),
        FunctionDef::pure(
            "pack(format: string, ...args: any) -> string or none",
            "Binary string from values.",
            |_, a| Ok(pack(&a).into()),
        ),
        FunctionDef::pure(
            "unpack(format: string, data: string, offset?: number) -> array or none",
            "Values from a binary string.",
            |_, a| {
                let offset = usize::try_from(a.integer_or(2, 0)?).ok();
                let data = offset.and_then(|o| a.bytes(1).get(o..));
                Ok(data.and_then(|d| unpack(a.bytes(0), d)).map(Array::from_list).into())
            },
        ),
    ]
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode_bits(bytes: &[u8], alphabet: &[u8], bits: u32, padded: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 8 / bits as usize + 8);
    let mask = (1u32 << bits) - 1;
    let (mut buffer, mut have) = (0u32, 0u32);
    for c in bytes {
        buffer = (buffer << 8) | u32::from(*c);
        have += 8;
        while have >= bits {
            have -= bits;
            out.push(alphabet[((buffer >> have) & mask) as usize]);
        }
        buffer &= (1 << have) - 1;
    }
    if have > 0 {
        out.push(alphabet[((buffer << (bits - have)) & mask) as usize]);
    }
    let group = if bits == 5 { 8 } else { 4 };
    while padded && !out.len().is_multiple_of(group) {
        out.push(b'=');
    }
    out
}

/// Skips foreign characters, stops at padding, drops an incomplete tail.
fn decode_bits(text: &[u8], alphabet: &[u8], bits: u32) -> Vec<u8> {
    let mut table = [255u8; 256];
    for (i, c) in alphabet.iter().enumerate() {
        table[usize::from(*c)] = i as u8;
        if bits == 5 {
            table[usize::from(c.to_ascii_lowercase())] = i as u8;
        }
    }
    let mut out = Vec::with_capacity(text.len() * bits as usize / 8);
    let (mut buffer, mut have) = (0u32, 0u32);
    for c in text {
        if *c == b'=' {
            break;
        }
        let v = table[usize::from(*c)];
        if v == 255 {
            continue;
        }
        buffer = (buffer << bits) | u32::from(v);
        have += bits;
        if have >= 8 {
            have -= 8;
            out.push((buffer >> have) as u8);
            buffer &= (1 << have) - 1;
        }
    }
    out
}

/// Percent-encoding of all but the unreserved characters (RFC 3986 section 2.3).
pub(crate) fn url_encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text {
        if c.is_ascii_alphanumeric() || b"-._~".contains(c) {
            out.push(*c);
        } else {
            out.extend_from_slice(format!("%{c:02X}").as_bytes());
        }
    }
    out
}

/// Percent-decoding; malformed sequences stay.
pub(crate) fn url_decode(text: &[u8]) -> Vec<u8> {
    unescape(text, b'%')
}

/// Base64 with padding.
pub(crate) fn base64_encode(bytes: &[u8]) -> Vec<u8> {
    encode_bits(bytes, BASE64, 6, true)
}

/// Decodes base64 leniently: foreign characters are skipped, padding ends it.
pub fn base64_decode(text: &[u8]) -> Vec<u8> {
    decode_bits(text, BASE64, 6)
}

/// Decodes an escape byte followed by two hexadecimal digits; malformed ones stay.
fn unescape(text: &[u8], escape: u8) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((c, tail)) = rest.split_first() {
        rest = tail;
        if *c == escape
            && let [a, b, tail @ ..] = rest
            && let (Some(a), Some(b)) = (digit(*a), digit(*b))
        {
            out.push(a << 4 | b);
            rest = tail;
            continue;
        }
        out.push(*c);
    }
    out
}

fn csv_encode(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let o = options(&a, 1);
    let delimiter = match o.get_str("delimiter").map(Value::to_str) {
        None => b',',
        Some(d) => match d.as_bytes() {
            [c] => *c,
            _ => return Err(Error::exception("csv_encode(): delimiter must be one byte")),
        },
    };
    let values = a.array(0);
    let mut out = Vec::new();
    let nested = || Error::exception("csv_encode(): a field must be a scalar or none");
    if !values.is_empty() && values.values().all(|v| matches!(v, Value::Array(_))) {
        for (i, row) in values.values().enumerate() {
            if i > 0 {
                out.extend_from_slice(b"\r\n");
            }
            if let Value::Array(row) = row {
                encode_csv_row(row, delimiter, &mut out).ok_or_else(nested)?;
            }
        }
    } else {
        encode_csv_row(&values, delimiter, &mut out).ok_or_else(nested)?;
    }
    check_string("csv_encode", out.len())?;
    Ok(out.into())
}

/// Repetition of a pack code.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    One,
    Number(usize),
    All,
}

/// Longest pack field, bytes.
const FIELD_MAX: usize = 512 << 20;

fn codes(format: &[u8]) -> Option<Vec<(u8, Count)>> {
    let mut list = Vec::new();
    let mut rest = format;
    while let Some((code, tail)) = rest.split_first() {
        rest = tail;
        let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        let count = if rest.first() == Some(&b'*') {
            rest = &rest[1..];
            Count::All
        } else if digits > 0 {
            let n = std::str::from_utf8(&rest[..digits])
                .ok()?
                .parse::<usize>()
                .ok()
                .filter(|n| *n <= FIELD_MAX)?;
            rest = &rest[digits..];
            Count::Number(n)
        } else {
            Count::One
        };
        if !b"aZHcCnvNVeEx".contains(code) || (*code == b'x' && count == Count::All) {
            return None;
        }
        list.push((*code, count));
    }
    Some(list)
}

fn pack(args: &Args<'_>) -> Option<Vec<u8>> {
    let mut values = args.as_slice().get(1..).unwrap_or_default().iter();
    let mut out = Vec::new();
    for (code, count) in codes(args.bytes(0))? {
        match code {
            b'a' | b'Z' => {
                let text = values.next()?.to_str();
                let text = text.as_bytes();
                let zero = code == b'Z';
                let len = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => text.len() + usize::from(zero),
                };
                let room = if zero { len.saturating_sub(1) } else { len };
                let start = out.len();
                out.extend_from_slice(&text[..text.len().min(room)]);
                out.resize(start + len, 0);
            }
            b'H' => {
                let text = values.next()?.to_str();
                let digits: Vec<u8> = text
                    .as_bytes()
                    .iter()
                    .map(|c| (*c as char).to_digit(16).map(|d| d as u8))
                    .collect::<Option<_>>()?;
                let n = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => digits.len(),
                };
                if n > digits.len() {
                    return None;
                }
                for pair in digits[..n].chunks(2) {
                    out.push(pair[0] << 4 | pair.get(1).copied().unwrap_or(0));
                }
            }
            b'x' => {
                let n = if let Count::Number(n) = count { n } else { 1 };
                out.resize(out.len() + n, 0);
            }
            _ => {
                let n = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => values.len(),
                };
                for _ in 0..n {
                    let v = match values.next()? {
                        v @ (Value::Number(_) | Value::Bool(_) | Value::Str(_)) => v.to_number(),
                        _ => return None,
                    };
                    pack_number(code, v, &mut out)?;
                }
            }
        }
        if out.len() > FIELD_MAX {
            return None;
        }
    }
    if values.next().is_some() { None } else { Some(out) }
}

fn pack_number(code: u8, v: f64, out: &mut Vec<u8>) -> Option<()> {
    if matches!(code, b'e' | b'E') {
        out.extend_from_slice(&if code == b'e' { v.to_le_bytes() } else { v.to_be_bytes() });
        return Some(());
    }
    if !v.is_finite() {
        return None;
    }
    let n = v.trunc().rem_euclid(4_294_967_296.0) as u32;
    match code {
        b'c' | b'C' => out.push(n as u8),
        b'n' => out.extend_from_slice(&(n as u16).to_be_bytes()),
        b'v' => out.extend_from_slice(&(n as u16).to_le_bytes()),
        b'N' => out.extend_from_slice(&n.to_be_bytes()),
        _ => out.extend_from_slice(&n.to_le_bytes()),
    }
    Some(())
}

fn unpack(format: &[u8], data: &[u8]) -> Option<Vec<Value>> {
    let mut rest = data;
    let mut list: Vec<Value> = Vec::new();
    for (code, count) in codes(format)? {
        match code {
            b'a' | b'Z' => {
                let zero = if code == b'Z' { memchr::memchr(0, rest) } else { None };
                let len = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => zero.map_or(rest.len(), |z| z + 1),
                };
                let field = rest.get(..len)?;
                rest = &rest[len..];
                let end = if code == b'Z' { memchr::memchr(0, field).unwrap_or(len) } else { len };
                list.push(Value::bytes(&field[..end]));
            }
            b'H' => {
                let digits = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => rest.len() * 2,
                };
                let field = rest.get(..digits.div_ceil(2))?;
                rest = &rest[field.len()..];
                let mut text: String = field.iter().map(|c| format!("{c:02x}")).collect();
                text.truncate(digits);
                list.push(text.into());
            }
            b'x' => rest = rest.get(if let Count::Number(n) = count { n } else { 1 }..)?,
            _ => {
                let size = match code {
                    b'c' | b'C' => 1,
                    b'n' | b'v' => 2,
                    b'N' | b'V' => 4,
                    _ => 8,
                };
                let n = match count {
                    Count::One => 1,
                    Count::Number(n) => n,
                    Count::All => rest.len() / size,
                };
                for _ in 0..n {
                    let item = rest.get(..size)?;
                    rest = &rest[size..];
                    let mut wide = [0u8; 8];
                    let big = matches!(code, b'n' | b'N' | b'E');
                    for (i, c) in item.iter().enumerate() {
                        wide[if big { size - 1 - i } else { i }] = *c;
                    }
                    let bits = u64::from_le_bytes(wide);
                    list.push(match code {
                        b'c' => f64::from(bits as u8 as i8).into(),
                        b'e' | b'E' => f64::from_bits(bits).into(),
                        _ => bits.into(),
                    });
                }
                if count == Count::All {
                    rest = &[];
                }
            }
        }
    }
    Some(list)
}
