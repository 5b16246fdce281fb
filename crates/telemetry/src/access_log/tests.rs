use super::*;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use super::date::StartTimes;
use crate::ResponseFlags;
use crate::metrics::Registry;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn line(format: &Format, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    format.write(record, &mut StartTimes::default(), &mut out);
    String::from_utf8(out).unwrap()
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_170_675_042)
}

#[test]
fn the_default_format_is_istios() {
    let request = headers(&[("user-agent", "curl/8.5"), ("x-request-id", "4f2c"), ("x-envoy-original-path", "/old")]);
    let response = headers(&[("x-envoy-upstream-service-time", "3")]);
    let record = Record {
        duration: Duration::from_millis(5),
        method: Some("GET"),
        path: Some("/new"),
        authority: Some("ratings:9080"),
        protocol: Some("HTTP/1.1"),
        request_headers: Some(&request),
        response_headers: Some(&response),
        response_code: 200,
        response_code_details: Some("via_upstream"),
        bytes_sent: 48,
        upstream_host: Some("10.244.0.9:9080".parse().unwrap()),
        upstream_cluster: Some("outbound|9080||ratings.default.svc.cluster.local"),
        upstream_local_address: Some("10.244.0.5:41234".parse().unwrap()),
        downstream_local_address: Some("10.96.3.3:9080".parse().unwrap()),
        downstream_remote_address: Some("[2001:db8::5]:51000".parse().unwrap()),
        route_name: Some("default"),
        ..Record::new(at())
    };
    assert_eq!(
        line(&Format::default(), &record),
        concat!(
            r#"[2026-11-20T10:31:15.042Z] "GET /old HTTP/1.1" 200 - via_upstream - "-" 0 48 5 3 "-" "curl/8.5" "4f2c" "#,
            r#""ratings:9080" "10.244.0.9:9080" outbound|9080||ratings.default.svc.cluster.local 10.244.0.5:41234 "#,
            "10.96.3.3:9080 [2001:db8::5]:51000 - default\n"
        )
    );
}

