//! Every protocol, from `frontend` in west to `ratings` in east, with metrics and access logs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const RATINGS: &str = "east/default/ratings";
const FRONTEND_ID: &str = "spiffe://cluster.local/ns/default/sa/frontend";
const RATINGS_ID: &str = "spiffe://cluster.local/ns/default/sa/ratings";
const RATINGS_HOST: &str = "ratings.default.svc.cluster.local";

/// Runs a shell command in `frontend`.
#[track_caller]
fn shell(lab: &Lab, line: &str) -> String {
    println!("frontend $ {line}");
    lab.exec(FRONTEND, &["sh", "-c", line]).ok()
}

/// Asserts that east's application answered and saw the caller's identity, and returns the response.
#[track_caller]
fn from_east(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(answer["cluster"], "east", "{answer}");
    assert_eq!(answer["identity"], FRONTEND_ID, "{answer}");
    answer
}

/// Makes one call with the test application's client in `frontend`.
#[track_caller]
fn call(lab: &Lab, url: &str, protocol: &str) -> Value {
    let encoded = url.replace(':', "%3A").replace('/', "%2F");
    // Within the pod, so that the application is the client.
    let line = format!("curl -sS --fail --max-time 10 'http://127.0.0.1:9080/fetch?url={encoded}&protocol={protocol}'");
    let timeline: Value = serde_json::from_str(&shell(lab, &line)).expect("a timeline");
    assert_eq!((&timeline["ok"], &timeline["failed"]), (&1.into(), &0.into()), "{timeline}");
    timeline
}

/// Checks that every protocol crosses from west to east.
pub(crate) fn check_protocols(lab: &Lab) {
    http(lab);
    grpc(lab);
    upgrade(lab);
    tcp(lab);
}

fn http(lab: &Lab) {
    let one = from_east(&shell(lab, "curl -sS --fail http://ratings:9080/one"));
    assert_eq!((&one["protocol"], &one["path"]), (&"HTTP/1.1".into(), &"/one".into()));
    let two = from_east(&shell(lab, "curl -sS --fail --http2-prior-knowledge http://ratings:9080/two"));
    assert_eq!(two["protocol"], "HTTP/2");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for size in [0, 1024, 1 << 20] {
            let up =
                format!("head -c {size} /dev/zero | curl -sS --fail {version} --data-binary @- http://ratings:9080/up");
            assert_eq!(from_east(&shell(lab, &up))["body_bytes"], size, "{version}");
            let down = format!("curl -sS --fail {version} 'http://ratings:9080/down?size={size}' | wc -c");
            let got: usize = shell(lab, &down).trim().parse().expect("a number");
            assert!(got > size && got < size + 4096, "{got} bytes instead of {size} and the answer");
        }
    }
    let chunked = shell(lab, "head -c 300000 /dev/zero | curl -sS --fail --http1.1 -T - http://ratings:9080/chunked");
    let chunked = from_east(&chunked);
    assert_eq!((&chunked["body_bytes"], &chunked["method"]), (&300_000.into(), &"PUT".into()));
    assert_eq!(chunked["headers"]["transfer-encoding"], "chunked");
    assert_eq!(shell(lab, "curl -sS -o /dev/null -w '%{http_code}' http://ratings:9080/status/418"), "418");
}

fn grpc(lab: &Lab) {
    call(lab, "http://ratings:9080/", "grpc");
    // A length-prefixed message, and three replies; the status is a trailer.
    let stream = "printf '\\000\\000\\000\\000\\005hello' | curl -sS --fail -i --http2-prior-knowledge --data-binary @- \
                  -H 'content-type: application/grpc' -H 'te: trailers' -H 'x-count: 3' \
                  http://ratings:9080/isthmus.testapp.Echo/Stream | tr -d '\\000'";
    let streamed = shell(lab, stream);
    assert_eq!(streamed.matches(&format!("\"identity\":\"{FRONTEND_ID}\"")).count(), 3, "{streamed:?}");
    assert!(streamed.contains("grpc-status: 0"), "the trailer passed: {streamed:?}");
    let unknown = shell(lab, &stream.replace("Echo/Stream", "Echo/Nothing"));
    assert!(unknown.contains("grpc-status: 12"), "{unknown:?}");
}

