use super::{fields, service};
use crate::networking::Severity;

/// A route to somewhere, for what is wrong elsewhere.
const TO: &str = "route: [{destination: {host: a}}]";

fn http(route: &str) -> String {
    format!("{{hosts: [a], http: [{{{route}}}]}}")
}

fn matched(matched: &str) -> String {
    http(&format!("match: [{{{matched}}}], {TO}"))
}

#[track_caller]
fn refuses(spec: &str, field: &str) {
    let problems = service(spec);
    let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error()).collect();
    assert_eq!(errors.iter().map(|error| &*error.field).collect::<Vec<_>>(), [field], "{spec}: {problems:#?}");
}

#[test]
fn hosts_and_gateways_are_checked() {
    let ok = format!("http: [{{{TO}}}]");
    for (spec, field) in [
        (format!("{{hosts: [\"\"], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [a, \"b c\"], {ok}}}"), "spec.hosts[1]"),
        (format!("{{hosts: [\"a.*.com\"], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [a.123], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [-a.com], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [\"*\"], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [\"*\"], gateways: [mesh, ns/gw], {ok}}}"), "spec.hosts[0]"),
        (format!("{{hosts: [{}.com], {ok}}}", "a".repeat(64)), "spec.hosts[0]"),
        (format!("{{hosts: [{}com], {ok}}}", "a.".repeat(127)), "spec.hosts[0]"),
        (format!("{{hosts: [a, b, a], {ok}}}"), "spec.hosts[2]"),
        (format!("{{hosts: [\"*.com\", a.com], {ok}}}"), "spec.hosts[1]"),
        (format!("{{hosts: [\"*.foo.com\", \"*.com\"], {ok}}}"), "spec.hosts[1]"),
        (format!("{{hosts: [a], gateways: [ns/], {ok}}}"), "spec.gateways[0]"),
        (format!("{{hosts: [a], gateways: [ns/a/b], {ok}}}"), "spec.gateways[0]"),
        (format!("{{hosts: [a], gateways: [\"*\"], {ok}}}"), "spec.gateways[0]"),
        (format!("{{gateways: [gw], {ok}}}"), "spec.gateways"),
        (format!("{{hosts: [a], exportTo: [., shop], {ok}}}"), "spec.exportTo[1]"),
        (format!("{{hosts: [a], exportTo: [\"*\", b], {ok}}}"), "spec.exportTo"),
        (format!("{{hosts: [a], exportTo: [\"~\"], {ok}}}"), "spec.exportTo[0]"),
        ("{hosts: [a]}".to_owned(), "spec"),
        ("{hosts: [a], http: null, tcp: []}".to_owned(), "spec"),
        (format!("{{hosts: [a], htttp: [], {ok}, tcp: {{}}}}"), "spec.tcp"),
    ] {
        refuses(&spec, field);
    }
    for spec in [
        format!(
            "{{hosts: [a, a.shop.svc.cluster.local, \"*.b.com\", b.com, 10.0.0.1, \"2001:db8::1\", c.com.], {ok}}}"
        ),
        format!("{{hosts: [\"*\"], gateways: [ns/gw, gw], {ok}}}"),
        format!("{{hosts: [\"*-a.com\", \"*b.com\"], {ok}}}"),
        format!("{{hosts: [a], exportTo: [., b], {ok}}}"),
        format!("{{{ok}}}"),
    ] {
        assert_eq!(fields(&service(&spec)), [""; 0], "{spec}");
    }
}

