//! The string format `template % array` (language section 7.3).

use crate::array::Array;
use crate::error::Error;
use crate::number::write_number;
use crate::ops::check_length;
use crate::string::Str;
use crate::value::Value;

struct Spec {
    fill: u8,
    align: Option<u8>,
    width: usize,
    precision: Option<usize>,
}

/// Widest field and most decimals.
const WIDTH_MAX: usize = 1 << 20;

/// Fills the template.
pub(crate) fn format(template: &[u8], args: &Array) -> Result<Str, Error> {
    let values: Vec<&Value> = args.values().collect();
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    let mut next = 0usize;
    while let Some(at) = rest.iter().position(|c| *c == b'%') {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix(b"%") {
            out.push(b'%');
            rest = tail;
            continue;
        }
        if rest.first() == Some(&b'[') {
            rest = &rest[1..];
            next = integer(&mut rest)
                .ok_or_else(|| Error::exception("Format argument needs a number between '[' and ']'"))?;
            rest = rest.strip_prefix(b"]").ok_or_else(|| Error::exception("Format argument lacks ']'"))?;
        }
        let mut spec = Spec { fill: b' ', align: None, width: 0, precision: None };
        if rest.first() == Some(&b'\'') {
            spec.fill = *rest.get(1).ok_or_else(|| Error::exception("Format fill lacks its character"))?;
            rest = &rest[2..];
        }
        if let Some(c @ (b'<' | b'>' | b'^' | b'=')) = rest.first() {
            spec.align = Some(*c);
            rest = &rest[1..];
        }
        spec.width = integer(&mut rest).unwrap_or(0);
        if let Some(tail) = rest.strip_prefix(b".") {
            rest = tail;
            spec.precision = Some(integer(&mut rest).unwrap_or(0));
        }
        if spec.width > WIDTH_MAX || spec.precision.is_some_and(|p| p > WIDTH_MAX) {
            return Err(Error::exception("Format width or precision is too large"));
        }
        let Some((kind, tail)) = rest.split_first() else {
            return Err(Error::exception("Format ends without a type"));
        };
        rest = tail;
        let value = *values.get(next).ok_or_else(|| {
            Error::exception(format!("Format argument {next} is missing: {} given", values.len()))
        })?;
        next += 1;
        field(&mut out, &spec, *kind, value)?;
        check_length(out.len())?;
    }
    out.extend_from_slice(rest);
    Ok(Str::from_vec(out))
}

fn integer(rest: &mut &[u8]) -> Option<usize> {
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    let (number, tail) = rest.split_at(digits);
    *rest = tail;
    // Digits only; an overlong number saturates beyond every limit.
    (digits > 0).then(|| std::str::from_utf8(number).ok().and_then(|t| t.parse().ok()).unwrap_or(usize::MAX))
}

fn field(out: &mut Vec<u8>, spec: &Spec, kind: u8, value: &Value) -> Result<(), Error> {
    let mut text = Vec::new();
    let mut align = b'>';
    match kind {
        b's' => {
            crate::ops::write_string(value, &mut text)?;
            if let Some(p) = spec.precision {
                text.truncate(p);
            }
            align = b'<';
        }
        b'f' => {
            let n = value.to_number();
            match spec.precision {
                // Rust rounds the exact double half to even, as C does.
                Some(p) if n.is_finite() => text.extend_from_slice(std::format!("{n:.p$}").as_bytes()),
                _ => write_number(&mut text, n),
            }
        }
        b'x' | b'b' => {
            let n = value.to_number().trunc();
            // Saturates; beyond 2^53 the digits are those of the double.
            let size = n.abs() as u128;
            let digits = if kind == b'x' { std::format!("{size:x}") } else { std::format!("{size:b}") };
            if n < 0.0 {
                text.push(b'-');
            }
            text.extend_from_slice(digits.as_bytes());
        }
        b'c' => {
            text.push(value.to_number() as i64 as u8);
            align = b'<';
        }
        other => {
            return Err(Error::exception(std::format!(
                "Unknown format type '{}'",
                (other as char).escape_default()
            )));
        }
    }
    let align = spec.align.unwrap_or(align);
    let pad = spec.width.saturating_sub(text.len());
    let fill = |out: &mut Vec<u8>, n: usize| out.resize(out.len() + n, spec.fill);
    match align {
        b'<' => {
            out.extend_from_slice(&text);
            fill(out, pad);
        }
        b'^' => {
            fill(out, pad / 2);
            out.extend_from_slice(&text);
            fill(out, pad - pad / 2);
        }
        b'=' if matches!(text.first(), Some(b'-' | b'+')) => {
            out.push(text[0]);
            fill(out, pad);
            out.extend_from_slice(&text[1..]);
        }
        _ => {
            fill(out, pad);
            out.extend_from_slice(&text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn table() {
        for (template, args, expected) in [
            ("%s has %s", value!(["cart", 3]), "cart has 3"),
            ("[%5s][%>5s][%^6s]", value!(["ab", "ab", "ab"]), "[ab   ][   ab][  ab  ]"),
            ("[%^7s]", value!(["ab"]), "[  ab   ]"),
            ("[%'0=6f]", value!([(-42)]), "[-00042]"),
            ("%.2f %.0f %.0f", value!([1.005, 0.5, 1.5]), "1.00 0 2"),
            ("%[1]s %s %[0]s", value!(["a", "b", "c"]), "b c a"),
            ("%x %b", value!([255, (-5)]), "ff -101"),
            ("100%%", value!([]), "100%"),
        ] {
            let Value::Array(args) = args else { panic!("not a list") };
            assert_eq!(format(template.as_bytes(), &args).unwrap().to_text(), expected, "{template}");
        }
        for bad in ["%s", "%", "%q", "%[x]s", "%'", "%99999999999999999999s"] {
            assert!(format(bad.as_bytes(), &Array::new()).is_err(), "{bad}");
        }
    }
}
