//! Tables, charts, budgets and files of fixed findings.

use super::*;
use crate::finding::{Metric, Spread};

fn finding(scenario: &str, load: &str, system: &str, metric: Metric, values: &[f64]) -> Finding {
    let spread = Spread::of(values).expect("a finite value");
    Finding { scenario: scenario.into(), load: load.into(), system: system.into(), metric, spread }
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
        finding("sidecar", many, "none", latency("p50"), &[17.0]),
        finding("sidecar", many, "none", latency("p99"), &[60.0]),
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

fn block(quantity: &str) -> table::MetricTable {
    let found = table::blocks(&findings()).into_iter().find(|block| block.quantity == quantity);
    found.expect("a table of that")
}

#[test]
fn rows_are_loads_and_columns_are_systems() {
    let expected = "\
sidecar: CPU per request, µs (lower is better)
  load                                            isthmus  floor         envoy  isthmus ÷ floor  isthmus ÷ envoy
  HTTP/1.1 keep-alive, 1 KiB, 32 connections   32 (30–34)     29  100 (98–102)         1.10 × ✓         0.32 × ✗
  HTTP/1.1 keep-alive, 64 KiB, 32 connections          60      –           120                –           0.50 ×
";
    assert_eq!(block("CPU per request").terminal(), expected);
}

#[test]
fn percentiles_are_rows_and_better_ratios_are_bold() {
    let expected = "\
**Latency, µs**

| load | isthmus | envoy | none | isthmus ÷ envoy |
| --- | ---: | ---: | ---: | ---: |
| HTTP/1.1 keep-alive, 1 KiB, 32 connections: p50 | 65 | 175 | 17 | **0.37 ×** |
| HTTP/1.1 keep-alive, 1 KiB, 32 connections: p99 | 200 | – | 60 | – |
";
    assert_eq!(block("latency").markdown(), expected);
}

#[test]
fn findings_of_our_system_alone_are_listed() {
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
    let value = |words: &str| about(words).measured.as_ref().map(|measured| (measured.value.as_str(), measured.met));
    assert_eq!(value("authorization and metrics"), Some(("0.32 ×", false)));
    let features = about("the price of features").measured.as_ref().expect("a measurement");
    assert_eq!((features.value.as_str(), features.met), ("1.10 ×", true));
    // (65 - 17) / (175 - 17)
    assert_eq!(value("add at a fixed rate, p50"), Some(("0.30 ×", true)));
    assert_eq!(value("add at a fixed rate, p99"), None);
    let memory = about("10 services used of 10,000");
    assert_eq!((memory.bound.as_str(), value("10 services used of 10,000")), ("≤ 12 MiB", Some(("12.5 MiB", false))));
    assert_eq!(value("failed requests with retries on"), Some(("0", true)));
    assert_eq!(value("memory per idle connection"), Some(("3.5 KiB", true)));
    let gateway = about("CPU per GiB");
    assert_eq!(
        (gateway.bound.as_str(), gateway.reference.as_str()),
        ("≤ 0.70 ×", "the best of haproxy, haproxy (splice), nginx, envoy")
    );
    let markdown = budgets::markdown(&rows);
    assert!(markdown.contains("| ≤ 12 MiB | 12.5 MiB | – | 10 services used of 10000 | ✗ missed |"), "{markdown}");
}

#[test]
fn several_loads_of_a_budget_are_counted_and_the_worst_one_is_shown() {
    let gib = |load: &str, system: &str, seconds| {
        finding("gateway", load, system, Metric::cost("CPU per GiB", "s"), &[seconds])
    };
    let of = [
        ("few", "isthmus", 0.5),
        ("few", "nginx", 1.0),
        ("few", "haproxy", 2.0),
        ("many", "isthmus", 0.9),
        ("many", "nginx", 1.0),
    ];
    let rows = budgets::assess(&of.map(|(load, system, seconds)| gib(load, system, seconds)));
    assert!(budgets::markdown(&rows).contains("| 0.90 × | – | many; 1 of 2 loads meet it | ✗ missed |"));
    let row = "| gateway, CPU per GiB | ≤ 0.70 × the best peer | 0.90 × (0.9 s); 1 of 2 loads meet it | nginx 1 s | ✗ missed |";
    assert!(budgets::page(&rows).contains(row), "{}", budgets::page(&rows));
}

#[test]
fn the_page_has_thirteen_rows() {
    let page = budgets::page(&budgets::assess(&findings()));
    assert_eq!(page.lines().count(), 2 + 13, "{page}");
    assert!(page.contains("| ≤ 1000 ms / ≤ 0 | – / 0 | – | not measured |"), "{page}");
    assert!(page.contains("| ≤ 0.30 × envoy | 0.32 × (32 µs) | envoy 100 µs | ✗ missed |"), "{page}");
}

#[test]
fn charts_describe_their_values_as_text() {
    let charts = chart::charts(&findings());
    let names: Vec<&str> = charts.iter().map(|chart| chart.file).collect();
    assert_eq!(names, ["cpu-per-request.svg", "added-latency.svg", "memory.svg"]);
    let svg = &charts[0].svg;
    assert!(svg.contains("<title id=\"title\">CPU per request of two sidecars</title>"), "{svg}");
    assert!(svg.contains("1 KiB, 32 connections: isthmus 32 µs, floor 29 µs, envoy 100 µs."), "{svg}");
    assert!(svg.contains(">100 µs · isthmus 0.32 ×</text>"), "{svg}");
    let svg = &charts[1].svg;
    assert!(svg.contains("median, HTTP/1.1 keep-alive, 1 KiB, 32 connections: isthmus 48 µs, envoy 158 µs."), "{svg}");
}

#[test]
fn charts_of_all_findings_fit_a_screen() {
    let latest = Run::load(&setup::repository().join(DIRECTORY).join("latest.json")).unwrap();
    let charts = chart::charts(&latest.findings);
    assert_eq!(charts.len(), 4);
    for chart in charts {
        let size = |name: &str| -> f64 {
            let (_, rest) = chart.svg.split_once(&format!(" {name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let (width, height) = (size("width"), size("height"));
        assert!(width <= 1000.0 && height <= 900.0, "{}: {width} by {height}", chart.file);
    }
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
    let directory = repository.path().join(DIRECTORY);
    fs::create_dir_all(&directory).unwrap();
    let stale = directory.join("old.svg");
    fs::write(&stale, "").unwrap();
    let frame = fs::read_to_string(setup::repository().join(PAGE)).unwrap();
    fs::write(&page, frame.replacen("<!-- generated: budgets -->", "", 1)).unwrap();
    let run = run_of(findings());
    let error = write(&run, repository.path()).unwrap_err();
    assert!(format!("{error:#}").ends_with("there is no `<!-- generated: budgets -->`"), "{error:#}");

    fs::write(&page, &frame).unwrap();
    write(&run, repository.path()).unwrap();
    let text = fs::read_to_string(&page).unwrap();
    let measured =
        "Measured 2023-11-14 22:13 UTC on 2 cores of A &lt;B>, 23 GiB of memory, Linux 6.1: envoy 1.2 \\| x.";
    assert!(text.contains(measured), "{text}");
    assert!(text.contains("![CPU per request of two sidecars](performance/cpu-per-request.svg)"));
    let tables = fs::read_to_string(directory.join("tables.md")).unwrap();
    assert!(tables.contains("Measured 2023-11-14 22:13 UTC in 2 min on 2 cores of A &lt;B>"), "{tables}");
    assert!(tables.contains("| envoy | 1.2 \\| x |"));
    assert!(tables.contains("## Soak\n\nNot measured.\n"));
    assert!(!stale.exists());
    assert!(directory.join("cpu-per-request.svg").exists());
    let latest = directory.join("latest.json");
    // Findings of one load and metric are written next to each other.
    let read = Run::load(&latest).unwrap();
    assert_eq!(read.findings.len(), run.findings.len());
    assert!(run.findings.iter().all(|finding| read.findings.contains(finding)));
    assert_eq!(Run { findings: Vec::new(), ..read }, Run { findings: Vec::new(), ..run.clone() });
    let json = fs::read_to_string(&latest).unwrap();
    assert!(
        json.contains(r#""systems":{"envoy":[100.0,98.0,102.0,4],"floor":[29.0],"isthmus":[32.0,30.0,34.0,4]}"#),
        "{json}"
    );
    write(&run, repository.path()).unwrap();
    assert_eq!(fs::read_to_string(&page).unwrap(), text, "writing twice changes nothing");
}

#[test]
fn the_page_is_short_and_its_data_small() {
    let repository = setup::repository();
    let page = fs::read_to_string(repository.join(PAGE)).unwrap();
    assert!(page.lines().count() <= 150, "{PAGE} has {} lines", page.lines().count());
    let data = fs::read(repository.join(DIRECTORY).join("latest.json")).unwrap();
    assert!(data.len() < 300_000, "latest.json has {} bytes", data.len());
}

#[test]
fn versions_are_shown_without_what_stands_around_them() {
    for (line, shown) in [
        (
            "/somewhere/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL",
            "1.40.0",
        ),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("unknown", "unknown"),
    ] {
        assert_eq!(bare(line), shown);
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
fn commands_are_listed_once_and_quoted() {
    let of = |command: &str| Run { command: command.into(), ..run_of(Vec::new()) };
    let all = [of("all"), of("soak"), of("gateway"), of("soak")].into_iter().reduce(Run::followed_by).unwrap();
    assert_eq!(all.command, "all\ngateway\nsoak");
    assert_eq!(quoted("--isthmus=target/dist/isthmus".into()), "--isthmus=target/dist/isthmus");
    assert_eq!(quoted("HTTP/1.1, 1 KiB".into()), "'HTTP/1.1, 1 KiB'");
    assert_eq!(quoted("it's".into()), r"'it'\''s'");
    assert_eq!(quoted(String::new()), "''");
}
