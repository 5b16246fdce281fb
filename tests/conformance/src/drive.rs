//! The two things that the program does: record, and compare.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::bed::{Bed, Mesh};
use crate::case::{Case, Kind, TestBed};
use crate::cells::bed::CellBed;
use crate::compare::differences;
use crate::istio::Programs;
use crate::outcome::{Outcome, RecordedCase, Recording};
use crate::policies::bed::PolicyBed;
use crate::policies::run::Results;
use crate::report::{Report, Verdict};
use crate::{cells, policies, run};

/// How often a case that differs is run again: something else may keep the machine busy.
const AGAIN: usize = 2;

/// A bed of any kind.
enum AnyBed {
    Routing(Bed),
    Policies(PolicyBed),
    Cells(CellBed),
}

impl AnyBed {
    async fn up(of: TestBed, isthmus: &Path, mesh: &Mesh) -> Result<Self> {
        Ok(match of {
            TestBed::Routing => Self::Routing(Bed::up(isthmus, mesh).await?),
            TestBed::Policies => Self::Policies(PolicyBed::up(isthmus, mesh).await?),
            TestBed::Sidecars | TestBed::Gateways => Self::Cells(CellBed::up(of, isthmus, mesh).await?),
        })
    }

    async fn down(self) {
        match self {
            Self::Routing(bed) => bed.down().await,
            Self::Policies(bed) => bed.down().await,
            Self::Cells(bed) => bed.down().await,
        }
    }

    /// Applies what is applied once, and returns the cases of which an object is refused.
    async fn prepare(&self, cases: &[&Case]) -> Result<BTreeMap<String, String>> {
        match self {
            Self::Routing(bed) => run::apply(bed, cases).await,
            Self::Policies(_) | Self::Cells(_) => Ok(BTreeMap::new()),
        }
    }

    async fn run(&mut self, cases: &[&Case], round: usize) -> Result<Results> {
        match self {
            Self::Routing(bed) => {
                let outcomes = run::run(bed, cases, round).await?;
                Ok(Results { outcomes, ..Results::default() })
            }
            Self::Policies(bed) => policies::run::run(bed, cases, round).await,
            Self::Cells(bed) => cells::run::run(bed, cases, round).await,
        }
    }
}

/// Runs cases under Istio and writes their outcomes. Each case is run twice: one whose outcomes differ says nothing.
///
/// # Errors
/// Returns an error if a case cannot be run, or its outcomes differ from one time to the next.
pub async fn record(isthmus: &Path, programs: &Programs, kinds: &[Kind], directory: &Path, keep: bool) -> Result<()> {
    for bed in TestBed::ALL {
        let kinds = of_bed(kinds, bed);
        if !kinds.is_empty() {
            record_in(bed, isthmus, programs, &kinds, directory, keep).await?;
        }
    }
    Ok(())
}

async fn record_in(
    of: TestBed,
    isthmus: &Path,
    programs: &Programs,
    kinds: &[Kind],
    directory: &Path,
    keep: bool,
) -> Result<()> {
    let (istiod, envoy) = programs.versions()?;
    let mut bed = AnyBed::up(of, isthmus, &Mesh::Istio(programs.clone())).await?;
    let done = async {
        let cases = all(kinds);
        let refused = bed.prepare(&cases).await?;
        ensure!(refused.is_empty(), "refused: {refused:#?}");
        let mut outcomes = bed.run(&cases, 0).await?.outcomes;
        let mut unstable = unstable_cases(&cases, &outcomes, &bed.run(&cases, 1).await?.outcomes);
        for round in 2..2 + AGAIN {
            let again: Vec<&Case> = cases.iter().copied().filter(|case| unstable.contains_key(&case.name)).collect();
            if again.is_empty() {
                break;
            }
            let first = bed.run(&again, 2 * round).await?.outcomes;
            unstable = unstable_cases(&again, &first, &bed.run(&again, 2 * round + 1).await?.outcomes);
            outcomes.extend(first);
        }
        anyhow::Ok((outcomes, unstable))
    };
    let done = done.await;
    wait(keep);
    bed.down().await;
    let (mut outcomes, unstable) = done?;
    for kind in kinds {
        let mut recording = Recording::read(directory, &kind.name)?;
        (recording.istiod, recording.envoy) = (istiod.clone(), envoy.clone());
        for case in &kind.cases {
            let outcomes = outcomes.remove(&case.name).unwrap_or_default();
            recording.cases.insert(case.name.clone(), RecordedCase { case: case.fingerprint(), outcomes });
        }
        let names = Kind::read_all(&directory.with_file_name("cases"))?;
        let known =
            |name: &str| names.iter().any(|of| of.name == kind.name && of.cases.iter().any(|case| case.name == name));
        recording.cases.retain(|name, _| known(name));
        recording.write(directory, &kind.name)?;
    }
    for (name, differences) in &unstable {
        eprintln!("{name} is not the same each time:\n  {}", differences.join("\n  "));
    }
    ensure!(unstable.is_empty(), "{} cases are not the same each time", unstable.len());
    Ok(())
}