#[test]
fn a_route_does_one_thing() {
    for (route, field) in [
        ("name: nothing", "spec.http[0]"),
        ("route: []", "spec.http[0]"),
        ("redirect: {uri: /b}, route: [{destination: {host: a}}]", "spec.http[0].redirect"),
        ("directResponse: {status: 200}, route: [{destination: {host: a}}]", "spec.http[0].directResponse"),
        ("directResponse: {status: 200}, redirect: {uri: /b}", "spec.http[0].directResponse"),
        ("delegate: {name: b}, route: [{destination: {host: a}}]", "spec.http[0].route"),
        ("delegate: {name: b}, redirect: {uri: /b}", "spec.http[0].redirect"),
        ("delegate: {name: b}, directResponse: {status: 200}", "spec.http[0].directResponse"),
        ("redirect: {uri: /b}, rewrite: {uri: /c}", "spec.http[0].rewrite"),
        (
            "directResponse: {status: 200}, fault: {abort: {httpStatus: 500, percentage: {value: 1}}}",
            "spec.http[0].fault",
        ),
        ("directResponse: {status: 99}", "spec.http[0].directResponse.status"),
        ("directResponse: {status: 600}", "spec.http[0].directResponse.status"),
        ("directResponse: {status: 200, body: {string: a, bytes: YQ==}}", "spec.http[0].directResponse.body.bytes"),
        ("directResponse: {status: 200, body: {bytes: \"%\"}}", "spec.http[0].directResponse.body.bytes"),
        ("redirect: {}", "spec.http[0].redirect"),
        ("redirect: {uri: /b, redirectCode: 200}", "spec.http[0].redirect.redirectCode"),
        ("redirect: {uri: /b, scheme: ftp}", "spec.http[0].redirect.scheme"),
        ("redirect: {port: 0}", "spec.http[0].redirect.port"),
        ("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}", "spec.http[0].redirect.derivePort"),
        ("redirect: {derivePort: GUESS}", "spec.http[0].redirect.derivePort"),
        ("redirect: {uri: /b, prefixRewrite: /c}", "spec.http[0].redirect.prefixRewrite"),
    ] {
        refuses(&http(route), field);
    }
    refuses("{http: [{delegate: {name: b}}]}", "spec.http[0].delegate");
    let large = |size| http(&format!("directResponse: {{status: 200, body: {{string: {}}}}}", "a".repeat(size)));
    refuses(&large((1 << 20) + 1), "spec.http[0].directResponse.body");
    assert_eq!(fields(&service(&large(200 << 10))), ["Warning spec.http[0].directResponse.body"]);
    for route in [
        "redirect: {port: 8443, redirectCode: 308}",
        "redirect: {derivePort: FROM_REQUEST_PORT}",
        "delegate: {name: b}",
    ] {
        assert_eq!(fields(&service(&http(route))), [""; 0], "{route}");
    }
}

#[test]
fn matches_are_checked() {
    for (of, field) in [
        ("uri: {regex: \"(\"}", "uri.regex"),
        ("uri: {regex: \"\"}", "uri.regex"),
        ("uri: {exact: a, prefix: b}", "uri.prefix"),
        ("method: {prefix: \"\"}", "method.prefix"),
        ("scheme: {regex: \"[\"}", "scheme.regex"),
        ("authority: {regex: \"a(?=b)\"}", "authority.regex"),
        ("headers: {\"a b\": {exact: c}}", "headers[a b]"),
        ("headers: {\"\": {exact: c}}", "headers[]"),
        ("headers: {\":path\": {exact: c}}", "headers[:path]"),
        ("withoutHeaders: {\":method\": {exact: c}}", "withoutHeaders[:method]"),
        ("headers: {a: null}", "headers[a]"),
        ("headers: {a: {regex: \"*\"}}", "headers[a].regex"),
        ("headers: {a: {prefix: \"\"}}", "headers[a].prefix"),
        ("headers: {\"@request.auth.claims.sub\": {exact: a}}", "headers[@request.auth.claims.sub]"),
        ("withoutHeaders: {\"@request.auth.claims[sub]\": {exact: a}}", "withoutHeaders[@request.auth.claims[sub]]"),
        ("withoutHeaders: {a: {regex: \"(\"}}", "withoutHeaders[a].regex"),
        ("queryParams: {a: {regex: \"(\"}}", "queryParams[a].regex"),
        ("port: 65536", "port"),
        ("port: -1", "port"),
        ("sourceLabels: {\"a b\": c}", "sourceLabels[a b]"),
        ("sourceLabels: {a: \"b c\"}", "sourceLabels[a]"),
        ("gateways: [a/b/c]", "gateways[0]"),
        ("sourceNamespace: a.b", "sourceNamespace"),
    ] {
        refuses(&matched(of), &format!("spec.http[0].match[0].{field}"));
    }
    let long = format!("uri: {{regex: {}}}", "a".repeat(1025));
    refuses(&matched(&long), "spec.http[0].match[0].uri.regex");
    for of in [
        "uri: {prefix: \"\"}",
        "headers: {a: {}}",
        "withoutHeaders: {a: {}, b: {regex: \"*\"}}",
        "uri: {regex: \"/[a-z]+/\\\\d+\"}, port: 80, sourceLabels: {example.com/a: b, c: \"\"}, sourceNamespace: x, gateways: [mesh]",
        "queryParams: {a: {exact: \"\"}}",
    ] {
        assert_eq!(fields(&service(&matched(of))), [""; 0], "{of}");
    }
    let claim = format!(
        "{{hosts: [a.b], gateways: [gw], http: [{{match: [{{headers: {{\"@request.auth.claims.a\": {{exact: b}}}}}}], {TO}}}]}}"
    );
    assert_eq!(fields(&service(&claim)), [""; 0]);
}

