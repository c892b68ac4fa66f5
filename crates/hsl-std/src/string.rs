//! String functions (library section 12). Strings are bytes.

use crate::support::check_string;
use hsl::{Args, Array, Error, FunctionDef, NativeCx, Str, Value, repeat_string};
use memchr::memmem;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure("chr(number: number) -> string", "The byte with a code, modulo 256.", |_, a| {
            Ok(Str::from_byte(a.integer(0)?.rem_euclid(256) as u8).into())
        }),
        FunctionDef::pure("ord(character: string) -> number", "Code of the first byte.", |_, a| {
            match a.bytes(0).first() {
                Some(c) => Ok((*c).into()),
                None => Err(Error::exception("ord(): empty string")),
            }
        }),
        FunctionDef::pure(
            "str_repeat(string: string, multiplier: number) -> string",
            "The string repeated.",
            |_, a| {
                let n = a.integer(1)?.max(0);
                check_string(
                    "str_repeat",
                    a.bytes(0).len().saturating_mul(usize::try_from(n).unwrap_or(usize::MAX)),
                )?;
                repeat_string(a.bytes(0), n as f64)
            },
        ),
        FunctionDef::pure(
            "str_replace(search: string, replace: string, subject: string) -> string",
            "Replaces all.",
            replace,
        ),
        FunctionDef::pure(
            "str_split(string: string, delimiter: string, limit?: number) -> array",
            "Parts as a list.",
            split,
        ),
        FunctionDef::pure(
            "str_find(string: string, substring: string, offset?: number) -> number",
            "First position or -1.",
            find,
        ),
        FunctionDef::pure(
            "str_rfind(string: string, substring: string, offset?: number) -> number",
            "Last position or -1.",
            |_, a| {
                let text = a.bytes(0);
                let cut = usize::try_from(a.integer_or(2, 0)?.max(0)).unwrap_or(usize::MAX);
                let text = &text[..text.len().saturating_sub(cut)];
                Ok(memmem::rfind(text, a.bytes(1)).map_or((-1).into(), Value::from))
            },
        ),
        FunctionDef::pure("str_lower(string: string) -> string", "ASCII letters in lower case.", |_, a| {
            Ok(a.bytes(0).to_ascii_lowercase().into())
        }),
        FunctionDef::pure("str_upper(string: string) -> string", "ASCII letters in upper case.", |_, a| {
            Ok(a.bytes(0).to_ascii_uppercase().into())
        }),
        FunctionDef::pure(
            "str_slice(string: string, offset: number, length?: number) -> string",
            "A part of the string.",
            slice,
        ),
        FunctionDef::pure(
            "str_strip(string: string, characters?: string) -> string",
            "Strips both ends.",
            |_, a| Ok(strip(&a, true, true).into()),
        ),
        FunctionDef::pure(
            "str_lstrip(string: string, characters?: string) -> string",
            "Strips the start.",
            |_, a| Ok(strip(&a, true, false).into()),
        ),
        FunctionDef::pure(
            "str_rstrip(string: string, characters?: string) -> string",
            "Strips the end.",
            |_, a| Ok(strip(&a, false, true).into()),
        ),
        FunctionDef::pure(
            "str_chunk(string: string, length: number, firstlength?: number) -> array",
            "Pieces of a length.",
            chunk,
        ),
    ]
}

fn replace(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let (search, with, subject) = (a.bytes(0), a.bytes(1), a.bytes(2));
    if search.is_empty() {
        return Ok(a.get(2).clone());
    }
    let mut out = Vec::new();
    let mut at = 0;
    let mut put = |out: &mut Vec<u8>, hit: usize| {
        if at == 0 {
            out.reserve(subject.len() + with.len());
        }
        out.extend_from_slice(&subject[at..hit]);
        out.extend_from_slice(with);
        at = hit + search.len();
        check_string("str_replace", out.len())
    };
    match search {
        [one] => memchr::memchr_iter(*one, subject).try_for_each(|hit| put(&mut out, hit))?,
        _ => memmem::find_iter(subject, search).try_for_each(|hit| put(&mut out, hit))?,
    }
    if at == 0 {
        return Ok(a.get(2).clone());
    }
    out.extend_from_slice(&subject[at..]);
    Ok(out.into())
}

