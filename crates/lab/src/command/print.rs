//! Formats of output.

use std::time::Duration;

/// Output format of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Formats an age: seconds, minutes or hours.
pub(super) fn format_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let ages = [5, 119, 120, 7199, 7200].map(|seconds| format_age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "119s", "2m", "119m", "2h"]);
    }
}
