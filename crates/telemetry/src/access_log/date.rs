//! Dates in UTC. Access logs need them for every line, so the part that changes once a second is kept.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

/// The text of the last second asked for.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    /// `2026-11-20T10:31:15.042Z`.
    pub(super) fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            let civil = Civil::of(since.as_secs());
            self.second = since.as_secs();
            self.text.clear();
            // Writing to a vector cannot fail.
            let _ = write!(
                self.text,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
            );
        }
        out.extend_from_slice(&self.text);
        let _ = write!(out, ".{:03}Z", since.subsec_millis());
    }
}

/// A part of a `strftime` format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    EpochSeconds,
    /// Digits of the second's fraction.
    Fraction(usize),
    Zone,
    ZoneName,
}

/// Parses what is between the parentheses of `%START_TIME(…)%`.
pub(super) fn parse(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            parts.push(Part::Text(rest[..at].to_owned()));
        }
        let directive = &rest[at + 1..];
        let (part, length) = match directive.as_bytes() {
            [b'Y', ..] => (vec![Part::Year], 1),
            [b'm', ..] => (vec![Part::Month], 1),
            [b'd', ..] => (vec![Part::Day], 1),
            [b'H', ..] => (vec![Part::Hour], 1),
            [b'M', ..] => (vec![Part::Minute], 1),
            [b'S', ..] => (vec![Part::Second], 1),
            [b's', ..] => (vec![Part::EpochSeconds], 1),
            [b'f', ..] => (vec![Part::Fraction(9)], 1),
            [digit @ b'1'..=b'9', b'f', ..] => (vec![Part::Fraction(usize::from(digit - b'0'))], 2),
            [b'z', ..] => (vec![Part::Zone], 1),
            [b'Z', ..] => (vec![Part::ZoneName], 1),
            [b'%', ..] => (vec![Part::Text("%".into())], 1),
            [b'F', ..] => (vec![Part::Year, Part::Text("-".into()), Part::Month, Part::Text("-".into()), Part::Day], 1),
            [b'T', ..] => {
                (vec![Part::Hour, Part::Text(":".into()), Part::Minute, Part::Text(":".into()), Part::Second], 1)
            }
            _ => {
                let found: String = directive.chars().take(1).collect();
                return Err(format!("%{found} is not among %Y %m %d %H %M %S %s %f %3f %z %Z %F %T %%"));
            }
        };
        parts.extend(part);
        rest = &directive[length..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// Writes `time` as the parts say.
pub(super) fn write(parts: &[Part], time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let civil = Civil::of(since.as_secs());
    for part in parts {
        let _ = match part {
            Part::Text(text) => out.write_all(text.as_bytes()),
            Part::Year => write!(out, "{:04}", civil.year),
            Part::Month => write!(out, "{:02}", civil.month),
            Part::Day => write!(out, "{:02}", civil.day),
            Part::Hour => write!(out, "{:02}", civil.hour),
            Part::Minute => write!(out, "{:02}", civil.minute),
            Part::Second => write!(out, "{:02}", civil.second),
            Part::EpochSeconds => write!(out, "{}", since.as_secs()),
            Part::Fraction(digits) => out.write_all(&format!("{:09}", since.subsec_nanos()).as_bytes()[..*digits]),
            Part::Zone => out.write_all(b"+0000"),
            Part::ZoneName => out.write_all(b"UTC"),
        };
    }
}

impl Civil {
    /// The proleptic Gregorian date: days are counted from 1 March of year 0, so that a leap day is the last of its year.
    fn of(seconds: u64) -> Self {
        let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn dates_are_right_around_leap_days_and_ends_of_years() {
        let mut clock = Clock::default();
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_001, "2024-03-01T00:00:00.001Z"),
            (1_735_689_599_500, "2024-12-31T23:59:59.500Z"),
            (1_795_170_675_042, "2026-11-20T10:31:15.042Z"),
            (1_795_170_675_043, "2026-11-20T10:31:15.043Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            clock.write(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn own_formats() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_795_170_675_042_123_456);
        let text = |format: &str| {
            let mut out = Vec::new();
            write(&parse(format).unwrap(), time, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text("%Y/%m/%dT%H:%M:%S%z %s"), "2026/11/20T10:31:15+0000 1795170675");
        assert_eq!(text("%F %T.%3f|%6f|%f %Z 100%%"), "2026-11-20 10:31:15.042|042123|042123456 UTC 100%");
        assert!(parse("%Q").unwrap_err().contains("%Q"));
        assert!(parse("x%").is_err());
    }
}
