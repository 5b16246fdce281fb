//! Fixed findings, and what is made of them.

use super::*;
use crate::finding::Metric;

fn finding(scenario: &str, load: &str, system: &str, metric: Metric, values: &[f64]) -> Finding {
    Finding { scenario: scenario.into(), load: load.into(), system: system.into(), metric, values: values.to_vec() }
}

fn findings() -> Vec<Finding> {
    let many = "HTTP/1.1 keep-alive, 1 KiB, 32 connections";
    let cpu = || Metric::cost("CPU per request", "µs");
    let latency = |percentile: &str| Metric::cost(&format!("latency {percentile}"), "µs");
    vec![
        finding("sidecar", many, "envoy", cpu(), &[98.0, 100.0, 102.0, 100.0]),
        finding("sidecar", many, "isthmus", cpu(), &[30.0, 31.0, 33.0, 34.0]),
        finding("sidecar", many, "floor", cpu(), &[29.0]),
        finding("sidecar", "HTTP/1.1 keep-alive, 64 KiB, 32 connections", "isthmus", cpu(), &[60.0]),
        finding("sidecar", "HTTP/1.1 keep-alive, 64 KiB, 32 connections", "envoy", cpu(), &[120.0]),
        finding("sidecar", many, "isthmus", latency("p50"), &[65.0]),
        finding("sidecar", many, "isthmus", latency("p99"), &[200.0]),
        finding("sidecar", many, "envoy", latency("p50"), &[175.0]),
        finding("sidecar", many, "envoy", latency("p99"), &[f64::NAN]),
        finding("sidecar", many, "none", latency("p50"), &[17.0]),
        finding(
            "memory",
            "10 services used of 10000",
            "isthmus",
            Metric::cost("resident memory of the sidecar", "MiB"),
            &[12.5],
        ),
        finding(
            "gateway",
            "9800 idle connections",
            "isthmus",
            Metric::cost("resident memory per connection", "KiB"),
            &[3.5],
        ),
        finding("failover", "pods killed", "isthmus", Metric::cost("failed requests", ""), &[0.0, 0.0, 0.0]),
    ]
}

fn block(quantity: &str) -> table::Block {
    let found = table::blocks(&findings()).into_iter().find(|block| block.quantity == quantity);
    found.expect("a table of that")
}

#[test]
fn rows_are_loads_and_columns_are_systems() {
    let expected = "\
sidecar: CPU per request, µs (lower is better)
  load                                            isthmus  floor         envoy  isthmus ÷ floor  isthmus ÷ envoy
  HTTP/1.1 keep-alive, 1 KiB, 32 connections   32 (30–34)     29  100 (98–102)         1.10 × ✓         0.32 × ✓
  HTTP/1.1 keep-alive, 64 KiB, 32 connections          60      –           120                –         0.50 × ✗
";
    assert_eq!(block("CPU per request").terminal(), expected);
}

#[test]
fn percentiles_are_rows_and_what_is_better_is_bold() {
    let expected = "\
**Latency, µs**

| load | isthmus | envoy | none | isthmus ÷ envoy |
| --- | ---: | ---: | ---: | ---: |
| HTTP/1.1 keep-alive, 1 KiB, 32 connections: p50 | 65 | 175 | 17 | **0.37 ×** |
| HTTP/1.1 keep-alive, 1 KiB, 32 connections: p99 | 200 | – | – | – |
";
    assert_eq!(block("latency").markdown(), expected);
}

#[test]
fn what_was_measured_of_ours_alone_is_listed() {
    let change = |load: &str, percentile: &str, value| {
        finding(
            "control-plane",
            load,
            "isthmus",
            Metric::cost(&format!("arrival, {percentile}"), "ms"),
            &[value, value],
        )
    };
    let made = [change("few", "p50", 1.0), change("few", "p99", 2000.0), change("many", "p99", 3.0)];
    assert!(table::blocks(&made).is_empty());
    let expected = "\
| isthmus | few | many |
| --- | ---: | ---: |
| arrival, p50 | 1 ms | – |
| arrival, p99 | 2 s | 3 ms |
";
    assert_eq!(listing::listings(&made)[0].markdown(), expected);
    let expected = "\
control-plane
  load  arrival, p99
  few            2 s
  many          3 ms
";
    assert_eq!(listing::listings(&made[1..])[0].terminal(), expected);
}

