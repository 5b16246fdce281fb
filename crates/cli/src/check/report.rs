//! Findings, and how they are shown.

use serde_json::{Value, json};

use crate::table::table;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Ok,
    /// It works, but not as it should or not for long.
    Warning,
    /// It does not work.
    Failure,
    /// It cannot be found out.
    Unknown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failure => "failure",
            Outcome::Unknown => "unknown",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The name of the check.
    pub(super) check: &'static str,
    /// The cluster, or the clusters as `FROM -> TO`.
    pub(super) place: String,
    /// The outcome.
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) text: String,
    /// What to do.
    pub(super) advice: Option<String>,
}

impl Finding {
    fn of(check: &'static str, place: &str, outcome: Outcome, text: impl Into<String>) -> Self {
        Finding { check, place: place.to_owned(), outcome, text: text.into(), advice: None }
    }

    pub(super) fn ok(check: &'static str, place: &str, text: impl Into<String>) -> Self {
        Self::of(check, place, Outcome::Ok, text)
    }

    pub(super) fn warning(check: &'static str, place: &str, text: impl Into<String>) -> Self {
        Self::of(check, place, Outcome::Warning, text)
    }

    pub(super) fn failure(check: &'static str, place: &str, text: impl Into<String>) -> Self {
        Self::of(check, place, Outcome::Failure, text)
    }

    pub(super) fn unknown(check: &'static str, place: &str, text: impl Into<String>) -> Self {
        Self::of(check, place, Outcome::Unknown, text)
    }

    /// Adds what to do.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Formats the findings: a table, advice for those that did not pass, and a sum.
pub(super) fn text(findings: &[Finding]) -> String {
    let rows = findings
        .iter()
        .map(|of| vec![of.check.to_owned(), of.place.clone(), of.outcome.word().to_owned(), of.text.clone()]);
    let mut out = table(&["CHECK", "WHERE", "OUTCOME", "FOUND"], rows.collect());
    for of in findings.iter().filter(|of| of.outcome != Outcome::Ok) {
        if let Some(advice) = &of.advice {
            out.push_str(&format!("{} {}: {}: {}\n  {advice}\n", of.outcome.word(), of.place, of.check, of.text));
        }
    }
    let count = |outcome: Outcome| findings.iter().filter(|of| of.outcome == outcome).count();
    let (failed, warned, unknown) = (count(Outcome::Failure), count(Outcome::Warning), count(Outcome::Unknown));
    out.push_str(&format!(
        "{} checks: {} ok, {warned} warnings, {failed} failures, {unknown} unknown\n",
        findings.len(),
        count(Outcome::Ok)
    ));
    out
}

/// Formats the findings as a line for each, with advice for those that did not pass.
pub(super) fn lines(findings: &[Finding]) -> String {
    let line = |of: &Finding| {
        let advice = of.advice.iter().filter(|_| of.outcome != Outcome::Ok).map(|advice| format!("\n  {advice}"));
        format!("{} {}: {}: {}{}", of.outcome.word(), of.place, of.check, of.text, advice.collect::<String>())
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the document of `-o json|yaml`.
pub(super) fn document(findings: &[Finding]) -> Value {
    let checks = findings.iter().map(|of| {
        json!({"check": of.check, "where": of.place, "outcome": of.outcome.word(), "found": of.text, "advice": of.advice})
    });
    let failed = findings.iter().any(|of| of.outcome == Outcome::Failure);
    json!({"checks": checks.collect::<Vec<_>>(), "failed": failed})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pass_has_advice() {
        let findings = [
            Finding::ok("clocks", "east", "0.1s behind west"),
            Finding::failure("clocks", "north", "10m ahead of west").advise("set its clock"),
            Finding::unknown("data path", "west -> east", "west has no sidecar"),
        ];
        let text = text(&findings);
        assert!(text.contains("failure north: clocks: 10m ahead of west\n  set its clock\n"), "{text}");
        assert!(text.ends_with("3 checks: 1 ok, 0 warnings, 1 failures, 1 unknown\n"), "{text}");
        assert_eq!(
            lines(&findings[..2]),
            "ok east: clocks: 0.1s behind west\nfailure north: clocks: 10m ahead of west\n  set its clock"
        );
        let document = document(&findings);
        assert_eq!((&document["failed"], &document["checks"][1]["outcome"]), (&json!(true), &json!("failure")));
        assert_eq!(document["checks"][0]["advice"], Value::Null);
    }
}
