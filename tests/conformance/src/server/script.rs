//! Scripts: what a server does with each attempt of a request, in header `x-script`.
//!
//! A script is a list of steps, separated by semicolons: the first is for the first attempt that arrives, and so on; the last is for
//! all further ones. A step is a list of words: a status, `delay=MILLISECONDS`, `reset` (close the connection without an answer),
//! `grpc=CODE`, `header:NAME=VALUE`, and `only=VERSION`, whose further words are for one version.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http::StatusCode;

/// What a server does with an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) status: StatusCode,
    pub(super) delay: Duration,
    pub(super) reset: bool,
    pub(super) grpc: Option<u16>,
    pub(super) headers: Vec<(String, String)>,
}

impl Step {
    /// Returns what a script says for an attempt, from 0 on.
    pub(super) fn of(script: &str, attempt: usize, version: &str) -> Result<Self> {
        let mut step =
            Self { status: StatusCode::OK, delay: Duration::ZERO, reset: false, grpc: None, headers: Vec::new() };
        let steps: Vec<&str> = script.split(';').collect();
        let words = steps.get(attempt).or(steps.last()).copied().unwrap_or_default();
        for word in words.split_whitespace() {
            match word.split_once('=') {
                Some(("only", only)) if only != version => break,
                Some(("only", _)) => {}
                Some(("delay", delay)) => step.delay = Duration::from_millis(delay.parse()?),
                Some(("grpc", code)) => step.grpc = Some(code.parse()?),
                Some((name, value)) => {
                    let name = name.strip_prefix("header:").with_context(|| format!("unknown word {word:?}"))?;
                    step.headers.push((name.to_owned(), value.to_owned()));
                }
                None if word == "reset" => step.reset = true,
                None => step.status = word.parse().with_context(|| format!("unknown word {word:?}"))?,
            }
        }
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_has_its_step() {
        let script = "503 header:a=b; delay=20 grpc=14; reset; only=v2 500";
        let step = |attempt, version| Step::of(script, attempt, version).unwrap();
        assert_eq!((step(0, "v1").status.as_u16(), step(0, "v1").headers), (503, vec![("a".into(), "b".into())]));
        assert_eq!((step(1, "v1").delay, step(1, "v1").grpc), (Duration::from_millis(20), Some(14)));
        assert!(step(2, "v1").reset && !step(1, "v1").reset);
        assert_eq!([step(3, "v1"), step(9, "v2")].map(|step| step.status.as_u16()), [200, 500]);
        assert_eq!(Step::of("", 0, "v1").unwrap().status, 200);
        assert!(Step::of("x", 0, "v1").is_err() && Step::of("a=b", 0, "v1").is_err());
    }
}