#[test]
fn budgets_take_the_worst_load_and_the_best_peer() {
    let rows = budgets::assess(&findings());
    let about = |words: &str| rows.iter().find(|row| row.what.contains(words)).expect("a budget");
    let cpu = about("authorization and metrics");
    assert_eq!((cpu.measured.as_deref(), cpu.met), (Some("0.50 ×"), Some(false)));
    assert_eq!(cpu.load.as_deref(), Some("HTTP/1.1 keep-alive, 64 KiB, 32 connections; 1 of 2 keep to it"));
    let features = about("the price of features");
    assert_eq!((features.measured.as_deref(), features.met), (Some("1.10 ×"), Some(true)));
    // (65 - 17) / (175 - 17)
    assert_eq!(about("add at a fixed rate, p50").measured.as_deref(), Some("0.30 ×"));
    assert_eq!(about("the same, p99").met, None);
    let memory = about("10 services used of 10,000");
    assert_eq!((memory.bound.as_str(), memory.measured.as_deref()), ("≤ 12 MiB", Some("12.5 MiB")));
    assert_eq!(about("requests that fail meanwhile").met, Some(true));
    assert_eq!(about("memory per idle connection").measured.as_deref(), Some("3.5 KiB"));
    assert_eq!(about("CPU per GiB").bound, "≤ 0.70 × the best of haproxy, haproxy (splice), nginx, envoy");
    let load = memory.load.as_deref().expect("a load");
    assert!(budgets::markdown(&rows).contains(&format!("| ≤ 12 MiB | 12.5 MiB | – | {load} | ✗ missed |")));
}

#[test]
fn charts_say_in_words_what_they_show() {
    let charts = chart::charts(&table::blocks(&findings()));
    let names: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
    assert_eq!(names, ["sidecar-cpu-per-request.svg"]);
    let svg = &charts[0].svg;
    assert!(svg.contains("<title id=\"title\">sidecar: CPU per request, µs</title>"), "{svg}");
    assert!(svg.contains("1 KiB, 32 connections: isthmus 32, floor 29, envoy 100."), "{svg}");
    assert!(svg.contains(">100 · isthmus 0.32 ×</text>"), "{svg}");
}

fn run_of(findings: Vec<Finding>) -> Run {
    Run {
        machine: Machine { cores: 2, model: "A <B>".into(), kernel: "6.1".into(), memory_mib: 24_000 },
        versions: BTreeMap::from([("envoy".into(), "1.2 | x".into())]),
        command: "isthmus-bench all".into(),
        started: utc(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        elapsed_seconds: 61.0,
        findings,
    }
}

#[test]
fn a_run_is_written_into_the_repository_and_read_again() {
    let repository = tempfile::tempdir().unwrap();
    let page = repository.path().join(PAGE);
    fs::create_dir_all(repository.path().join(DIRECTORY)).unwrap();
    let stale = repository.path().join(DIRECTORY).join("old.svg");
    fs::write(&stale, "").unwrap();
    let frame = fs::read_to_string(setup::repository().join(PAGE)).unwrap();
    fs::write(&page, frame.replacen("<!-- generated: soak -->", "", 1)).unwrap();
    let mut run = run_of(findings());
    run.findings.retain(|finding| finding.median().is_finite());
    let error = write(&run, repository.path()).unwrap_err();
    assert!(format!("{error:#}").ends_with("there is no `<!-- generated: soak -->`"), "{error:#}");

    fs::write(&page, &frame).unwrap();
    write(&run, repository.path()).unwrap();
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("Measured 2023-11-14 22:13 UTC in 2 min on 2 cores of A &lt;B>, 23 GiB of memory"), "{text}");
    assert!(text.contains("| envoy | 1.2 \\| x |"));
    assert!(text.contains("![sidecar: CPU per request, µs](performance/sidecar-cpu-per-request.svg)"));
    assert!(text.contains("This run did not measure it."));
    assert!(!stale.exists());
    let directory = repository.path().join(DIRECTORY);
    assert!(directory.join("sidecar-cpu-per-request.svg").exists());
    assert_eq!(Run::load(&directory.join("latest.json")).unwrap(), run);
    write(&run, repository.path()).unwrap();
    assert_eq!(fs::read_to_string(&page).unwrap(), text, "writing twice changes nothing");
}

#[test]
fn versions_are_shown_without_what_stands_around_them() {
    for (said, shown) in [
        (
            "/somewhere/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL",
            "1.40.0",
        ),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("unknown", "unknown"),
    ] {
        assert_eq!(bare(said), shown);
    }
}

#[test]
fn later_runs_replace_the_loads_that_they_measured() {
    let cpu = |load: &str, value| finding("gateway", load, "isthmus", Metric::cost("CPU", "µs"), &[value]);
    let first = run_of(vec![cpu("few", 1.0), cpu("many", 1.0)]);
    let both = first.followed_by(run_of(vec![cpu("most", 3.0), cpu("few", 2.0)]));
    assert_eq!(both.findings, [cpu("few", 2.0), cpu("many", 1.0), cpu("most", 3.0)]);
    assert_eq!(both.elapsed_seconds, 122.0);
}

#[test]
fn commands_are_told_as_they_are_typed_and_those_typed_again_once() {
    let of = |command: &str| Run { command: command.into(), ..run_of(Vec::new()) };
    let all = [of("all"), of("soak"), of("gateway"), of("soak")].into_iter().reduce(Run::followed_by).unwrap();
    assert_eq!(all.command, "all\ngateway\nsoak");
    assert_eq!(quoted("--isthmus=target/dist/isthmus".into()), "--isthmus=target/dist/isthmus");
    assert_eq!(quoted("HTTP/1.1, 1 KiB".into()), "'HTTP/1.1, 1 KiB'");
    assert_eq!(quoted("it's".into()), r"'it'\''s'");
    assert_eq!(quoted(String::new()), "''");
}
