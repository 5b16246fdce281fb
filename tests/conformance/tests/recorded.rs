//! All cases, compared with what is recorded of Istio.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use isthmus_conformance::case::{Kind, TestBed};
use isthmus_conformance::outcome::Recording;
use isthmus_conformance::report::AGREEMENT;
use isthmus_conformance::{block_on, drive};

/// The time that a comparison may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Requests about which `isthmus authz test` is asked at least.
const QUESTIONS: usize = 500;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kinds() -> Vec<Kind> {
    Kind::read_all(&here().join("cases")).unwrap()
}

#[test]
fn every_case_is_recorded_as_it_is() {
    let mut missing = Vec::new();
    for kind in kinds() {
        let recording = Recording::read(&here().join("recorded"), &kind.name).unwrap();
        for case in &kind.cases {
            if recording.cases.get(&case.name).is_none_or(|recorded| recorded.case != case.fingerprint()) {
                missing.push(case.name.clone());
            }
        }
        for name in recording.cases.keys().filter(|name| kind.cases.iter().all(|case| case.name != **name)) {
            missing.push(format!("{name}, which is no case"));
        }
    }
    assert!(missing.is_empty(), "run `isthmus-conformance record`: {missing:?}");
}

#[test]
fn differences_on_purpose_are_listed() {
    let page = std::fs::read_to_string(here().join("../../docs/differences.md")).unwrap();
    let cases = kinds().into_iter().flat_map(|kind| kind.cases);
    let missing: Vec<_> = cases
        .filter(|case| case.differs.is_some() && !page.contains(&format!("`{}`", case.name)))
        .map(|case| case.name)
        .collect();
    assert!(missing.is_empty(), "docs/differences.md does not name {missing:?}");
}

/// Labs take turns: beside each other, their times would not be those of one.
static LAB: Mutex<()> = Mutex::new(());

/// Compares the cases of a bed, and fails if too few agree.
fn compare(bed: TestBed) {
    let _turn = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    // Of the same build: tests of a workspace run after all of its programs are built.
    let program = Path::new(env!("CARGO_BIN_EXE_isthmus-conformance")).with_file_name("isthmus");
    assert!(program.exists(), "{} is not built: `cargo build --workspace`", program.display());
    let mut kinds = kinds();
    kinds.retain(|kind| kind.bed == bed);
    let (report, _) = block_on(drive::compare(&program, &kinds, &here().join("recorded"), false)).unwrap();
    println!("{}\n{}", report.details(), report.table(&kinds));
    let agreement = report.agreement();
    assert!(agreement >= AGREEMENT, "{:.1} % of cases agree\n{}", agreement * 100.0, report.details());
    assert!(report.disagreements.is_empty(), "{}", report.details());
    if bed == TestBed::Policies {
        assert!(report.asked > QUESTIONS, "`isthmus authz test` was asked about {} requests", report.asked);
    }
    assert!(begun.elapsed() < LIMIT, "the comparison took {:?}", begun.elapsed());
}

#[test]
fn routing_does_what_istio_does() {
    compare(TestBed::Routing);
}

#[test]
fn sidecars_and_service_entries_do_what_istio_does() {
    compare(TestBed::Sidecars);
}

#[test]
fn gateways_do_what_istio_does() {
    compare(TestBed::Gateways);
}

#[test]
fn policies_do_what_istio_does_and_authz_test_agrees() {
    compare(TestBed::Policies);
}
