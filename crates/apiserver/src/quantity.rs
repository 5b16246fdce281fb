//! Quantities: `500m`, `1.5Gi`, `1e3`.

use serde_json::Value;

/// Parses a quantity. The result is precise enough to compare requests with limits.
pub(crate) fn parse(value: &Value) -> Option<f64> {
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

/// The canonical form of a number of billionths, such as CPU in nanocores: `250m`, `1234567n`.
pub(crate) fn from_nano(number: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, ""), (1_000_000, "m"), (1_000, "u")];
    match UNITS.iter().find(|(scale, _)| number.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", number / scale),
        None => format!("{number}n"),
    }
}

/// The canonical form of a number of bytes with binary units: `512Ki`, `1000`.
pub(crate) fn from_bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let whole = (number.trailing_zeros() / 10) as usize;
    match whole.min(UNITS.len()) {
        0 => number.to_string(),
        _ if number == 0 => "0".to_owned(),
        power => format!("{}{}", number >> (10 * power), UNITS[power - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_a_canonical_form() {
        for (number, text) in
            [(0, "0"), (1, "1n"), (1_500, "1500n"), (2_000, "2u"), (250_000_000, "250m"), (3_000_000_000, "3")]
        {
            assert_eq!(from_nano(number), text);
        }
        for (number, text) in
            [(0, "0"), (1_000, "1000"), (1 << 10, "1Ki"), (1_536, "1536"), (3 << 20, "3Mi"), (1 << 63, "8Ei")]
        {
            assert_eq!(from_bytes(number), text);
            assert_eq!(parse(&text.into()), Some(number as f64));
        }
    }
}