#[test]
fn destinations_are_checked() {
    let to = |to: &str| http(&format!("route: [{to}]"));
    for (route, field) in [
        ("{weight: 1}", "spec.http[0].route[0].destination"),
        ("{destination: {}}", "spec.http[0].route[0].destination.host"),
        ("{destination: {host: \"*\"}}", "spec.http[0].route[0].destination.host"),
        ("{destination: {host: a, subset: v_1}}", "spec.http[0].route[0].destination.subset"),
        ("{destination: {host: a, port: {}}}", "spec.http[0].route[0].destination.port.number"),
        ("{destination: {host: a, port: {number: 70000}}}", "spec.http[0].route[0].destination.port.number"),
        ("{destination: {host: a}, weight: -1}", "spec.http[0].route[0].weight"),
        ("{destination: {host: a}}, {destination: {host: b}}", "spec.http[0].route"),
        ("{destination: {host: a}, weight: 1}, null", "spec.http[0].route[1]"),
    ] {
        refuses(&to(route), field);
    }
    // Weights are relative, and a single one has no effect.
    for route in [
        "{destination: {host: a}, weight: 0}",
        "{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}",
        "{destination: {host: a}, weight: 2147483647}, {destination: {host: b}, weight: 2147483647}",
    ] {
        assert_eq!(fields(&service(&to(route))), [""; 0], "{route}");
    }
}

