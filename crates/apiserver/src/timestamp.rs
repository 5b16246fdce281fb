//! Timestamps as the API writes them: RFC 3339 in UTC, in whole seconds (`metav1.Time`) or microseconds
//! (`metav1.MicroTime`).

use time::format_description::StaticFormatDescription;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

const MICROSECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0)
}

/// The current time as a `metav1.Time`.
pub(crate) fn now() -> String {
    format(OffsetDateTime::now_utc())
}

/// The time `seconds` from now, or before now if negative, as a `metav1.Time`.
pub(crate) fn from_now(seconds: i64) -> String {
    format(OffsetDateTime::now_utc().saturating_add(Duration::seconds(seconds)))
}

/// A `metav1.Time`: whole seconds.
pub(crate) fn format(at: OffsetDateTime) -> String {
    let at = at.truncate_to_second();
    at.format(&Rfc3339).expect("a time in UTC with a year of four digits has an RFC 3339 form")
}

/// A `metav1.MicroTime`: microseconds.
pub(crate) fn format_micros(at: OffsetDateTime) -> String {
    at.format(MICROSECONDS).expect("a date and time has every component of the format")
}

/// Reads an RFC 3339 timestamp.
pub(crate) fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_and_microseconds_in_utc() {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).expect("in range");
        assert_eq!(format(at(0)), "1970-01-01T00:00:00Z");
        assert_eq!(format(at(951_782_400)), "2000-02-29T00:00:00Z");
        let precise = at(1_700_000_000) + Duration::microseconds(1500);
        assert_eq!(format(precise), "2023-11-14T22:13:20Z");
        assert_eq!(format_micros(precise), "2023-11-14T22:13:20.001500Z");
        assert_eq!(parse("2023-11-14T22:13:20.0015Z"), Some(precise));
        assert_eq!(parse("yesterday"), None);
    }
}