fn upgrade(lab: &Lab) {
    let timeline = call(lab, "ws://ratings:9080/socket", "http1");
    assert_eq!(
        (&timeline["requests"][0]["status"], &timeline["clusters"]["east"]),
        (&101.into(), &1.into()),
        "{timeline}"
    );
}

fn tcp(lab: &Lab) {
    // An echo with half-close; an echo larger than any buffer on the path; a server that speaks first.
    call(lab, "tcp://ratings:9090", "http1");
    call(lab, "tcp://ratings:9090/4194304", "http1");
    let banner = call(lab, "banner://ratings:9091", "http1");
    assert_eq!(banner["clusters"]["east"], 1, "{banner}");
}

/// Returns the series of a metric of a pod's proxy: labels and value.
fn series(lab: &Lab, pod: &str, metric: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let page = lab.exec(pod, &["curl", "-sS", "--fail", "http://127.0.0.1:15090/stats/prometheus"]).ok();
    let of = page.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.rsplit_once("} "));
    of.map(|(labels, value)| {
        let labels = labels.split("\",").filter_map(|label| label.split_once("=\""));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        (labels.collect(), value.trim().parse().expect("a number"))
    })
    .collect()
}

/// The labels of Istio's standard metrics, in its order, with the values of a call from frontend to ratings.
fn expected(reporter: &str, protocol: &str) -> Vec<(&'static str, String)> {
    let source = reporter == "source";
    let mut labels = vec![
        ("reporter", reporter),
        ("source_workload", "frontend"),
        ("source_canonical_service", "frontend"),
        ("source_canonical_revision", "latest"),
        ("source_workload_namespace", "default"),
        ("source_principal", FRONTEND_ID),
        ("source_app", "frontend"),
        ("source_version", "unknown"),
        ("source_cluster", "west"),
        ("destination_workload", "ratings"),
        ("destination_workload_namespace", "default"),
        ("destination_principal", RATINGS_ID),
        ("destination_app", "ratings"),
        ("destination_version", "unknown"),
        ("destination_service", RATINGS_HOST),
        ("destination_canonical_service", "ratings"),
        ("destination_canonical_revision", "latest"),
        ("destination_service_name", "ratings"),
        ("destination_service_namespace", "default"),
        ("destination_cluster", "east"),
        ("request_protocol", protocol),
        ("response_flags", "-"),
        ("connection_security_policy", if source { "unknown" } else { "mutual_tls" }),
    ];
    match protocol {
        "http" => labels.extend([("response_code", "200"), ("grpc_response_status", "")]),
        "grpc" => labels.extend([("response_code", "200"), ("grpc_response_status", "0")]),
        _ => {
            // An opaque connection has no headers in which proxies could describe themselves. A proxy knows about its peer
            // what the certificate and discovery contain: for a client less, if the server is behind a gateway.
            let other = if source { "destination_" } else { "source_" };
            for (name, value) in &mut labels {
                if name.starts_with(other) && !KNOWN_WITHOUT_HEADERS.contains(name) {
                    *value = "unknown";
                }
            }
        }
    }
    labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Labels that one side of an opaque connection knows about the other.
const KNOWN_WITHOUT_HEADERS: [&str; 8] = [
    "source_principal",
    "source_cluster",
    "source_workload_namespace",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
];

/// Returns the value of the series, or how the nearest series differs.
fn counted(lab: &Lab, pod: &str, metric: &str, expected: &[(&'static str, String)]) -> Result<f64, String> {
    let all = series(lab, pod, metric);
    let differences = |labels: &BTreeMap<String, String>| -> Vec<String> {
        let differs = |(name, value): &&(&str, String)| labels.get(*name).is_none_or(|had| had != value);
        let wrong = expected.iter().filter(differs);
        wrong.map(|(name, value)| format!("{name}: {value:?}, not {:?}", labels.get(*name))).collect()
    };
    let nearest = all.iter().min_by_key(|(labels, _)| differences(labels).len());
    let (labels, value) = nearest.ok_or_else(|| format!("{pod} has no {metric}"))?;
    let wrong = differences(labels);
    if wrong.is_empty() { Ok(*value) } else { Err(format!("{pod} {metric}: expected {wrong:#?} in {labels:?}")) }
}

fn metrics(lab: &Lab) {
    let mut missing = Vec::new();
    for (pod, reporter) in [(FRONTEND, "source"), (RATINGS, "destination")] {
        let families = [
            ("http", &["istio_requests_total", "istio_request_duration_milliseconds_count"][..]),
            ("http", &["istio_request_bytes_sum", "istio_response_bytes_sum"]),
            ("grpc", &["istio_requests_total", "istio_request_duration_milliseconds_count"]),
            ("tcp", &["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"]),
            ("tcp", &["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"]),
        ];
        for (protocol, metric) in families.iter().flat_map(|(of, names)| names.iter().map(move |name| (*of, *name))) {
            let labels = expected(reporter, protocol);
            match eventually(Duration::from_secs(3), || counted(lab, pod, metric, &labels)) {
                Ok(value) => {
                    println!("{reporter} {protocol} {metric} {value}");
                    assert!(value > 0.0, "{metric}");
                }
                Err(error) => missing.push(error),
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Checks the proxies' access logs: Istio's default format, one line per request. `upstream` is the address that west's
/// proxies reach `ratings` at.
pub(crate) fn check_logs(lab: &Lab, upstream: &str) {
    for (pod, cluster) in [(FRONTEND, "outbound|9080||"), (RATINGS, "inbound|9080||")] {
        let line = eventually(Duration::from_secs(5), || {
            let log = lab.isthmus(&["lab", "logs", &format!("{pod}/isthmus-proxy")]).ok();
            let found = log.lines().rev().find(|line| line.contains("\"GET /one HTTP/1.1\"")).map(str::to_owned);
            found.ok_or(log)
        });
        let line = line.unwrap_or_else(|log| panic!("{pod} logged no such request:\n{log}"));
        println!("{pod}: {line}");
        let rest = line.split_once("] \"GET /one HTTP/1.1\" 200 - via_upstream - \"-\" 0 ");
        let (start, rest) = rest.unwrap_or_else(|| panic!("not the default format: {line}"));
        assert!(start.starts_with("[20") && start.ends_with('Z'), "{start}");
        let quoted: Vec<&str> = rest.split('"').collect();
        // bytes, duration, upstream time; "forwarded" "agent" "request id" "authority" "upstream host" and the rest.
        assert_eq!(quoted[0].split_whitespace().count(), 3, "{line}");
        assert!(quoted[3].starts_with("curl/"), "{line}");
        assert_eq!((quoted[5].len(), quoted[7]), (36, "ratings:9080"), "{line}");
        let tail: Vec<&str> = quoted[10].split_whitespace().collect();
        assert_eq!(tail.len(), 6, "cluster, upstream local, downstream local, downstream remote, SNI, route: {line}");
        assert!(tail[0].starts_with(cluster), "{line}");
        if pod == RATINGS {
            assert_eq!(tail[4], format!("outbound_.9080_._.{RATINGS_HOST}"), "{line}");
        } else {
            assert_eq!(quoted[9], upstream, "{line}");
        }
    }
}

#[test]
fn every_protocol_crosses_clusters_and_is_counted() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    check_protocols(&lab);
    metrics(&lab);
    check_logs(&lab, "203.0.113.20:15443");
    lab.down();
}
