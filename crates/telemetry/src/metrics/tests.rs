use super::*;

const REQUESTS: Family = Family { name: "requests_total", help: "Requests.", labels: &["service", "code"] };
const OPEN: Family = Family { name: "open", help: "Open connections.", labels: &[] };
const SIZE: Family = Family { name: "size_bytes", help: "Sizes.", labels: &["service"] };

#[test]
fn values_of_workers_are_added() {
    let registry = Registry::new();
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                let scope = registry.worker();
                let requests = scope.counter(&REQUESTS, &["ratings", "200"]);
                let again = scope.counter(&REQUESTS, &["ratings", "200"]);
                for _ in 0..1000 {
                    requests.increment();
                    again.add(2);
                }
            });
        }
    });
    assert!(registry.render().contains("requests_total{service=\"ratings\",code=\"200\"} 9000\n"));
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("code", "200"))), 9000);
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("code", "503"))), 0);
}

#[test]
fn shared_handles_count_every_update() {
    let registry = Registry::new();
    let counter = registry.shared().counter(&REQUESTS, &["a", "200"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| counter.increment()));
        }
    });
    assert_eq!(counter.get(), 40_000);
}

#[test]
fn a_gauge_follows_the_guards_of_all_workers() {
    let registry = Registry::new();
    let (one, two) = (registry.worker().gauge(&OPEN, &[]), registry.worker().gauge(&OPEN, &[]));
    let held = one.hold();
    let _more = two.hold();
    two.add(-3);
    assert!(registry.render().contains("\nopen -1\n"));
    drop(held);
    assert_eq!(one.get(), 0);
}

#[test]
fn renders_the_prometheus_text_format() {
    let registry = Registry::new();
    let scope = registry.worker();
    let sizes = scope.histogram(&SIZE, &[1.0, 10.0, 0.5 + 99.5], &["a\"b\\c\nd"]);
    for value in [1.0, 1.5, 11.0, 1e9] {
        sizes.record(value);
    }
    scope.counter(&REQUESTS, &["b", "200"]).increment();
    scope.counter(&REQUESTS, &["a", "200"]);
    registry.observe_gauge(OPEN, |put| put(&[], 2.5));
    let expected = r#"# HELP open Open connections.
# TYPE open gauge
open 2.5
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{service="a",code="200"} 0
requests_total{service="b",code="200"} 1
# HELP size_bytes Sizes.
# TYPE size_bytes histogram
size_bytes_bucket{service="a\"b\\c\nd",le="1"} 1
size_bytes_bucket{service="a\"b\\c\nd",le="10"} 2
size_bytes_bucket{service="a\"b\\c\nd",le="100"} 3
size_bytes_bucket{service="a\"b\\c\nd",le="+Inf"} 4
size_bytes_sum{service="a\"b\\c\nd"} 1000000013.5
size_bytes_count{service="a\"b\\c\nd"} 4
"#;
    assert_eq!(registry.render(), expected);
}

#[test]
fn label_sets_beyond_the_limit_share_one_series_and_are_counted() {
    let registry = Registry::new();
    let scope = registry.worker();
    for number in 0..MAX_SERIES + 50 {
        scope.counter(&SIZE, &[&number.to_string()]).increment();
    }
    assert_eq!(lock(&registry.inner.families)["size_bytes"].series.len(), MAX_SERIES + 1);
    let text = registry.render();
    assert!(text.contains("size_bytes{service=\"overflow\"} 50\n"));
    assert!(text.contains("isthmus_metrics_overflow_total{family=\"size_bytes\"} 50\n"), "{text}");
    let histograms = Registry::new();
    for number in 0..MAX_HISTOGRAM_SERIES + 7 {
        histograms.worker().histogram(&SIZE, &ENVOY_BUCKETS, &[&number.to_string()]).record(1.0);
    }
    assert!(histograms.render().contains("size_bytes_count{service=\"overflow\"} 7\n"));
}

#[test]
fn a_scrape_is_in_pieces_that_do_not_grow_with_the_number_of_series() {
    let registry = Registry::new();
    let scope = registry.worker();
    for number in 0..MAX_HISTOGRAM_SERIES {
        scope.histogram(&SIZE, &ENVOY_BUCKETS, &[&"x".repeat(100 + number % 7)]).record(1.0);
        scope.histogram(&SIZE, &ENVOY_BUCKETS, &[&format!("{}{number}", "y".repeat(100))]).record(1.0);
    }
    registry.observe_gauge(OPEN, |put| put(&[], 1.0));
    let mut whole = String::new();
    let mut pieces = 0;
    for piece in registry.scrape() {
        assert!(piece.len() < 128 * 1024, "{} bytes", piece.len());
        whole.push_str(&piece);
        pieces += 1;
    }
    assert!(pieces > 20, "{pieces} pieces");
    let lines: Vec<&str> = whole.lines().collect();
    let mut distinct = lines.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), lines.len(), "no line is repeated");
    assert_eq!(whole.matches("size_bytes_count").count(), lock(&registry.inner.families)["size_bytes"].series.len());
    assert_eq!(whole.matches("# TYPE").count(), 3);
}
