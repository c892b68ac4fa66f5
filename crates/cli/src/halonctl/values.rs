//! Values of options: numbers and times with operators and ranges, expressions, sizes.

use control::smtpd::{
    CompareDouble, CompareTime, CompareUInt64, DoubleValue, TimeValue, UInt64Value, time_value::Time,
};

use super::CliError;

/// A comparison as written: `>N`, `>=N`, `<N`, `<=N`, `=N`, `N`, `A..B`, with `!` in front for "not".
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparison<T> {
    Eq(T),
    Neq(T),
    Lt(T),
    Gt(T),
    Gte(T),
    Lte(T),
    /// Both ends included.
    Range(T, T),
}

impl<T> Comparison<T> {
    pub(crate) fn parse(text: &str, value: impl Fn(&str) -> Result<T, CliError>) -> Result<Self, CliError> {
        let (not, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        if let Some((from, to)) = rest.split_once("..") {
            if not {
                return Err(CliError::usage(format!("\"{text}\": a range cannot be excluded, use < or >")));
            }
            return Ok(Comparison::Range(value(from)?, value(to)?));
        }
        let operators = [(">=", 0), ("<=", 1), (">", 2), ("<", 3), ("=", 4)];
        let found = operators.iter().find_map(|(sign, which)| Some((rest.strip_prefix(sign)?, *which)));
        let (operand, which) = found.unwrap_or((rest, 4));
        let operand = value(operand.trim())?;
        Ok(match (which, not) {
            (0, false) | (3, true) => Comparison::Gte(operand),
            (1, false) | (2, true) => Comparison::Lte(operand),
            (2, false) | (1, true) => Comparison::Gt(operand),
            (3, false) | (0, true) => Comparison::Lt(operand),
            (_, true) => Comparison::Neq(operand),
            (_, false) => Comparison::Eq(operand),
        })
    }

    fn map<U>(self, f: impl Fn(T) -> U) -> Comparison<U> {
        match self {
            Comparison::Eq(x) => Comparison::Eq(f(x)),
            Comparison::Neq(x) => Comparison::Neq(f(x)),
            Comparison::Lt(x) => Comparison::Lt(f(x)),
            Comparison::Gt(x) => Comparison::Gt(f(x)),
            Comparison::Gte(x) => Comparison::Gte(f(x)),
            Comparison::Lte(x) => Comparison::Lte(f(x)),
            Comparison::Range(x, y) => Comparison::Range(f(x), f(y)),
        }
    }

    /// The same of the negated value: older than an hour is received before an hour ago.
    fn turned(self) -> Comparison<T> {
        match self {
            Comparison::Lt(x) => Comparison::Gt(x),
            Comparison::Gt(x) => Comparison::Lt(x),
            Comparison::Gte(x) => Comparison::Lte(x),
            Comparison::Lte(x) => Comparison::Gte(x),
            Comparison::Range(x, y) => Comparison::Range(y, x),
            same @ (Comparison::Eq(_) | Comparison::Neq(_)) => same,
        }
    }
}

/// `--retrycount` and the like.
pub(crate) fn compare_number(text: &str) -> Result<CompareUInt64, CliError> {
    Ok(number_message(Comparison::parse(text, number)?))
}

/// `--size`.
pub(crate) fn compare_size(text: &str) -> Result<CompareUInt64, CliError> {
    Ok(number_message(Comparison::parse(text, size)?))
}

/// Numbers with fraction, for metadata.
pub(crate) fn compare_double(text: &str) -> Result<CompareDouble, CliError> {
    let mut out = CompareDouble::default();
    let value = |value| Some(DoubleValue { value });
    match Comparison::parse(text, seconds)? {
        Comparison::Eq(x) => out.eq = value(x),
        Comparison::Neq(x) => out.neq = value(x),
        Comparison::Lt(x) => out.lt = value(x),
        Comparison::Gt(x) => out.gt = value(x),
        Comparison::Gte(x) => out.gte = value(x),
        Comparison::Lte(x) => out.lte = value(x),
        Comparison::Range(x, y) => (out.gte, out.lte) = (value(x), value(y)),
    }
    Ok(out)
}

/// `--retrydelay`: seconds from now.
pub(crate) fn compare_delay(text: &str) -> Result<CompareTime, CliError> {
    Ok(time_message(Comparison::parse(text, seconds)?.map(Time::Relative)))
}

/// `--age`: seconds ago.
pub(crate) fn compare_age(text: &str) -> Result<CompareTime, CliError> {
    // `0 - x` instead of `-x`: an age of zero is not to become a negative zero.
    Ok(time_message(Comparison::parse(text, seconds)?.turned().map(|age| Time::Relative(0.0 - age))))
}

/// `--ts`: ISO 8601, local time unless a zone is given.
pub(crate) fn compare_moment(text: &str) -> Result<CompareTime, CliError> {
    Ok(time_message(Comparison::parse(text, moment)?.map(Time::Absolute)))
}

fn number_message(comparison: Comparison<u64>) -> CompareUInt64 {
    let mut out = CompareUInt64::default();
    let value = |value| Some(UInt64Value { value });
    match comparison {
        Comparison::Eq(x) => out.eq = value(x),
        Comparison::Neq(x) => out.neq = value(x),
        Comparison::Lt(x) => out.lt = value(x),
        Comparison::Gt(x) => out.gt = value(x),
        Comparison::Gte(x) => out.gte = value(x),
        Comparison::Lte(x) => out.lte = value(x),
        Comparison::Range(x, y) => (out.gte, out.lte) = (value(x), value(y)),
    }
    out
}

fn time_message(comparison: Comparison<Time>) -> CompareTime {
    let mut out = CompareTime::default();
    let value = |time| Some(TimeValue { time: Some(time) });
    match comparison {
        Comparison::Eq(x) => out.eq = value(x),
        Comparison::Neq(x) => out.neq = value(x),
        Comparison::Lt(x) => out.lt = value(x),
        Comparison::Gt(x) => out.gt = value(x),
        Comparison::Gte(x) => out.gte = value(x),
        Comparison::Lte(x) => out.lte = value(x),
        Comparison::Range(x, y) => (out.gte, out.lte) = (value(x), value(y)),
    }
    out
}

pub(crate) fn number(text: &str) -> Result<u64, CliError> {
    text.parse().map_err(|_| CliError::usage(format!("\"{text}\" is not a whole number")))
}

pub(crate) fn seconds(text: &str) -> Result<f64, CliError> {
    let value: Option<f64> = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| CliError::usage(format!("\"{text}\" is not a number")))
}

