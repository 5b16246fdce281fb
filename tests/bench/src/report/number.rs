//! Numbers as text: units that fit, three significant digits.

/// Units of one kind, each with its size in the unit before it.
const LADDERS: [&[(&str, f64)]; 3] = [
    &[("ns", 1.0), ("µs", 1000.0), ("ms", 1000.0), ("s", 1000.0)],
    &[("B", 1.0), ("KiB", 1024.0), ("MiB", 1024.0), ("GiB", 1024.0)],
    &[("bytes", 1.0), ("KiB", 1024.0), ("MiB", 1024.0), ("GiB", 1024.0)],
];

/// A unit for all numbers of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Its name.
    pub unit: String,
    divisor: f64,
}

impl Scale {
    /// A scale that keeps its unit.
    pub fn plain(unit: &str) -> Self {
        Self { unit: unit.to_owned(), divisor: 1.0 }
    }

    /// The scale with the largest unit in which no value is less than one. Zeros are ignored.
    pub fn of(unit: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let unscaled = Self::plain(unit);
        let smallest = values.into_iter().map(f64::abs).filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let Some(ladder) = LADDERS.iter().find(|ladder| ladder.iter().any(|(name, _)| *name == unit)) else {
            return unscaled;
        };
        if !smallest.is_finite() {
            return unscaled;
        }
        let above = ladder.iter().skip_while(|(name, _)| *name != unit).skip(1);
        above.fold(unscaled, |scale, (name, factor)| {
            let divisor = scale.divisor * factor;
            if smallest >= divisor { Self { unit: (*name).to_owned(), divisor } } else { scale }
        })
    }

    /// The value in this unit, with three significant digits.
    pub fn show(&self, value: f64) -> String {
        digits(value / self.divisor)
    }

    /// The value with its unit.
    pub fn with_unit(&self, value: f64) -> String {
        let shown = self.show(value);
        if self.unit.is_empty() { shown } else { format!("{shown} {}", self.unit) }
    }
}

/// Converts a value to another unit. `None` if the two units are of different kinds.
pub fn convert(value: f64, from: &str, to: &str) -> Option<f64> {
    if from == to {
        return Some(value);
    }
    LADDERS.iter().find_map(|ladder| {
        let size = |unit: &str| {
            let at = ladder.iter().position(|(name, _)| *name == unit)?;
            Some(ladder[..=at].iter().map(|(_, factor)| factor).product::<f64>())
        };
        Some(value * size(from)? / size(to)?)
    })
}

/// A number with three significant digits and grouped thousands: `0.0123`, `1.23`, `12.3`, `12 345`.
pub fn digits(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    // Rounding first: 9.996 is 10.0.
    let exponent = size.log10().floor();
    let rounded = (size / 10f64.powf(exponent - 2.0)).round() * 10f64.powf(exponent - 2.0);
    let decimals = match rounded {
        least if least < 0.001 => 5,
        least if least < 0.01 => 4,
        less if less < 0.1 => 4,
        less if less < 1.0 => 3,
        some if some < 10.0 => 2,
        some if some < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    group(text)
}

/// How many times: `0.34 ×`.
pub fn ratio(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value >= 10.0 { format!("{value:.0} ×") } else { format!("{value:.2} ×") }
}

/// A thin gap between thousands, from five digits on.
fn group(text: &str) -> String {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && whole.len() > 4 && (whole.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    match fraction {
        Some(fraction) => format!("{sign}{grouped}.{fraction}"),
        None => format!("{sign}{grouped}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (0.1234, "0.123"),
            (1.0, "1"),
            (1.234, "1.23"),
            (9.996, "10"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234.5, "1234"),
            (12345.0, "12\u{202f}345"),
            (1_234_567.0, "1\u{202f}234\u{202f}567"),
            (-20.0, "-20"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(digits(value), text, "{value}");
        }
    }

    #[test]
    fn scales_follow_the_smallest() {
        assert_eq!(Scale::of("µs", [12.0, 90_000.0]).with_unit(12.0), "12 µs");
        assert_eq!(Scale::of("µs", [1200.0, 90_000.0]).with_unit(90_000.0), "90 ms");
        assert_eq!(Scale::of("µs", [2_000_000.0]).with_unit(2_000_000.0), "2 s");
        assert_eq!(Scale::of("KiB", [2048.0, 0.0]).with_unit(2048.0), "2 MiB");
        assert_eq!(Scale::of("req/s", [20_000.0]).with_unit(20_000.0), "20\u{202f}000 req/s");
        assert_eq!(Scale::of("", [2.0]).with_unit(2.0), "2");
        assert_eq!(Scale::of("µs", []).unit, "µs");
    }

    #[test]
    fn units_of_a_kind() {
        assert_eq!(convert(2.0, "MiB", "B"), Some(2.0 * 1024.0 * 1024.0));
        assert_eq!(convert(250_000.0, "µs", "ms"), Some(250.0));
        assert_eq!(convert(3.0, "", ""), Some(3.0));
        assert_eq!(convert(3.0, "µs", "MiB"), None);
    }

    #[test]
    fn ratios() {
        assert_eq!((ratio(0.336), ratio(12.4), ratio(f64::NAN)), ("0.34 ×".into(), "12 ×".into(), "–".into()));
    }
}
