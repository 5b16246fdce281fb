//! Times as the fields of Kubernetes objects hold them: RFC 3339, UTC.

use k8s_openapi::jiff::Timestamp;

/// A time to the second, as `metav1.Time`.
pub(crate) fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// A time to the microsecond, as `metav1.MicroTime`.
pub(crate) fn microseconds(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// A time to the nanosecond, always 30 characters, so that text order is time order.
pub(crate) fn nanoseconds(at: Timestamp) -> String {
    format!("{at:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_fixed_and_fractions_are_cut() {
        let at = Timestamp::from_nanosecond(1_700_000_000_000_001_000).unwrap();
        assert_eq!(seconds(at), "2023-11-14T22:13:20Z");
        assert_eq!(microseconds(at), "2023-11-14T22:13:20.000001Z");
        assert_eq!(nanoseconds(at), "2023-11-14T22:13:20.000001000Z");
        let nearly = Timestamp::from_nanosecond(1_700_000_000_999_999_999).unwrap();
        assert_eq!(seconds(nearly), "2023-11-14T22:13:20Z");
        assert_eq!(microseconds(nearly), "2023-11-14T22:13:20.999999Z");
    }
}
