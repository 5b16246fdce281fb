use serde_json::{Value, json};

use super::*;

fn problems(spec: Value) -> Vec<String> {
    let object = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
    validate(GROUP, "RateLimit", &object).iter().map(ToString::to_string).collect()
}

#[test]
fn limits_are_by_key_or_of_all_requests() {
    let spec = json!({"selector": {"matchLabels": {"app": "cart"}}, "headers": true, "rules": [
        {"requests": 100, "unit": "SECOND", "burst": 200},
        {"match": [{"paths": ["/api/*"], "methods": ["POST"], "headers": {"X-Plan": ["free"]}, "namespaces": ["web"]}],
         "key": [{"header": "X-User"}, {"source": "PATH"}], "requests": 10, "unit": "MINUTE"}]});
    assert_eq!(problems(spec.clone()), Vec::<String>::new());
    let limits = RateLimit::from_value(&json!({"metadata": {}, "spec": spec})).spec.limits();
    let [all, by_key] = limits.rules.as_slice() else { panic!("{limits:?}") };
    let bucket = Bucket { max_tokens: 200, tokens_per_fill: 100, fill_interval: Duration::from_secs(1) };
    assert!(matches!(all.limit, Limit::Local { bucket: Some(of), .. } if of == bucket));
    assert!(all.quota_headers && all.retry_after && all.descriptors.is_empty());
    let Limit::Local { bucket: None, descriptors, .. } = &by_key.limit else { panic!("{by_key:?}") };
    assert_eq!(descriptors[0].entries, [("x-user".to_owned(), None), ("path".to_owned(), None)]);
    assert_eq!(by_key.descriptors[0].actions[0].value, ActionValue::Header("x-user".into()));
    let attributes: Vec<&str> = by_key.matches[0].iter().map(|of| &*of.attribute).collect();
    assert_eq!(attributes, ["request.path", "request.method", "source.namespace", "request.headers[x-plan]"]);
}

#[test]
fn a_service_receives_names_and_keys() {
    let global = json!({"host": "limits.shop.svc.cluster.local", "port": 8081, "domain": "shop", "failClosed": true});
    let spec =
        json!({"global": global, "mode": "SHADOW", "rules": [{"name": "all"}, {"key": [{"source": "ADDRESS"}]}]});
    assert_eq!(problems(spec.clone()), Vec::<String>::new());
    let limits = RateLimit::from_value(&json!({"metadata": {}, "spec": spec})).spec.limits();
    assert_eq!(limits.rules[0].enforced, 0);
    assert_eq!(limits.rules[0].descriptors[0].actions[0].value, ActionValue::Constant("all".into()));
    assert!(matches!(&limits.rules[1].limit, Limit::Global(of) if of.fail_closed && of.port == 8081));
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for (spec, expected) in [
        (json!({}), "spec.rules: is empty"),
        (json!({"rules": [{}]}), "spec.rules[0].requests: needs a number of tokens"),
        (json!({"rules": [{"requests": 20_000_000}]}), "spec.rules[0].requests: adds more than"),
        (json!({"rules": [{"requests": 1, "unit": "YEAR"}]}), "spec.rules[0].unit: is \"YEAR\""),
        (json!({"rules": [{"requests": 1, "key": [{}]}]}), "spec.rules[0].key[0]: needs one of"),
        (json!({"rules": [{"requests": 1, "match": [{}]}]}), "spec.rules[0].match[0]: is empty"),
        (json!({"rules": [{"requests": 1, "match": [{"ipBlocks": ["x"]}]}]}), "spec.rules[0].match[0].ipBlocks[0]"),
        (
            json!({"rules": [{"name": "a", "requests": 1}], "global": {"host": "a", "port": 1, "domain": "d"}}),
            "spec.rules[0].requests: cannot be set beside global",
        ),
        (json!({"rules": [{}], "global": {"host": "a", "port": 0}}), "spec.global.port: is 0"),
    ] {
        let found = problems(spec);
        assert!(found.iter().any(|of| of.starts_with(expected)), "{expected}: {found:?}");
    }
}