fn split(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let (text, delimiter) = (a.bytes(0), a.bytes(1));
    let limit = a.integer_or(2, 0)?;
    if delimiter.is_empty() {
        return Err(Error::exception("str_split(): empty delimiter"));
    }
    let parts_max = usize::try_from(limit.unsigned_abs()).unwrap_or(usize::MAX);
    let mut parts: Vec<Value> = Vec::new();
    if limit < 0 {
        let mut end = text.len();
        while parts.len() + 1 < parts_max {
            let Some(hit) = memmem::rfind(&text[..end], delimiter) else { break };
            parts.push(Value::bytes(&text[hit + delimiter.len()..end]));
            end = hit;
        }
        parts.push(Value::bytes(&text[..end]));
        parts.reverse();
        return Ok(parts.into());
    }
    let mut start = 0;
    let mut part = |parts: &mut Vec<Value>, hit: usize| {
        if limit > 0 && parts.len() + 1 >= parts_max {
            return false;
        }
        parts.push(Value::bytes(&text[start..hit]));
        start = hit + delimiter.len();
        true
    };
    // A searcher is worth building only for longer delimiters.
    match delimiter {
        [one] => {
            parts.reserve(8);
            memchr::memchr_iter(*one, text).all(|hit| part(&mut parts, hit))
        }
        _ => memmem::find_iter(text, delimiter).all(|hit| part(&mut parts, hit)),
    };
    parts.push(Value::bytes(&text[start..]));
    Ok(parts.into())
}

/// First position of `needle`. Short texts are not worth building a searcher for.
fn find_bytes(text: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, rest) = match needle {
        [] => return Some(0),
        [one] => return memchr::memchr(*one, text),
        [first, rest @ ..] if text.len() <= 256 && needle.len() <= 16 => (*first, rest),
        _ => return memmem::find(text, needle),
    };
    memchr::memchr_iter(first, text).find(|at| text[at + 1..].starts_with(rest))
}

fn find(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let text = a.bytes(0);
    let offset = a.integer_or(2, 0)?;
    let start = if offset < 0 { (text.len() as i64).saturating_add(offset).max(0) } else { offset };
    let hit = usize::try_from(start)
        .ok()
        .and_then(|start| Some((start, text.get(start..)?)))
        .and_then(|(start, rest)| find_bytes(rest, a.bytes(1)).map(|n| n + start));
    Ok(hit.map_or((-1).into(), Value::from))
}

fn slice(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let text = a.bytes(0);
    let len = text.len() as i64;
    let offset = a.integer(1)?;
    let start = if offset < 0 { len.saturating_add(offset).max(0) } else { offset.min(len) };
    let end = match a.given(2) {
        None => len,
        Some(_) => match a.integer(2)? {
            n if n < 0 => len.saturating_add(n),
            n => start.saturating_add(n).min(len),
        },
    };
    // Both bounds lie between 0 and the length here.
    Ok(Value::bytes(if end > start { &text[start as usize..end as usize] } else { b"" }))
}

fn strip<'a>(a: &'a Args<'_>, left: bool, right: bool) -> &'a [u8] {
    let set = if a.given(1).is_some() { a.bytes(1) } else { b" \t\r\n" };
    let mut text = a.bytes(0);
    while let (true, Some((c, rest))) = (left, text.split_first()) {
        if !set.contains(c) {
            break;
        }
        text = rest;
    }
    while let (true, Some((c, rest))) = (right, text.split_last()) {
        if !set.contains(c) {
            break;
        }
        text = rest;
    }
    text
}

fn chunk(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let text = a.bytes(0);
    let length = a.integer(1)?;
    let first = a.integer_or(2, length)?;
    let (Ok(length), Ok(first)) = (usize::try_from(length), usize::try_from(first)) else {
        return Err(Error::exception("str_chunk(): length must be at least 1"));
    };
    if length < 1 || first < 1 {
        return Err(Error::exception("str_chunk(): length must be at least 1"));
    }
    let (head, rest) = text.split_at(first.min(text.len()));
    if head.is_empty() {
        return Ok(Array::new().into());
    }
    let list: Array = std::iter::once(head).chain(rest.chunks(length)).map(Value::bytes).collect();
    Ok(list.into())
}
