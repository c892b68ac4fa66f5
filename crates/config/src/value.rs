//! Scalars with a form of their own: durations, sizes, rates, octal modes, match values.

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::net::IpAddr;

/// Seconds, written as a number (fraction allowed) or as `[Nd][Nh][Nm][Ns]`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Duration(pub f64);

impl Duration {
    /// As a standard duration.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::try_from_secs_f64(self.0).unwrap_or(std::time::Duration::MAX)
    }

    /// Reads the string form.
    pub fn parse(text: &str) -> Option<Duration> {
        if let Ok(seconds) = text.parse::<f64>() {
            return Duration::checked(seconds);
        }
        let mut rest = text;
        let mut total = 0.0;
        let mut last_unit = 5;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let count: u32 = rest[..digits].parse().ok()?;
            let (rank, seconds) = match rest.as_bytes()[digits] {
                b'd' => (4, 86_400.0),
                b'h' => (3, 3_600.0),
                b'm' => (2, 60.0),
                b's' => (1, 1.0),
                _ => return None,
            };
            if rank >= last_unit {
                return None;
            }
            last_unit = rank;
            total += f64::from(count) * seconds;
            rest = &rest[digits + 1..];
        }
        (!text.is_empty()).then_some(())?;
        Duration::checked(total)
    }

    fn checked(seconds: f64) -> Option<Duration> {
        (seconds.is_finite() && (0.0..=1e12).contains(&seconds)).then_some(Duration(seconds))
    }
}

/// Octets, written as an integer or with `B`, `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

impl Size {
    /// Reads the string form.
    pub fn parse(text: &str) -> Option<Size> {
        const UNITS: [(&str, u64); 5] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        for (unit, factor) in UNITS {
            if let Some(number) = text.strip_suffix(unit) {
                return number.trim_end().parse::<u64>().ok()?.checked_mul(factor).map(Size);
            }
        }
        text.parse().ok().map(Size)
    }
}

/// `count/seconds`, or a plain count per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At least 1.
    pub count: u64,
    /// More than 0, seconds.
    pub interval_s: f64,
}

impl Rate {
    /// Reads the string form.
    pub fn parse(text: &str) -> Option<Rate> {
        let (count, interval) = text.split_once('/').unwrap_or((text, "1"));
        let rate = Rate { count: count.trim().parse().ok()?, interval_s: interval.trim().parse().ok()? };
        (rate.count >= 1 && rate.interval_s > 0.0 && rate.interval_s.is_finite()).then_some(rate)
    }
}

/// A file mode or umask, written as a quoted octal string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// An address or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Network {
    /// Reads `192.0.2.1` or `192.0.2.0/24`.
    pub fn parse(text: &str) -> Option<Network> {
        match text.contains('/') {
            true => text.parse().ok().map(Network),
            false => text.parse::<IpAddr>().ok().map(|address| Network(address.into())),
        }
    }

    /// True for an address of the network. IPv4 addresses in IPv6 form count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// One string or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Strings(pub Vec<String>);

macro_rules! scalar {
    ($type:ty, $expected:literal, |$text:ident| $parse:expr, |$integer:ident| $from_integer:expr, |$float:ident| $from_float:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Scalar;
                impl Visitor<'_> for Scalar {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: Error>(self, $text: &str) -> Result<$type, E> {
                        $parse.ok_or_else(|| E::custom(format!("'{}' found, expected {}", $text, $expected)))
                    }
                    fn visit_u64<E: Error>(self, $integer: u64) -> Result<$type, E> {
                        $from_integer
                            .ok_or_else(|| E::custom(format!("{} found, expected {}", $integer, $expected)))
                    }
                    fn visit_i64<E: Error>(self, number: i64) -> Result<$type, E> {
                        match u64::try_from(number) {
                            Ok(number) => self.visit_u64(number),
                            Err(_) => Err(E::custom(format!("{number} found, expected {}", $expected))),
                        }
                    }
                    fn visit_f64<E: Error>(self, $float: f64) -> Result<$type, E> {
                        $from_float
                            .ok_or_else(|| E::custom(format!("{} found, expected {}", $float, $expected)))
                    }
                }
                deserializer.deserialize_any(Scalar)
            }
        }
    };
}

scalar!(
    Duration,
    "a duration in seconds or like '1h30m'",
    |text| Duration::parse(text),
    |number| Duration::checked(number as f64),
    |number| Duration::checked(number)
);
scalar!(
    Size,
    "a size in bytes or like '50MiB'",
    |text| Size::parse(text),
    |number| Some(Size(number)),
    |_number| None
);
scalar!(
    Rate,
    "a rate like '10/60' or a count per second",
    |text| Rate::parse(text),
    |number| (number >= 1).then_some(Rate { count: number, interval_s: 1.0 }),
    |_number| None
);
scalar!(
    Mode,
    "a quoted octal mode like \"0660\"",
    |text| u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Mode),
    |_number| None,
    |_number| None
);

scalar!(
    Network,
    "an address or a network like '192.0.2.0/24'",
    |text| Network::parse(text),
    |_number| None,
    |_number| None
);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strings, A::Error> {
                let mut strings = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    strings.push(text);
                }
                Ok(Strings(strings))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90", 90.0), ("0.5", 0.5), ("1h30m", 5400.0), ("2d", 172_800.0), ("1d1h1m1s", 90_061.0)]
        {
            assert_eq!(Duration::parse(text), Some(Duration(seconds)), "{text}");
        }
        for text in ["", "1x", "1m1h", "-1", "h", "1h2", "inf", "nan", "1m1m"] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn networks() {
        let network = Network::parse("192.0.2.0/28").unwrap();
        assert!(network.contains("192.0.2.15".parse().unwrap()));
        assert!(network.contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!network.contains("192.0.2.16".parse().unwrap()));
        assert!(Network::parse("2001:db8::1").unwrap().contains("2001:db8::1".parse().unwrap()));
        for text in ["", "192.0.2.0/", "192.0.2.0/33", "a.example", "1"] {
            assert!(Network::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(Size::parse("50MiB"), Some(Size(52_428_800)));
        assert_eq!(Size::parse("1 KiB"), Some(Size(1024)));
        assert_eq!(Size::parse("7"), Some(Size(7)));
        for text in ["", "MiB", "1MB", "-1B", "99999999999TiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        assert_eq!(Rate::parse("10/60"), Some(Rate { count: 10, interval_s: 60.0 }));
        assert_eq!(Rate::parse("5"), Some(Rate { count: 5, interval_s: 1.0 }));
        for text in ["0/1", "1/0", "1/-1", "x", "1/inf"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }
}
