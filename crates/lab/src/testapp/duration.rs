//! Durations in options and queries.

use std::time::Duration;

/// Parses `5s`, `500ms`, `2m`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("{unit:?} is not a unit; use ms, s or m")),
    };
    let seconds =
        number.parse::<f64>().map_err(|_| format!("{text:?} is not a duration, such as 5s or 500ms"))? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is out of range"))
}
