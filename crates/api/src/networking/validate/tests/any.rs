//! Any object, text and expression is answered: nothing panics, and what is reported is bounded.

use proptest::prelude::*;
use serde_json::{Map, Value};

use crate::networking::{re2, validate};

/// Names of fields, so that deep parts are reached.
const NAMES: &[&str] = &[
    "hosts",
    "gateways",
    "http",
    "tls",
    "tcp",
    "exportTo",
    "match",
    "route",
    "destination",
    "host",
    "subset",
    "port",
    "number",
    "weight",
    "headers",
    "request",
    "response",
    "set",
    "add",
    "remove",
    "uri",
    "prefix",
    "exact",
    "regex",
    "withoutHeaders",
    "queryParams",
    "retries",
    "attempts",
    "retryOn",
    "timeout",
    "fault",
    "delay",
    "abort",
    "percentage",
    "value",
    "mirrors",
    "corsPolicy",
    "allowOrigins",
    "maxAge",
    "redirect",
    "rewrite",
    "uriRegexRewrite",
    "sniHosts",
    "destinationSubnets",
    "trafficPolicy",
    "subsets",
    "name",
    "labels",
    "loadBalancer",
    "consistentHash",
    "maglev",
    "tableSize",
    "localityLbSetting",
    "distribute",
    "failover",
    "from",
    "to",
    "connectionPool",
    "outlierDetection",
    "interval",
    "portLevelSettings",
    "warmup",
    "duration",
    "tunnel",
    "targetHost",
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[*a./:%()@\\[\\]0-9s-]{0,10}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(7, 64, 4, |inner| {
        let name = prop_oneof![9 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_is_answered(spec in value(), namespace in "\\PC{0,4}") {
        let mut object = Map::new();
        object.insert("metadata".to_owned(), serde_json::json!({"namespace": namespace}));
        object.insert("spec".to_owned(), spec);
        let object = Value::Object(object);
        for kind in ["VirtualService", "DestinationRule"] {
            let problems = validate("networking.istio.io", kind, &object);
            prop_assert!(problems.len() <= 100);
            prop_assert!(problems.iter().all(|problem| problem.field.starts_with("spec")));
        }
    }

    #[test]
    fn any_expression_is_answered(pattern in "\\PC{0,20}", syntax in "[\\\\()\\[\\]^$.*+?{}|:&~QEdDwWsSbB<>a-c0-2,-]{0,16}") {
        for pattern in [pattern, syntax] {
            if let Err(message) = re2::compile(&pattern) {
                prop_assert!(!message.is_empty() && message.len() < 300, "{message}");
            }
        }
    }

    #[test]
    fn any_text_has_documents(text in "[a-c:{}\\[\\]\"' \n%#&*!|>-]{0,40}") {
        for document in crate::yaml::documents(&text) {
            match document {
                Ok(document) => prop_assert!(document.lines.of("a.b[0]") <= 42),
                Err(error) => prop_assert!(error.line >= 1),
            }
        }
    }
}
