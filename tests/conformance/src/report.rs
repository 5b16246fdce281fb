//! Results of a comparison: a table by kind, and every difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::case::{Case, Kind};

const BEGIN: &str = "<!-- generated: conformance -->";
const END: &str = "<!-- end -->";

/// The share of cases that must agree, of those that do not differ on purpose.
pub const AGREEMENT: f64 = 0.97;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As recorded.
    Agrees,
    /// Not as recorded, on purpose.
    OnPurpose(Vec<String>),
    /// Not as recorded.
    Differs(Vec<String>),
    /// There is no recording of the case as it is now.
    NotRecorded,
}

impl Verdict {
    /// Judges the differences of a case.
    pub fn of(case: &Case, differences: Vec<String>) -> Self {
        match (differences.is_empty(), case.differs.is_some()) {
            (true, _) => Self::Agrees,
            (false, true) => Self::OnPurpose(differences),
            (false, false) => Self::Differs(differences),
        }
    }
}

/// The verdicts of all cases that were run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By the name of the case.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Requests about which `isthmus authz test` does not answer what the data path does, by the name of the case.
    pub disagreements: BTreeMap<String, Vec<String>>,
    /// How many requests it was asked about.
    pub asked: usize,
}

impl Report {
    /// The number of cases with a verdict that satisfies a condition.
    pub fn count(&self, is: impl Fn(&Verdict) -> bool) -> usize {
        self.verdicts.values().filter(|verdict| is(verdict)).count()
    }

    /// The share of cases that agree, of those that do not differ on purpose.
    pub fn agreement(&self) -> f64 {
        let on_purpose = self.count(|verdict| matches!(verdict, Verdict::OnPurpose(_)));
        let agree = self.count(|verdict| *verdict == Verdict::Agrees);
        agree as f64 / (self.verdicts.len() - on_purpose).max(1) as f64
    }

    /// The table by kind.
    pub fn table(&self, kinds: &[Kind]) -> String {
        let mut table =
            String::from("| kind | cases | agree | differ on purpose | differ |\n| --- | --- | --- | --- | --- |\n");
        let mut row = |name: &str, verdicts: Vec<&Verdict>| {
            let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count();
            let agree = count(|verdict| *verdict == Verdict::Agrees);
            let on_purpose = count(|verdict| matches!(verdict, Verdict::OnPurpose(_)));
            let all = verdicts.len();
            let _ = writeln!(table, "| {name} | {all} | {agree} | {on_purpose} | {} |", all - agree - on_purpose);
        };
        for kind in kinds {
            let verdicts: Vec<_> = kind.cases.iter().filter_map(|case| self.verdicts.get(&case.name)).collect();
            if !verdicts.is_empty() {
                row(&format!("`{}`", kind.name), verdicts);
            }
        }
        row("all", self.verdicts.values().collect());
        table
    }

    /// Every difference.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for (name, verdict) in &self.verdicts {
            let (what, lines) = match verdict {
                Verdict::Agrees => continue,
                Verdict::OnPurpose(lines) => ("differs on purpose", lines.as_slice()),
                Verdict::Differs(lines) => ("differs", lines.as_slice()),
                Verdict::NotRecorded => {
                    ("is not recorded as it is now; run `isthmus-conformance record`", [].as_slice())
                }
            };
            let _ = writeln!(text, "{name} {what}");
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        for (name, lines) in &self.disagreements {
            let _ = writeln!(
                text,
                "{name}: `isthmus authz test` does not agree with the data path\n  {}",
                lines.join("\n  ")
            );
        }
        text
    }

    /// Writes the table into a page, between its markers, with the cases that differ.
    ///
    /// # Errors
    /// Returns an error if the page cannot be read or has no markers.
    pub fn write(&self, page: &Path, kinds: &[Kind], versions: &str) -> Result<()> {
        let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let (head, rest) = text.split_once(BEGIN).with_context(|| format!("{}: no {BEGIN}", page.display()))?;
        let (_, tail) = rest.split_once(END).with_context(|| format!("{}: no {END}", page.display()))?;
        let mut body = format!("Recorded with {versions}.\n\n{}", self.table(kinds));
        let differing = |case: &&Case| self.verdicts.get(&case.name).is_some_and(|verdict| *verdict != Verdict::Agrees);
        let cases: Vec<&Case> = kinds.iter().flat_map(|kind| &kind.cases).filter(differing).collect();
        if !cases.is_empty() {
            body.push_str("\n| case that differs | behaviour of Istio | why Isthmus differs |\n| --- | --- | --- |\n");
        }
        for case in cases {
            let why = case.differs.as_deref().unwrap_or("not on purpose");
            let _ = writeln!(body, "| `{}` | {} | {why} |", case.name, case.about.trim());
        }
        std::fs::write(page, format!("{head}{BEGIN}\n\n{body}\n{END}{tail}"))?;
        Ok(())
    }
}