#[test]
fn changes_of_requests_are_checked() {
    for (of, field) in [
        ("headers: {request: {set: {\"\": a}}}", "headers.request.set[]"),
        ("headers: {request: {add: {\":path\": a}}}", "headers.request.add[:path]"),
        ("headers: {request: {remove: [Host]}}", "headers.request.remove[0]"),
        ("headers: {response: {set: {host: a}}}", "headers.response.set[host]"),
        ("headers: {request: {set: {a: \"%\"}}}", "headers.request.set[a]"),
        ("headers: {response: {add: {a: \"b\\nc\"}}}", "headers.response.add[a]"),
        ("headers: {request: {set: {host: a, \":authority\": b}}}", "headers.request.set[host]"),
        ("headers: {request: {set: {host: a}}}, rewrite: {authority: b}", "headers.request.set[host]"),
        ("rewrite: {}", "rewrite"),
        ("rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}", "rewrite.uriRegexRewrite"),
        ("rewrite: {uriRegexRewrite: {match: a}}", "rewrite.uriRegexRewrite"),
        ("rewrite: {uriRegexRewrite: {match: \"(\", rewrite: b}}", "rewrite.uriRegexRewrite.match"),
        ("timeout: 0s", "timeout"),
        ("timeout: 1us", "timeout"),
        ("timeout: 1.5ms", "timeout"),
        ("timeout: 5", "timeout"),
        ("timeout: -5s", "timeout"),
        ("retries: {attempts: -1}", "retries.attempts"),
        ("retries: {attempts: 0, retryOn: 5xx}", "retries.attempts"),
        ("retries: {perTryTimeout: 2s}", "retries.attempts"),
        ("retries: {attempts: 1, perTryTimeout: 0s}", "retries.perTryTimeout"),
        ("retries: {attempts: 1, backoff: 0s}", "retries.backoff"),
        ("retries: {attempts: 1, retryOn: \"5xx,oops\"}", "retries.retryOn"),
        ("retries: {attempts: 1, retryOn: \"5xx, reset\"}", "retries.retryOn"),
        ("fault: {}", "fault"),
        ("fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}", "fault.delay.percentage.value"),
        ("fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}", "fault.delay.percentage.value"),
        ("fault: {delay: {exponentialDelay: 1s, percentage: {value: 1}}}", "fault.delay.exponentialDelay"),
        ("fault: {abort: {httpStatus: 1000, percentage: {value: 1}}}", "fault.abort.httpStatus"),
        ("fault: {abort: {grpcStatus: OOPS, percentage: {value: 1}}}", "fault.abort.grpcStatus"),
        ("fault: {abort: {http2Error: X, percentage: {value: 1}}}", "fault.abort.http2Error"),
        ("fault: {abort: {httpStatus: 500, grpcStatus: OK, percentage: {value: 1}}}", "fault.abort.grpcStatus"),
        ("mirror: {host: \"*\"}", "mirror.host"),
        ("mirror: {host: b}, mirrors: [{destination: {host: c}}]", "mirrors"),
        ("mirrors: [{}]", "mirrors[0].destination"),
        ("mirrors: [{destination: {host: b}, percentage: {value: -1}}]", "mirrors[0].percentage.value"),
        ("mirror: {host: b}, mirrorPercentage: {value: 101}", "mirrorPercentage.value"),
        ("mirror: {host: b}, mirrorPercent: 101", "mirrorPercent"),
        ("corsPolicy: {allowOrigins: [{}]}", "corsPolicy.allowOrigins[0]"),
        ("corsPolicy: {allowOrigins: [{regex: \"(\"}]}", "corsPolicy.allowOrigins[0].regex"),
        ("corsPolicy: {allowMethods: [FETCH]}", "corsPolicy.allowMethods[0]"),
        ("corsPolicy: {allowHeaders: [\"a b\"]}", "corsPolicy.allowHeaders[0]"),
        ("corsPolicy: {exposeHeaders: [\"\"]}", "corsPolicy.exposeHeaders[0]"),
        ("corsPolicy: {maxAge: 1500ms}", "corsPolicy.maxAge"),
        ("corsPolicy: {unmatchedPreflights: MAYBE}", "corsPolicy.unmatchedPreflights"),
    ] {
        refuses(&http(&format!("{of}, {TO}")), &format!("spec.http[0].{field}"));
    }
    for of in [
        "headers: {request: {set: {host: a.example, x: \"%DOWNSTREAM_REMOTE_ADDRESS%\"}, remove: [b]}}",
        "retries: {attempts: 0}",
        "retries: {attempts: 3, perTryTimeout: 2s, retryOn: \"5xx,503,connect-failure\", backoff: 25ms}",
        "fault: {delay: {fixedDelay: 1ms, percentage: {value: 0.0001}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}",
        "mirror: {host: b}, mirrorPercentage: {value: 0}",
        "corsPolicy: {allowOrigins: [{exact: \"https://a\"}], allowMethods: [GET], allowHeaders: [\"*\"], maxAge: 24h}",
        "rewrite: {uriRegexRewrite: {match: \"^/a/(.*)$\", rewrite: \"/\\\\1\"}}",
    ] {
        assert_eq!(fields(&service(&http(&format!("{of}, {TO}")))), [""; 0], "{of}");
    }
}