#[test]
fn a_connection_has_no_request() {
    let record = Record {
        response_flags: ResponseFlags::NO_ROUTE_FOUND,
        requested_server_name: Some("outbound_.9080_._.ratings.default.svc.cluster.local"),
        ..Record::new(at())
    };
    let text = line(&Format::default(), &record);
    assert!(
        text.starts_with(r#"[2026-11-20T10:31:15.042Z] "- - -" 0 NR - - "-" 0 0 0 - "-" "-" "-" "-" "-" - - - - "#)
    );
    assert!(text.ends_with("outbound_.9080_._.ratings.default.svc.cluster.local -\n"), "{text}");
}

#[test]
fn the_default_json_has_numbers_and_nulls() {
    let record = Record { response_code: 503, method: Some("GET"), ..Record::new(at()) };
    let format = Format::json("").unwrap();
    let json: serde_json::Value = serde_json::from_str(&line(&format, &record)).unwrap();
    assert_eq!(json["response_code"], 503);
    assert_eq!(json["start_time"], "2026-11-20T10:31:15.042Z");
    assert_eq!(json["method"], "GET");
    assert!(json["upstream_host"].is_null() && json.get("user_agent").is_some());
    assert_eq!(json.as_object().unwrap().len(), 24);
}

#[test]
fn operators_render_their_values() {
    let request = headers(&[("x-user", "a user with a long name")]);
    let trailers = headers(&[("grpc-message", "no")]);
    let record = Record {
        path: Some("/a?secret=1"),
        request_headers: Some(&request),
        response_trailers: Some(&trailers),
        duration: Duration::from_millis(9),
        response_duration: Some(Duration::from_millis(4)),
        downstream_remote_address: Some("10.0.0.1:5".parse().unwrap()),
        downstream_peer_uri_san: Some("spiffe://cluster.local/ns/default/sa/a"),
        upstream_request_attempt_count: 2,
        grpc_status: Some(14),
        connection_id: Some(7),
        ..Record::new(at())
    };
    for (format, expected) in [
        ("%REQ(X-USER):8% %REQ(X-NONE?X-USER):3%", "a user w a u\n"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/a\n"),
        ("%TRAILER(GRPC-MESSAGE)% %GRPC_STATUS%", "no 14\n"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%", "4 5 -\n"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1\n"),
        ("%DOWNSTREAM_PEER_URI_SAN%|%CONNECTION_ID%", "spiffe://cluster.local/ns/default/sa/a|7\n"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %DYNAMIC_METADATA(a:b)%", "2 -\n"),
        ("%START_TIME(%s.%3f)% 100%%\n", "1795170675.042 100%\n"),
    ] {
        assert_eq!(line(&Format::text(format).unwrap(), &record), expected, "{format}");
    }
    let json = Format::json(r#"{"a":{"b":["%DURATION%","took %DURATION% ms",true]},"c":"%REQ(X-NONE)%"}"#).unwrap();
    assert_eq!(line(&json, &record), "{\"a\":{\"b\":[9,\"took 9 ms\",true]},\"c\":null}\n");
}

#[test]
fn formats_return_the_headers_that_they_use() {
    let format = Format::text("%REQ(X-B)% %REQ(x-a?X-B)% %RESP(Server)% %REQ(:PATH)%").unwrap();
    assert_eq!(format.request_headers(), ["x-a", "x-b"]);
    assert_eq!(format.response_headers(), ["server"]);
    assert!(Format::json("").unwrap().request_headers().contains(&http::header::USER_AGENT));
}

#[test]
fn format_errors_have_a_position() {
    for (format, at, what) in [
        ("abc %NOPE%", 4, "unknown operator %NOPE%"),
        ("%REQ%", 0, "requires an argument"),
        ("%REQ(a b)%", 0, "not a header name"),
        ("%REQ(X", 0, "closing parenthesis"),
        ("x %DURATION", 2, "not followed by a percent sign"),
        ("100% sure", 3, "does not start an operator"),
        ("%REQ(X):n%", 0, "not a number"),
        ("%START_TIME(%Q)%", 0, "%Q"),
    ] {
        let error = Format::text(format).unwrap_err();
        assert_eq!(error.at, at, "{format}");
        assert!(error.what.contains(what), "{format}: {error}");
    }
    assert!(Format::json("[]").unwrap_err().what.contains("object"));
    assert!(Format::json("{\n \"a\": }").unwrap_err().what.contains("not valid JSON"));
    assert!(Format::json(r#"{"a":"%NOPE%"}"#).is_err());
}

#[test]
fn a_client_cannot_forge_lines() {
    let request = headers(&[("user-agent", "a\" \"b")]);
    let record = Record { request_headers: Some(&request), path: Some("/x\n[fake]"), ..Record::new(at()) };
    assert_eq!(
        line(&Format::text("\"%REQ(USER-AGENT)%\" %REQ(:PATH)%").unwrap(), &record),
        "\"a\\\" \\\"b\" /x\\x0a[fake]\n"
    );
    let json = Format::json(r#"{"a":"%REQ(USER-AGENT)% %REQ(:PATH)%"}"#).unwrap();
    let value: serde_json::Value = serde_json::from_str(&line(&json, &record)).unwrap();
    assert_eq!(value["a"], "a\" \"b /x\n[fake]");
}

/// Collects the bytes of each write.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Accepts a few bytes at a time, to test partial writes.
        let taken = bytes.len().min(10);
        self.0.lock().unwrap().push(bytes[..taken].to_vec());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_are_written_whole_and_in_order() {
    let sink = Sink::default();
    let writer = Writer::to(sink.clone(), &Registry::new()).unwrap();
    let log = writer.log(Arc::new(Format::text("%BYTES_SENT% and some more text").unwrap()));
    let expected: String = (0..500).map(|number| format!("{number} and some more text\n")).collect();
    for number in 0..500 {
        log.write(&Record { bytes_sent: number, ..Record::new(at()) });
    }
    assert!(writer.flush(Duration::from_secs(5)));
    assert_eq!(String::from_utf8(sink.0.lock().unwrap().concat()).unwrap(), expected);
    assert_eq!(writer.dropped(), 0);
}

/// Blocks in each write until the sender is dropped.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_output_drops_lines_and_counts_them() {
    let (release, stuck) = std::sync::mpsc::channel();
    let writer = Writer::to(Stuck(stuck), &Registry::new()).unwrap();
    let log = writer.log(Arc::new(Format::text("x").unwrap()));
    for _ in 0..10_000 {
        log.write(&Record::new(at()));
    }
    assert!(writer.dropped() >= 1000, "{}", writer.dropped());
    drop(release);
}

#[test]
fn appends_to_a_file() {
    let path = std::env::temp_dir().join(format!("isthmus-access-log-{}", std::process::id()));
    let registry = Registry::new();
    for _ in 0..2 {
        let writer = Writer::open(path.to_str().unwrap(), &registry).unwrap();
        writer.log(Arc::new(Format::text("line").unwrap())).write(&Record::new(at()));
        assert!(writer.flush(Duration::from_secs(5)));
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, "line\nline\n");
    let error = Writer::open("/nonexistent/log", &registry).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/log"));
}
