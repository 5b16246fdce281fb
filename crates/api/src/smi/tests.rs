use serde_json::json;

use super::*;

fn errors(problems: &[Problem]) -> Vec<String> {
    problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string).collect()
}

#[test]
fn weights_of_every_version_are_read() {
    for (version, weights, expected) in [
        ("v1alpha1", json!(["900m", "100m"]), [9_000, 1_000]),
        ("v1alpha1", json!([1, "500m"]), [10_000, 5_000]),
        ("v1alpha2", json!([90, 10]), [900_000, 100_000]),
        ("v1alpha4", json!([1, 0]), [10_000, 0]),
    ] {
        let object = json!({"apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"service": "web", "backends": [
                {"service": "web-v1", "weight": weights[0]}, {"service": "web-v2", "weight": weights[1]}]}});
        let split = TrafficSplit::from_value(&object);
        assert!(split.validate().is_empty(), "{version}: {:?}", split.validate());
        let read: Vec<u64> = split.spec.backends.iter().filter_map(|of| Some(of.weight?.parts())).collect();
        assert_eq!(read, expected, "{version}");
        // The snapshot keeps the spec in JSON.
        let text = serde_json::to_string(&split.spec).unwrap();
        assert_eq!(serde_json::from_str::<TrafficSplitSpec>(&text).unwrap(), split.spec);
    }
}

#[test]
fn invalid_splits_are_refused_with_the_field() {
    let backend = json!({"service": "a", "weight": 1});
    for (spec, expected) in [
        (json!(null), "spec: is missing"),
        (json!({"backends": [backend]}), "spec.service: is empty"),
        (json!({"service": "web_1", "backends": [backend]}), "spec.service: is \"web_1\""),
        (json!({"service": "web"}), "spec.backends: is empty"),
        (json!({"service": "web", "backends": [{"service": "a"}]}), "spec.backends[0].weight: is missing"),
        (json!({"service": "web", "backends": [{"service": "a", "weight": "-1"}]}), "spec.backends[0].weight: is"),
        (json!({"service": "web", "backends": [{"weight": 1}]}), "spec.backends[0].service: is empty"),
        (json!({"service": "web", "backends": vec![backend.clone(); 257]}), "spec.backends: has 257 items"),
        (
            json!({"service": "web", "backends": [backend], "matches": [{"kind": "TCPRoute", "name": "x"}]}),
            "spec.matches[0].kind: is \"TCPRoute\"",
        ),
        (
            json!({"service": "web", "backends": [backend], "matches": [{"kind": "HTTPRouteGroup"}]}),
            "spec.matches[0].name: is empty",
        ),
    ] {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        let found = errors(&validate(SPLIT_GROUP, "TrafficSplit", &object));
        assert!(found.iter().any(|error| error.starts_with(expected)), "{spec}: {found:?}");
    }
    let zero = json!({"spec": {"service": "web", "backends": [{"service": "a", "weight": 0}]}});
    let problems = validate(SPLIT_GROUP, "TrafficSplit", &zero);
    assert!(errors(&problems).is_empty() && problems[0].field == "spec.backends", "{problems:?}");
}

#[test]
fn groups_of_every_version_are_read() {
    let path = json!({"name": "a", "pathRegex": "/api/.*", "methods": ["GET", "HEAD"]});
    let headers =
        [json!([{"user-agent": ".*Firefox.*"}, {"x-a": "1"}]), json!({"user-agent": ".*Firefox.*", "x-a": "1"})];
    for headers in headers {
        let matches = json!([path, {"name": "b", "headers": headers}]);
        for object in
            [json!({"metadata": {}, "matches": matches}), json!({"metadata": {}, "spec": {"matches": matches}})]
        {
            let group = HttpRouteGroup::from_value(&object);
            assert!(group.validate().is_empty(), "{object}: {:?}", group.validate());
            let [first, second] = &group.spec.matches[..] else { panic!("{group:?}") };
            assert_eq!((&*first.path_regex, first.methods.len(), first.is_any_method()), ("/api/.*", 2, false));
            assert_eq!(second.headers.0.len(), 2);
            let text = serde_json::to_string(&group.spec).unwrap();
            assert_eq!(serde_json::from_str::<HttpRouteGroupSpec>(&text).unwrap(), group.spec);
        }
    }
}

#[test]
fn invalid_groups_are_refused_with_the_field() {
    for (matches, expected) in [
        (json!([]), "spec.matches: is empty"),
        (json!([{"pathRegex": "("}]), "spec.matches[0].pathRegex: is not a regular expression"),
        (json!([{"pathRegex": "a".repeat(1_025)}]), "spec.matches[0].pathRegex: has 1025 characters"),
        (json!([{"methods": ["GET POST"]}]), "spec.matches[0].methods[0]: is \"GET POST\""),
        (json!([{"headers": {"a b": "x"}}]), "spec.matches[0].headers[a b]: is not the name of a header"),
        (json!([{"headers": [{"a": "["}]}]), "spec.matches[0].headers[a]: is not a regular expression"),
        (json!([{"headers": ["a"]}]), "spec.matches[0].headers[0]: is \"a\", but must be an object"),
        (json!(vec![json!({}); 257]), "spec.matches: has 257 items"),
    ] {
        let object = json!({"spec": {"matches": matches}});
        let found = errors(&validate(SPECS_GROUP, "HTTPRouteGroup", &object));
        assert!(found.iter().any(|error| error.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn services_are_named_by_their_name_or_with_their_namespace() {
    for (name, expected) in [
        ("web", Some(("web", "shop"))),
        ("web.shop", Some(("web", "shop"))),
        ("web.other.svc", Some(("web", "other"))),
        ("web.shop.svc.cluster.local", Some(("web", "shop"))),
        ("web.shop.svc.cluster.local.", Some(("web", "shop"))),
        ("web.example.com", None),
        ("web.shop.svc.other.local", None),
    ] {
        assert_eq!(service_of(name, "shop", "cluster.local"), expected, "{name}");
    }
}
