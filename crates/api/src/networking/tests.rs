use serde_json::{Value, json};

use super::http_match::Pattern;
use super::*;

fn yaml(text: &str) -> Value {
    crate::yaml::from_str(text).expect("YAML")
}

#[test]
fn fields_are_read_by_the_rules_of_protobuf() {
    let object = yaml(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  gateways: null
  http:
    - match: [{uri: {prefix: /a}, headers: {x: {}}, port: "9080", ignoreUriCase: true}]
      route: [{destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 90.0}, {weight: "10"}]
      timeout: 1.5s
      retries: {attempts: 0, perTryTimeout: 100ms, retryRemoteLocalities: false}
      fault: {delay: {percentage: {value: 0.5}, fixedDelay: 1m30s}}
    - directResponse: {status: 503, body: {string: ""}}
"#,
    );
    let service: VirtualService = serde_json::from_value(object).expect("a VirtualService");
    assert_eq!(service.unread, []);
    assert_eq!(service.metadata.name.as_deref(), Some("reviews"));
    let route = &service.spec.http[0];
    let matched = &route.matches[0];
    assert_eq!(matched.uri.as_ref().map(|uri| uri.pattern()), Some(Pattern::Prefix("/a")));
    assert_eq!((matched.headers["x"].pattern(), matched.port), (Pattern::Any, 9080));
    assert_eq!(route.route.iter().map(|to| to.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!(route.timeout, Some(std::time::Duration::from_millis(1500)));
    let body = service.spec.http[1].direct_response.as_ref().and_then(|response| response.body.as_ref());
    assert_eq!(body.and_then(|body| body.string.as_deref()), Some(""));
    let written = serde_json::to_value(&service).expect("JSON");
    assert_eq!(written["spec"]["http"][0]["timeout"], "1.5s");
    assert_eq!(written["spec"]["http"][0]["retries"]["retryRemoteLocalities"], false);
    assert_eq!(VirtualService::from_value(&written), service);
}

#[test]
fn what_cannot_be_read_is_reported_with_its_field() {
    let object = yaml(
        r#"
spec:
  host: [a]
  trafficPolicy:
    loadBalancer: {simple: BEST}
    connectionPool: {tcp: {maxConnections: 1.5, connectTimeout: soon}, http: {maxRetries: 4000000000}}
    outlierDetection: {consecutive5xxErrors: -1, minRequestVolume: 3, splitExternalLocalOriginErrors: "yes"}
    retryBudgets: {}
  subsets: [null, {name: v1, labels: {a: null, b: 1}}]
  exportTo: "*"
"#,
    );
    let rule = DestinationRule::from_value(&object);
    let of = |problem: &Problem| format!("{:?} {}", problem.severity, problem.field);
    assert_eq!(
        rule.unread.iter().map(of).collect::<Vec<_>>(),
        [
            "Error spec.host",
            "Error spec.trafficPolicy.loadBalancer.simple",
            "Error spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "Error spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            "Error spec.trafficPolicy.connectionPool.http.maxRetries",
            "Error spec.trafficPolicy.outlierDetection.splitExternalLocalOriginErrors",
            "Error spec.trafficPolicy.outlierDetection.consecutive5xxErrors",
            "Warning spec.trafficPolicy.retryBudgets",
            "Error spec.subsets[0]",
            "Error spec.subsets[1].labels[a]",
            "Error spec.subsets[1].labels[b]",
            "Error spec.exportTo",
            "Warning spec.trafficPolicy.outlierDetection.minRequestVolume",
        ]
    );
    let message = &rule.unread[1].message;
    assert!(message.starts_with("is \"BEST\", but must be one of UNSPECIFIED, LEAST_CONN, "), "{message}");
    assert!(serde_json::from_value::<DestinationRuleSpec>(object["spec"].clone()).is_err());
}

#[test]
fn any_value_is_readable_as_an_object() {
    for value in [json!(null), json!(7), json!({}), json!({"spec": []}), json!({"metadata": 7, "spec": null})] {
        let service: VirtualService = serde_json::from_value(value).expect("readable");
        assert_eq!(service.unread.len(), 1);
    }
    let many = json!({"spec": {"hosts": vec![7; 100_000]}});
    assert_eq!(VirtualService::from_value(&many).unread.len(), json::MAX_PROBLEMS);
}

#[test]
fn a_former_name_of_a_field_has_effect() {
    let rule = |detection: Value| {
        let rule = DestinationRule::from_value(&json!({"spec": {"trafficPolicy": {"outlierDetection": detection}}}));
        rule.spec.traffic_policy.and_then(|policy| policy.outlier_detection).and_then(|of| of.consecutive_5xx())
    };
    assert_eq!(rule(json!({"consecutiveErrors": 7})), Some(7));
    assert_eq!(rule(json!({"consecutiveErrors": 7, "consecutive5xxErrors": 0})), Some(0));
    assert_eq!(rule(json!({})), None);
}
