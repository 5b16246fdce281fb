//! Quantities: `500m`, `1.5Gi`, `1e3`.

use serde_json::Value;

/// Parses a quantity. The result is precise enough to compare requests with limits.
pub(super) fn parse(value: &Value) -> Option<f64> {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(number) => return number.as_f64(),
        _ => return None,
    };
    let digits = text.find(|char: char| !char.is_ascii_digit() && !"+-.".contains(char)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    Some(number * scale(suffix)?)
}

fn scale(suffix: &str) -> Option<f64> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some(power) = BINARY.iter().position(|unit| *unit == suffix) {
        return Some(1024f64.powi(i32::try_from(power).ok()? + 1));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(unit, _)| *unit == suffix) {
        return Some(10f64.powi(*power));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 18).then(|| 10f64.powi(exponent))
}
