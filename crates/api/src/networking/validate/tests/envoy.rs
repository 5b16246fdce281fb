use super::{fields, rule, service};

/// What Istio accepts and proxies do not take is accepted, with a warning.
#[test]
fn values_that_envoy_refuses_are_warned_of() {
    let route = |route: &str| format!("{{hosts: [a], http: [{{{route}}}]}}");
    let headers = |of: &str| route(&format!("route: [{{destination: {{host: a}}}}], headers: {{request: {{{of}}}}}"));
    for code in [300, 304, 305, 306, 399] {
        let redirect = route(&format!("redirect: {{uri: /b, redirectCode: {code}}}"));
        assert_eq!(fields(&service(&redirect)), ["Warning spec.http[0].redirect.redirectCode"], "{code}");
    }
    for (spec, field) in [
        (headers("set: {\"a b\": x}"), "http[0].headers.request.set[a b]"),
        (headers("remove: [\"a b\"]"), "http[0].headers.request.remove[0]"),
        (headers(&format!("add: {{a: {}}}", "x".repeat(16_385))), "http[0].headers.request.add[a]"),
        (
            route("route: [{destination: {host: a}, weight: 2147483647}, {destination: {host: b}, weight: 2147483647}, {destination: {host: c}, weight: 2}]"),
            "http[0].route",
        ),
        (
            "{hosts: [a], tcp: [{route: [{destination: {host: a}, weight: 2147483647}, {destination: {host: b}, weight: 2147483647}, {destination: {host: c}, weight: 2}]}]}".to_owned(),
            "tcp[0].route",
        ),
    ] {
        assert_eq!(fields(&service(&spec)), [format!("Warning spec.{field}")]);
    }
    let many: Vec<String> = (0..=1000).map(|number| format!("a{number}: x")).collect();
    let many = headers(&format!("set: {{{}}}", many.join(", ")));
    assert_eq!(fields(&service(&many)), ["Warning spec.http[0].headers.request.set"]);
    for (policy, field) in [
        ("loadBalancer: {consistentHash: {httpHeaderName: \"\"}}", "loadBalancer.consistentHash.httpHeaderName"),
        ("loadBalancer: {consistentHash: {httpHeaderName: a b}}", "loadBalancer.consistentHash.httpHeaderName"),
        (
            "loadBalancer: {consistentHash: {httpQueryParameterName: \"\"}}",
            "loadBalancer.consistentHash.httpQueryParameterName",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388609}}}",
            "loadBalancer.consistentHash.ringHash.minimumRingSize",
        ),
        ("tls: {mode: SIMPLE, sni: \"a b\"}", "tls.sni"),
    ] {
        let spec = format!("{{host: a, trafficPolicy: {{{policy}}}}}");
        assert_eq!(fields(&rule(&spec)), [format!("Warning spec.trafficPolicy.{field}")], "{policy}");
    }
    let long = format!("{{host: a, trafficPolicy: {{tls: {{mode: SIMPLE, sni: {}}}}}}}", "a".repeat(256));
    assert_eq!(fields(&rule(&long)), ["Warning spec.trafficPolicy.tls.sni"]);
    let of_mesh =
        "{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: outbound_.80_._.a.shop.svc.cluster.local}}}";
    assert_eq!(fields(&rule(of_mesh)), [""; 0]);
}
