//! Durations as Kubernetes prints them, with at most two units.

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::timestamp;

/// Age of an object.
pub(super) fn of(object: &Value, now: OffsetDateTime) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// Time since a timestamp, or `<unknown>` without one.
pub(super) fn since(timestamp: &Value, now: OffsetDateTime) -> String {
    match parse(timestamp) {
        Some(then) => human(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// Parses an RFC 3339 timestamp.
pub(super) fn parse(value: &Value) -> Option<OffsetDateTime> {
    timestamp::parse(value.as_str()?)
}

/// Thresholds of `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub(super) fn human(duration: Duration) -> String {
    let seconds = duration.whole_seconds();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

fn pair(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}
