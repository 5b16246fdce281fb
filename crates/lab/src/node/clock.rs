//! Times as Kubernetes writes them (RFC 3339, UTC).

use time::OffsetDateTime;

/// A moment, to the second.
pub(super) fn seconds(at: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// A moment, to the microsecond, as Leases have it.
pub(super) fn microseconds(at: OffsetDateTime) -> String {
    let whole = seconds(at);
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), at.microsecond())
}

/// A moment, to the nanosecond, always 30 characters: text order is time order.
pub(super) fn nanoseconds(at: OffsetDateTime) -> String {
    let whole = seconds(at);
    format!("{}.{:09}Z", whole.trim_end_matches('Z'), at.nanosecond())
}

/// Now, in UTC.
pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_fixed_widths() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_001_000).unwrap();
        assert_eq!(seconds(at), "2023-11-14T22:13:20Z");
        assert_eq!(microseconds(at), "2023-11-14T22:13:20.000001Z");
        assert_eq!(nanoseconds(at), "2023-11-14T22:13:20.000001000Z");
    }
}
