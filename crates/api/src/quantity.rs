//! Quantities of Kubernetes as weights: `900m`, `1`, `"0.5"`, `2k`.

use serde_json::Value;

use crate::networking::json::{Field, Reader};

/// The number of parts of 1.
const PARTS: u64 = 10_000;

/// The greatest quantity, in parts. The sum of a few hundred does not overflow.
const MAX: u64 = 1 << 50;

/// Suffixes, and what they multiply a number by, as a fraction.
const SUFFIXES: [(&str, u64, u64); 9] = [
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("u", 1, 1_000_000),
    ("n", 1, 1_000_000_000),
];

/// A quantity that is not negative, in ten-thousandths, rounded up. Weights are compared with each other, so their unit has no
/// meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(u64);

impl Quantity {
    /// Returns ten-thousandths.
    pub fn parts(self) -> u64 {
        self.0
    }

    /// Parses a quantity. Returns `None` for one that is negative, too large or of no known form.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let (times, by) = match SUFFIXES.iter().find(|(known, ..)| *known == suffix) {
            Some((_, times, by)) => (*times, *by),
            None if suffix.is_empty() => (1, 1),
            None => power(suffix.strip_prefix(['e', 'E'])?)?,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return None;
        }
        let digits = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        let scale = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
        let value = digits(whole)?.checked_mul(scale)?.checked_add(digits(fraction)?)?;
        let parts = value.checked_mul(u128::from(PARTS))?.checked_mul(times.into())?;
        let parts = parts.div_ceil(scale.checked_mul(by.into())?);
        u64::try_from(parts).ok().filter(|parts| *parts <= MAX).map(Quantity)
    }
}

/// Returns a power of ten as a fraction.
fn power(exponent: &str) -> Option<(u64, u64)> {
    let exponent: i32 = exponent.parse().ok()?;
    let power = 10_u64.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

impl Field for Quantity {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let text = match value {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        text.and_then(|text| Quantity::parse(&text)).unwrap_or_else(|| {
            reader.unexpected(value, "a quantity such as 90, \"900m\" or \"0.5\"");
            Quantity::default()
        })
    }

    fn json(&self) -> Value {
        let (whole, rest) = (self.0 / PARTS, self.0 % PARTS);
        if rest == 0 { whole.to_string().into() } else { format!("{whole}.{rest:04}").into() }
    }

    fn is_unset(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_ten_thousandths() {
        for (text, expected) in [
            ("900m", Some(9_000)),
            ("1", Some(10_000)),
            ("0", Some(0)),
            ("0.5", Some(5_000)),
            (".5", Some(5_000)),
            ("1.", Some(10_000)),
            ("100", Some(1_000_000)),
            ("2k", Some(20_000_000)),
            ("1Ki", Some(10_240_000)),
            ("1e2", Some(1_000_000)),
            ("5E-1", Some(5_000)),
            ("1n", Some(1)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3", None),
            ("1e99", None),
            ("99999999999999999999999999999999999999999999", None),
            ("1000000G", None),
        ] {
            assert_eq!(Quantity::parse(text).map(Quantity::parts), expected, "{text}");
        }
    }

    #[test]
    fn the_json_form_is_read_as_it_was_written() {
        for text in ["900m", "1", "0.00012", "3k"] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(Quantity::parse(quantity.json().as_str().unwrap()), Some(quantity), "{text}");
        }
    }
}
