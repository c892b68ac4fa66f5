//! Dates as RFC 5322 3.3 writes them.

use jiff::{Timestamp, tz::TimeZone};

use crate::MailError;

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment with the zone it is written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zoned {
    /// Unix time in seconds.
    pub unix_s: i64,
    /// East of Greenwich, in seconds; written in whole minutes.
    pub offset_s: i32,
    /// Name of the zone, e.g. `UTC` or `CEST`.
    pub zone: String,
}

impl Zoned {
    /// The moment in UTC.
    pub fn utc(unix_s: i64) -> Self {
        Self { unix_s, offset_s: 0, zone: "UTC".into() }
    }

    /// The moment in the zone of this host (`TZ`, `/etc/localtime`).
    ///
    /// # Errors
    /// [`MailError::Time`] outside the years -9999 to 9999.
    pub fn local(unix_s: i64) -> Result<Self, MailError> {
        let moment = Timestamp::from_second(unix_s).map_err(|_| MailError::Time(unix_s))?;
        let here = TimeZone::system();
        let info = here.to_offset_info(moment);
        Ok(Self { unix_s, offset_s: info.offset().seconds(), zone: info.abbreviation().to_owned() })
    }

    /// `Sat, 06 Sep 2025 14:03:11 +0000`.
    ///
    /// # Errors
    /// [`MailError::Time`] outside the years 0 to 9999 (four digits in RFC 5322).
    pub fn rfc5322(&self) -> Result<String, MailError> {
        let offset_min = self.offset_s / 60;
        let local =
            self.unix_s.checked_add(i64::from(offset_min) * 60).ok_or(MailError::Time(self.unix_s))?;
        let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days).ok_or(MailError::Time(self.unix_s))?;
        // 1 January 1970 was a Thursday; both indexes are reduced to their tables.
        let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
        let sign = if offset_min < 0 { '-' } else { '+' };
        let zone = offset_min.unsigned_abs();
        Ok(format!(
            "{weekday}, {day:02} {} {year:04} {:02}:{:02}:{:02} {sign}{:02}{:02}",
            MONTHS[month - 1],
            second / 3600,
            second / 60 % 60,
            second % 60,
            zone / 60,
            zone % 60
        ))
    }

    /// As [`Zoned::rfc5322`], the name of the zone behind it in parentheses, as in Received fields.
    ///
    /// # Errors
    /// As [`Zoned::rfc5322`].
    pub fn rfc5322_with_zone(&self) -> Result<String, MailError> {
        let date = self.rfc5322()?;
        let plain = !self.zone.is_empty()
            && self.zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-_/".contains(&b));
        Ok(if plain { format!("{date} ({})", self.zone) } else { date })
    }
}

/// Year, month (1–12) and day of a day counted from 1970-01-01 (Hinnant's `civil_from_days`), for the years 0 to 9999.
fn civil_from_days(days: i64) -> Option<(i64, usize, i64)> {
    let z = days.checked_add(719_468)?;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999).contains(&year).then_some((year, usize::try_from(month).ok()?, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let cases = [
            (0, 0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (1_757_167_391, 0, "Sat, 06 Sep 2025 14:03:11 +0000"),
            (1_757_167_391, 7200, "Sat, 06 Sep 2025 16:03:11 +0200"),
            (1_757_167_391, -12_600, "Sat, 06 Sep 2025 10:33:11 -0330"),
            (951_782_400, 0, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (-1, 0, "Wed, 31 Dec 1969 23:59:59 +0000"),
            (253_402_300_799, 0, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ];
        for (unix_s, offset_s, text) in cases {
            let zoned = Zoned { unix_s, offset_s, zone: String::new() };
            assert_eq!(zoned.rfc5322().unwrap(), text);
        }
        for unix_s in [i64::MIN, i64::MAX, 253_402_300_800] {
            assert!(Zoned::utc(unix_s).rfc5322().is_err());
        }
        assert_eq!(Zoned::utc(0).rfc5322_with_zone().unwrap(), "Thu, 01 Jan 1970 00:00:00 +0000 (UTC)");
        assert_eq!(Zoned::local(0).unwrap().unix_s, 0);
    }
}
