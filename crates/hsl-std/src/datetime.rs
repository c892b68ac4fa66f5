//! Date and time (library section 4). Unix times are numbers of seconds with fractions.

use crate::support::{flag, options};
use crate::sys::{self, Time};
use hsl::{Args, Error, FunctionDef, NativeCx, OptionDef, Outcome, Value, option, parse_number};
use std::ffi::CString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest sleep, seconds; longer ones are cut, which nobody lives to see.
const SLEEP_MAX_S: f64 = 1e9;

const ZONE_OPTIONS: &[OptionDef] =
    &[option("local", "boolean", "true", "The zone of the process; false for UTC.")];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "executiontime() -> number",
            "Seconds since the execution began, waiting included.",
            |cx, _| Ok(cx.elapsed_s().into()),
        ),
        FunctionDef::full("sleep(seconds: number) -> number", "Waits; the seconds slept.", |_, a| {
            let seconds = a.number(0);
            if seconds.is_nan() {
                return Err(Error::exception("sleep(): expected a number of seconds"));
            }
            if seconds <= 0.0 {
                return Ok(Value::from(0).into());
            }
            let duration = Duration::from_secs_f64(seconds.min(SLEEP_MAX_S));
            Ok(Outcome::Pending(Box::pin(async move {
                let began = std::time::Instant::now();
                tokio::time::sleep(duration).await;
                Ok(began.elapsed().as_secs_f64().into())
            })))
        }),
        FunctionDef::pure("time() -> number", "Unix time.", |_, _| Ok(unix_time().into())),
        FunctionDef::pure(
            "timelocal() -> number",
            "Unix time plus the offset of the zone of the process.",
            |_, _| {
                let now = unix_time();
                let offset = sys::break_down(now.floor() as i64, true).map_or(0, |t| t.tm_gmtoff);
                Ok((now + offset as f64).into())
            },
        ),
        FunctionDef::pure("uptime() -> number", "Seconds since the system started.", |_, _| {
            let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
            let first = text.split(' ').next().and_then(|n| parse_number(n.as_bytes()));
            first.map(Value::from).ok_or_else(|| Error::exception("uptime(): not available"))
        }),
        FunctionDef::pure(
            "strftime(format: string, time?: number, options?: array) -> string",
            "A time as text, with the letters of C and English names; at most 100 bytes, longer results are empty.",
            strftime,
        )
        .with_options(ZONE_OPTIONS),
        FunctionDef::pure(
            "strptime(datestring: string, format: string, options?: array) -> number or none",
            "The time of a text: missing date fields come from today, missing time fields are 0.",
            |_, a| {
                let local = flag(&options(&a, 2), "local", true);
                Ok(strptime(a.bytes(0), a.bytes(1), local).into())
            },
        )
        .with_options(ZONE_OPTIONS),
        FunctionDef::pure(
            "strpduration(duration: string) -> number or none",
            "Seconds of a text like `1d2h3m4s`.",
            |_, a| Ok(duration(a.bytes(0)).into()),
        ),
    ]
}

fn unix_time() -> f64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => d.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn strftime(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let at = if a.given(1).is_some() { a.number(1) } else { unix_time() };
    let local = flag(&options(&a, 2), "local", true);
    if !at.is_finite() {
        return Err(Error::exception("strftime(): expected a finite time"));
    }
    let Some(mut time) = sys::break_down(at.floor() as i64, local) else {
        return Err(Error::exception(format!("strftime(): {at} is beyond the range of years")));
    };
    if !local {
        time.tm_zone = c"UTC".as_ptr();
    }
    Ok(sys::strftime(a.bytes(0), &time).unwrap_or_default().into())
}

/// Fields before parsing. A field that comes out alike from two starts that differ was set by the text.
fn start(second: bool) -> Time {
    let mut time = sys::zero_time();
    let n = i32::from(second);
    (time.tm_year, time.tm_mon, time.tm_mday) = (70 + n, n, 1 + n);
    (time.tm_hour, time.tm_min, time.tm_sec) = (n, n, n);
    time.tm_gmtoff = i64::from(n);
    time
}

fn strptime(text: &[u8], format: &[u8], local: bool) -> Option<f64> {
    let (text, format) = (CString::new(text).ok()?, CString::new(format).ok()?);
    let (mut a, mut b) = (start(false), start(true));
    if sys::strptime(&text, &format, &mut a)? != 0 || sys::strptime(&text, &format, &mut b)? != 0 {
        return None;
    }
    let offset = (a.tm_gmtoff == b.tm_gmtoff).then_some(a.tm_gmtoff);
    let now = unix_time().floor() as i64;
    let today = match offset {
        Some(offset) => sys::break_down(now + offset, false)?,
        None => sys::break_down(now, local)?,
    };
    let (year, month, day) = (a.tm_year == b.tm_year, a.tm_mon == b.tm_mon, a.tm_mday == b.tm_mday);
    let some = year || month || day;
    let mut time = sys::zero_time();
    time.tm_year = if year { a.tm_year } else { today.tm_year };
    time.tm_mon = if month { a.tm_mon } else { today.tm_mon * i32::from(!some) };
    time.tm_mday = if day {
        a.tm_mday
    } else if some {
        1
    } else {
        today.tm_mday
    };
    let field = |a: i32, b: i32| if a == b { a } else { 0 };
    time.tm_hour = field(a.tm_hour, b.tm_hour);
    time.tm_min = field(a.tm_min, b.tm_min);
    time.tm_sec = field(a.tm_sec, b.tm_sec);
    match offset {
        Some(offset) => Some((sys::unix_time(time, false)? - offset) as f64),
        None => Some(sys::unix_time(time, local)? as f64),
    }
}

fn duration(text: &[u8]) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let len = rest.iter().take_while(|c| c.is_ascii_digit() || **c == b'.').count();
        let number = parse_number(&rest[..len]).filter(|_| len > 0)?;
        let unit = *rest.get(len)?;
        if seen.contains(&unit) {
            return None;
        }
        seen.push(unit);
        total += number
            * match unit {
                b'd' => 86_400.0,
                b'h' => 3_600.0,
                b'm' => 60.0,
                b's' => 1.0,
                _ => return None,
            };
        rest = &rest[len + 1..];
    }
    if seen.is_empty() { None } else { Some(total) }
}