#[test]
fn routes_of_connections_are_checked() {
    let tls = |matched: &str| format!("{{hosts: [a.com, \"*.b.com\"], tls: [{{match: [{{{matched}}}], {TO}}}]}}");
    for (of, field) in [
        ("port: 443", "sniHosts"),
        ("sniHosts: [c.com]", "sniHosts[0]"),
        ("sniHosts: [\"*.com\"]", "sniHosts[0]"),
        ("sniHosts: [\"a b\"]", "sniHosts[0]"),
        ("sniHosts: [a.com], destinationSubnets: [10.0.0.0/33]", "destinationSubnets[0]"),
        ("sniHosts: [a.com], destinationSubnets: [a]", "destinationSubnets[0]"),
        ("sniHosts: [a.com], port: 70000", "port"),
        ("sniHosts: [a.com], sourceLabels: {\"\": a}", "sourceLabels[]"),
    ] {
        refuses(&tls(of), &format!("spec.tls[0].match[0].{field}"));
    }
    for (spec, field) in [
        (format!("{{hosts: [a.com], tls: [{{{TO}}}]}}"), "spec.tls[0].match"),
        ("{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}]}]}".to_owned(), "spec.tls[0].route"),
        ("{hosts: [a], tcp: [{}]}".to_owned(), "spec.tcp[0].route"),
        (
            format!("{{hosts: [a], tcp: [{{match: [{{destinationSubnets: [\"::/129\"]}}], {TO}}}]}}"),
            "spec.tcp[0].match[0].destinationSubnets[0]",
        ),
        (
            "{hosts: [a], tcp: [{route: [{destination: {host: a}, weight: -5}]}]}".to_owned(),
            "spec.tcp[0].route[0].weight",
        ),
        (format!("{{tcp: [{{{TO}}}]}}"), "spec.tcp"),
    ] {
        refuses(&spec, field);
    }
    assert_eq!(
        fields(&service(&tls("sniHosts: [a.com, x.b.com, \"*.x.b.com\"], destinationSubnets: [\"2001:db8::/32\"]"))),
        [""; 0]
    );
    let gateway = format!(
        "{{hosts: [\"outbound_.80_._.a.b\"], gateways: [gw], tls: [{{match: [{{sniHosts: [\"outbound_.80_._.a.b\"]}}], {TO}}}]}}"
    );
    assert_eq!(fields(&service(&gateway)), [""; 0]);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    for (spec, field) in [
        (http(&format!("fault: {{delay: {{fixedDelay: 1s}}}}, {TO}")), "spec.http[0].fault.delay.percentage"),
        (http(&format!("fault: {{abort: {{percentage: {{value: 5}}}}}}, {TO}")), "spec.http[0].fault.abort"),
        (http(&format!("mirror: {{host: b}}, mirrorPercent: 5, {TO}")), "spec.http[0].mirrorPercent"),
        (http(&format!("corsPolicy: {{allowOrigin: [a]}}, {TO}")), "spec.http[0].corsPolicy.allowOrigin"),
        (http(&format!("retires: {{attempts: 2}}, {TO}")), "spec.http[0].retires"),
        (format!("{{hosts: [a], gateways: [gw.ns.svc.cluster.local], http: [{{{TO}}}]}}"), "spec.gateways[0]"),
        (
            format!("{{hosts: [10.0.0.1], tls: [{{match: [{{sniHosts: [10.0.0.1]}}], {TO}}}]}}"),
            "spec.tls[0].match[0].sniHosts[0]",
        ),
        (
            format!("{{hosts: [a], tcp: [{{match: [{{sourceSubnet: 10.0.0.1}}], {TO}}}]}}"),
            "spec.tcp[0].match[0].sourceSubnet",
        ),
        (http("delegate: {}"), "spec.http[0].delegate.name"),
    ] {
        assert_eq!(fields(&service(&spec)), [format!("Warning {field}")], "{spec}");
    }
}

#[test]
fn rules_that_are_never_used_are_named() {
    let routes = |routes: &[&str]| {
        let routes: Vec<String> = routes.iter().map(|of| format!("{{{of}{TO}}}")).collect();
        format!("{{hosts: [a], http: [{}]}}", routes.join(", "))
    };
    let found = |spec: &str| -> Vec<String> {
        let problems = service(spec);
        assert!(problems.iter().all(|problem| problem.severity != Severity::Error), "{problems:?}");
        problems.iter().map(|problem| format!("{} {}", problem.code, problem.field)).collect()
    };
    let exact = "match: [{uri: {exact: /a}}], ";
    assert_eq!(found(&routes(&["", "", exact])), ["IST0130 spec.http[1]", "IST0130 spec.http[2]"]);
    assert_eq!(found(&routes(&["match: [{uri: {prefix: /}}], ", exact])), ["IST0130 spec.http[1]"]);
    assert_eq!(found(&routes(&[exact, exact])), ["IST0131 spec.http[1].match[0]", "IST0130 spec.http[1]"]);
    let two = "match: [{uri: {exact: /a}, name: x}, {uri: {exact: /b}}], ";
    assert_eq!(found(&routes(&[exact, two])), ["IST0131 spec.http[1].match[0]"]);
    let prefix = "match: [{uri: {prefix: /a}}], ";
    let longer = "match: [{uri: {prefix: /ab}, method: {exact: GET}}], ";
    assert_eq!(found(&routes(&[prefix, longer])), ["IST0131 spec.http[1].match[0]"]);
    assert_eq!(found(&routes(&[longer, prefix, exact, ""])), [""; 0]);
    let get = "match: [{uri: {prefix: /a}, method: {exact: GET}}], ";
    assert_eq!(found(&routes(&[get, "match: [{uri: {prefix: /ab}}], "])), [""; 0]);
    let tcp = format!("{{hosts: [a], tcp: [{{{TO}}}, {{match: [{{port: 1}}], {TO}}}]}}");
    assert_eq!(found(&tcp), ["IST0130 spec.tcp[1]"]);
}
