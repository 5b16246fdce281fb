//! What commands print.

use std::time::Duration;

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Prints to standard output; a reader that has gone is no error.
pub(super) fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

/// How long ago `begin` was, for people.
pub(super) fn since(begin: Duration) -> String {
    let seconds = begin.as_secs();
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
        let ages = [5, 119, 120, 7199, 7200].map(|seconds| since(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "119s", "2m", "119m", "2h"]);
    }
}