/// Bytes, or a number with `B`, `KiB`, `MiB`, `GiB`, `TiB`.
fn size(text: &str) -> Result<u64, CliError> {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
    let found = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = found.unwrap_or((text, 0));
    let bytes = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| CliError::usage(format!("\"{text}\" is not a size (bytes, or like 50MiB)")))
}

/// Seconds since the epoch of an ISO 8601 time.
fn moment(text: &str) -> Result<f64, CliError> {
    let seconds = |timestamp: jiff::Timestamp| timestamp.as_microsecond() as f64 / 1e6;
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(seconds(timestamp));
    }
    let civil = text.parse::<jiff::civil::DateTime>();
    let local = civil.and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::system()));
    match local {
        Ok(zoned) => Ok(seconds(zoned.timestamp())),
        Err(_) => Err(CliError::usage(format!(
            "\"{text}\" is not a time (like 2020-01-01T01:02:03, with Z or +01:00 for a zone)"
        ))),
    }
}

/// A leading `!`.
pub(crate) fn exclusion(text: &str) -> (bool, &str) {
    match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

/// The expression between slashes.
pub(crate) fn expression(text: &str) -> Option<&str> {
    text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|inner| !inner.is_empty())
}

/// `transaction[:queue]`; 0 stands for all entries.
pub(crate) fn item_id(text: &str) -> Result<(String, u64), CliError> {
    let (transaction, queue) = match text.split_once(':') {
        Some((transaction, queue)) => (transaction, number(queue)?),
        None => (text, 0),
    };
    let hyphens_right = transaction.len() == 36
        && transaction.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !hyphens_right {
        return Err(CliError::usage(format!(
            "\"{text}\" is not a message id (like c6321f4c-1671-11ea-885e-005056914940:1)"
        )));
    }
    Ok((transaction.to_ascii_lowercase(), queue))
}

/// `KEY=VALUE`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), CliError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(CliError::usage(format!("\"{text}\" is not of the form key=value"))),
    }
}

/// Seconds since the epoch as local time with milliseconds.
pub(crate) fn local_time(seconds: f64) -> String {
    let micros = (seconds * 1e6).round() as i64;
    let Ok(timestamp) = jiff::Timestamp::from_microsecond(micros) else { return seconds.to_string() };
    timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_as_written() {
        use Comparison::*;
        for (text, expected) in [
            ("5", Eq(5)),
            ("=5", Eq(5)),
            (">5", Gt(5)),
            (">=5", Gte(5)),
            ("<5", Lt(5)),
            ("<= 5", Lte(5)),
            ("10..20", Range(10, 20)),
            ("!5", Neq(5)),
            ("!>5", Lte(5)),
            ("!<=5", Gt(5)),
        ] {
            assert_eq!(Comparison::parse(text, number).unwrap(), expected, "{text}");
        }
        for bad in ["", ">", "x", "1..", "..", "!1..2", "-1", "1.5"] {
            assert!(Comparison::parse(bad, number).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_turn_round() {
        let relative = |value: Option<TimeValue>| match value.and_then(|value| value.time) {
            Some(Time::Relative(seconds)) => Some(seconds),
            _ => None,
        };
        let older = compare_age(">3600").unwrap();
        assert_eq!(relative(older.lt), Some(-3600.0));
        let between = compare_age("60..120").unwrap();
        assert_eq!((relative(between.gte), relative(between.lte)), (Some(-120.0), Some(-60.0)));
    }

    #[test]
    fn sizes_moments_and_ids() {
        assert_eq!(size("50MiB").unwrap(), 50 << 20);
        assert_eq!(size("7").unwrap(), 7);
        assert!(size("50MB").is_err());
        assert!(size("99999999999TiB").is_err());
        assert_eq!(moment("1970-01-01T00:01:00Z").unwrap(), 60.0);
        assert_eq!(moment("1970-01-01T01:00:00.5+01:00").unwrap(), 0.5);
        assert!(moment("2020-01-01T01:02:03").is_ok());
        assert!(moment("yesterday").is_err());
        let id = "c6321f4c-1671-11ea-885e-005056914940";
        assert_eq!(item_id(&format!("{id}:3")).unwrap(), (id.to_owned(), 3));
        assert_eq!(item_id(id).unwrap(), (id.to_owned(), 0));
        assert!(item_id("c6321f4c").is_err());
    }
}
