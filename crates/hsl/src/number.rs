//! Numbers as text: the printed form and the accepted input form (language section 4.3 and 4.9).

/// Largest integer that a double holds exactly, 2^53 - 1; also the bound of integer array keys.
pub const SAFE_INTEGER_MAX: i64 = 9_007_199_254_740_991;

/// Appends the printed form of `number` to `out`: the shortest digits that read back as the same double, plain decimal
/// notation between 1e-7 and 1e21, otherwise `d.ddde+N`.
pub fn write_number(out: &mut Vec<u8>, number: f64) {
    if let Some(whole) = exact_integer(number) {
        return write_integer(out, whole);
    }
    if number.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if number.is_infinite() {
        return out.extend_from_slice(if number > 0.0 { b"inf" } else { b"-inf" });
    }
    let size = number.abs();
    if (1e-7..1e21).contains(&size) {
        out.extend_from_slice(format!("{number}").as_bytes());
    } else {
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, power)) if !power.starts_with('-') => {
                out.extend_from_slice(digits.as_bytes());
                out.extend_from_slice(b"e+");
                out.extend_from_slice(power.as_bytes());
            }
            _ => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Longest printed form of an exact integer.
pub(crate) const INTEGER_DIGITS_MAX: usize = 20;

/// The number as an exact integer, if it is one.
#[inline]
pub(crate) fn exact_integer(number: f64) -> Option<i64> {
    let whole = number as i64;
    (whole as f64 == number && whole.unsigned_abs() <= SAFE_INTEGER_MAX as u64).then_some(whole)
}

/// Writes an integer to the end of `buf`; the place where it begins.
#[inline]
pub(crate) fn integer_digits(buf: &mut [u8; INTEGER_DIGITS_MAX], number: i64) -> usize {
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut i = 0;
        while i < 100 {
            pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
            i += 1;
        }
        pairs
    };
    let mut at = buf.len();
    let mut rest = number.unsigned_abs();
    while rest >= 100 {
        at -= 2;
        buf[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest >= 10 {
        at -= 2;
        buf[at..at + 2].copy_from_slice(&PAIRS[rest as usize]);
    } else {
        at -= 1;
        buf[at] = b'0' + rest as u8;
    }
    if number < 0 {
        at -= 1;
        buf[at] = b'-';
    }
    at
}

fn write_integer(out: &mut Vec<u8>, number: i64) {
    let mut buf = [0u8; INTEGER_DIGITS_MAX];
    let at = integer_digits(&mut buf, number);
    out.extend_from_slice(&buf[at..]);
}

/// The printed form of `number`.
pub fn number_to_string(number: f64) -> String {
    let mut out = Vec::new();
    write_number(&mut out, number);
    // write_number only emits ASCII.
    String::from_utf8(out).unwrap_or_default()
}

/// Reads a complete number: decimal with optional sign, fraction and exponent, or `0x` hexadecimal, with white space
/// around it. `None` when anything else is in the text.
pub fn parse_number(text: &[u8]) -> Option<f64> {
    let text = text.trim_ascii();
    if let Some(hex) = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        if hex.is_empty() {
            return None;
        }
        return hex
            .iter()
            .try_fold(0.0f64, |acc, c| Some(acc * 16.0 + f64::from((*c as char).to_digit(16)?)));
    }
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = digits(fraction);
        if n == 0 {
            return None;
        }
        rest = &fraction[n..];
    } else if whole == 0 {
        return None;
    }
    if let Some(power) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let power = power.strip_prefix(b"-").or_else(|| power.strip_prefix(b"+")).unwrap_or(power);
        let n = digits(power);
        if n == 0 || n != power.len() {
            return None;
        }
    } else if !rest.is_empty() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// True when `text` is an integer in canonical form (`-?(0|[1-9][0-9]*)` but not `-0`) inside the safe range; such
/// strings and the integer are the same array key.
#[inline]
pub(crate) fn canonical_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 16 => {}
        _ => return None,
    }
    let mut value = 0i64;
    for c in digits {
        if !c.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(c - b'0');
    }
    if value > SAFE_INTEGER_MAX {
        return None;
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_form() {
        for (number, text) in [
            (1.0, "1"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (1e-7, "0.0000001"),
            (1e-8, "1e-8"),
            (1.5e-10, "1.5e-10"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (9007199254740991.0, "9007199254740991"),
            (-42.0, "-42"),
            (2.9999999999999996, "2.9999999999999996"),
        ] {
            assert_eq!(number_to_string(number), text);
        }
    }

    #[test]
    fn input_form() {
        for (text, number) in [
            ("42", Some(42.0)),
            (" -1.5e3\n", Some(-1500.0)),
            ("0x1F", Some(31.0)),
            ("", None),
            ("12abc", None),
            ("inf", None),
            ("0o7", None),
            ("1e", None),
            ("+.5", Some(0.5)),
            ("5.", None),
        ] {
            assert_eq!(parse_number(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn integer_keys() {
        for (text, key) in [
            ("0", Some(0)),
            ("-0", None),
            ("01", None),
            ("-7", Some(-7)),
            ("9007199254740991", Some(SAFE_INTEGER_MAX)),
            ("9007199254740992", None),
            ("1.5", None),
            ("+1", None),
        ] {
            assert_eq!(canonical_integer(text.as_bytes()), key, "{text}");
        }
    }
}