fn unstable_cases(
    cases: &[&Case],
    first: &BTreeMap<String, Vec<Outcome>>,
    second: &BTreeMap<String, Vec<Outcome>>,
) -> BTreeMap<String, Vec<String>> {
    let differing = |case: &&Case| {
        let found = differences(case, first.get(&case.name)?, second.get(&case.name)?);
        (!found.is_empty()).then(|| (case.name.clone(), found))
    };
    cases.iter().filter_map(differing).collect()
}

/// Runs cases under Isthmus, and compares them with what is recorded. Returns the versions of the recordings too.
///
/// # Errors
/// Returns an error if the cases cannot be run.
pub async fn compare(isthmus: &Path, kinds: &[Kind], directory: &Path, keep: bool) -> Result<(Report, String)> {
    let mut report = Report::default();
    let mut versions = String::new();
    for bed in TestBed::ALL {
        let kinds = of_bed(kinds, bed);
        if !kinds.is_empty() {
            versions = compare_in(bed, isthmus, &kinds, directory, keep, &mut report).await?;
        }
    }
    Ok((report, versions))
}

async fn compare_in(
    of: TestBed,
    isthmus: &Path,
    kinds: &[Kind],
    directory: &Path,
    keep: bool,
    report: &mut Report,
) -> Result<String> {
    let mut recorded = BTreeMap::new();
    let mut versions = String::new();
    for kind in kinds {
        let recording = Recording::read(directory, &kind.name)?;
        versions = format!("istiod {} and Envoy {}", recording.istiod, recording.envoy);
        recorded.extend(recording.cases);
    }
    let (cases, missing): (Vec<&Case>, Vec<&Case>) = all(kinds)
        .into_iter()
        .partition(|case| recorded.get(&case.name).is_some_and(|recorded| recorded.case == case.fingerprint()));
    report.verdicts.extend(missing.iter().map(|case| (case.name.clone(), Verdict::NotRecorded)));
    let mut bed = AnyBed::up(of, isthmus, &Mesh::Isthmus).await?;
    let done = async {
        let refused = bed.prepare(&cases).await?;
        let mut left = cases.clone();
        left.retain(|case| !refused.contains_key(&case.name));
        for case in cases.iter().filter(|case| refused.contains_key(&case.name)) {
            let why = refused[&case.name].clone();
            report.verdicts.insert(case.name.clone(), Verdict::of(case, vec![why]));
        }
        for round in 0..=AGAIN {
            let mut results = bed.run(&left, round).await?;
            report.asked = report.asked.max(results.asked);
            left.retain(|case| {
                let got = results.outcomes.get(&case.name).map(Vec::as_slice).unwrap_or_default();
                let found = differences(case, &recorded[&case.name].outcomes, got);
                let differs = !found.is_empty() && case.differs.is_none();
                report.verdicts.insert(case.name.clone(), Verdict::of(case, found));
                let disagrees = results.disagreements.remove(&case.name);
                let again = differs || disagrees.is_some();
                report.disagreements.remove(&case.name);
                report.disagreements.extend(disagrees.map(|lines| (case.name.clone(), lines)));
                again
            });
            if left.is_empty() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let done = done.await;
    wait(keep);
    bed.down().await;
    done.map(|()| versions)
}

fn of_bed(kinds: &[Kind], bed: TestBed) -> Vec<Kind> {
    kinds.iter().filter(|kind| kind.bed == bed).cloned().collect()
}

fn all(kinds: &[Kind]) -> Vec<&Case> {
    kinds.iter().flat_map(|kind| &kind.cases).collect()
}

fn wait(keep: bool) {
    if keep {
        eprintln!("the lab runs until Enter");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}
