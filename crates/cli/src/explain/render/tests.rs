//! Texts of explanations.

use serde_json::json;

use super::*;

fn endpoint(tier: &str, cluster: &str, percent: f64) -> Value {
    json!({"tier": tier, "cluster": cluster, "percent": percent, "address": "10.244.0.4:9080", "throughGateway": false,
        "health": "ready", "ejectedByWorkers": 0, "probedByWorkers": 0, "ejectedForSeconds": null, "tls": "mutual",
        "identities": ["spiffe://cluster.local/ns/default/sa/reviews"], "issuers": [cluster], "endpointsBehind": null})
}

fn behind(tier: &str, cluster: &str, percent: f64) -> Value {
    let mut endpoint = endpoint(tier, cluster, percent);
    endpoint["throughGateway"] = json!(true);
    endpoint["address"] = json!("203.0.113.20:15443");
    endpoint["endpointsBehind"] = json!(1);
    endpoint
}

fn document(endpoints: &[Value]) -> Value {
    let tiers: Vec<Value> =
        ["us-west/us-west-1a", "us-west", "elsewhere"].into_iter().map(|name| json!({"name": name})).collect();
    json!({
        "meshed": true, "host": "reviews", "port": 9080, "workers": 2, "service": "reviews.default.svc.cluster.local",
        "inMesh": true, "protocol": "http", "as": "request", "route": null, "failure": null,
        "name": {"full": "reviews.default.svc.cluster.local", "address": "10.96.0.2", "by": "mesh", "error": null},
        "controller": {"state": "connected", "sinceSeconds": 9.0},
        "destinations": [{"host": "reviews.default.svc.cluster.local", "port": 9080, "subset": "", "percent": 100.0,
            "policies": [], "byHash": false, "algorithm": "LEAST_REQUEST", "failure": null, "panic": false, "omitted": 0,
            "tiers": tiers, "endpoints": endpoints}],
        "ages": {"reportedBy": "west", "clusters": {
            "west": {"own": true, "link": "connected", "contactSeconds": null},
            "east": {"own": false, "link": "connected", "contactSeconds": 0.3}}},
        "authorization": [{"cluster": "east", "host": "reviews.default.svc.cluster.local", "subset": "", "pod": "reviews-x",
            "error": null, "decision": {"allowed": true}}],
    })
}

#[test]
fn a_service_scaled_to_zero_here_is_taken_over_elsewhere() {
    assert_eq!(
        text(&document(&[behind("elsewhere", "east", 100.0)])),
        "reviews.default.svc.cluster.local:9080   HTTP, mutual TLS, no route rules\n  \
         tier 1  us-west/us-west-1a   no endpoints\n  \
         tier 2  us-west              no endpoints\n  \
         tier 3  elsewhere            1 endpoint behind gateway 203.0.113.20:15443 (east)   healthy, updated 0.3s ago   <- takes 100%\n\
         authorization: allowed, says reviews-x\n\
         identity expected: spiffe://cluster.local/ns/default/sa/reviews, issued by east's intermediate\n"
    );
}

#[test]
fn ejections_and_lost_links_are_stated() {
    let mut ejected = endpoint("us-west", "west", 0.0);
    (ejected["ejectedByWorkers"], ejected["ejectedForSeconds"]) = (json!(2), json!(3.4));
    let mut document = document(&[ejected, behind("elsewhere", "east", 100.0)]);
    document["ages"]["clusters"]["east"] = json!({"own": false, "link": "unreachable", "contactSeconds": 75.0});
    document["controller"] = json!({"state": "lost", "sinceSeconds": 12.0, "reason": "connection refused"});
    let text = text(&document);
    assert!(text.contains("1 endpoint in west") && text.contains("ejected after failures, for 3.4s more\n"), "{text}");
    assert!(text.contains("healthy, updated 1m15s ago (link unreachable)   <- takes 100%"), "{text}");
    assert!(text.ends_with("the sidecar lost the controller 12s ago and uses what it knew then: connection refused\n"));
    document["ages"] = json!({"error": "x"});
    assert!(super::text(&document).contains("healthy, age unknown"), "unknown is never none");
}

#[test]
fn routes_show_their_conditions_and_shares() {
    let mut document = document(&[endpoint("us-west", "west", 90.0)]);
    document["route"] = json!({"kind": "VirtualService", "object": "default/reviews", "of": 3, "position": 2,
        "name": "canary", "conditions": ["header x-user is jason"], "action": "forward", "timeoutSeconds": 2.0,
        "delay": null, "abort": {"status": 503, "percent": 10.0}, "mirrors": []});
    document["destinations"][0]["percent"] = json!(90.0);
    document["destinations"][0]["subset"] = json!("v1");
    document["destinations"][0]["policies"] = json!(["default/reviews"]);
    let text = text(&document);
    for part in [
        "route: 2 of 3 of VirtualService default/reviews \"canary\": header x-user is jason\n",
        "  fault: 10.0% are answered 503\n",
        "  90% to reviews.default.svc.cluster.local:9080 subset v1\n",
        "    policy: DestinationRule default/reviews (LEAST_REQUEST)\n",
        "<- takes 90%\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    document["route"]["position"] = Value::Null;
    document["destinations"] = json!([]);
    document["failure"] = json!({"status": 404, "flags": "NR", "reason": "no route of reviews matches the request"});
    let text = super::text(&document);
    assert!(text.contains("route: none of the 3 of VirtualService default/reviews matches\n"), "{text}");
    assert!(text.contains("every request is answered 404 (NR): no route of reviews matches"), "{text}");
}

#[test]
fn refusals_and_unknown_decisions_are_stated() {
    let mut document = document(&[endpoint("us-west", "west", 100.0)]);
    let decision =
        json!({"allowed": false, "reason": "a DENY policy matches", "by": {"policy": "default/no", "rule": 0}});
    document["authorization"][0]["decision"] = decision;
    let text = text(&document);
    assert!(
        text.contains("authorization: refused with 403: a DENY policy matches (policy default/no, rule 0)"),
        "{text}"
    );
    document["authorization"][0]["error"] = json!("no context of cluster east was given: --context east");
    assert!(super::text(&document).contains("authorization: unknown: no context of cluster east"), "{text}");
}

#[test]
fn what_is_not_in_the_mesh_is_explained() {
    let mut document = document(&[]);
    document["name"] = json!({"error": "nobody knows the name x"});
    assert!(text(&document).contains("no address: the request is never sent\n  nobody knows the name x"));
    document["name"] = json!({"address": "192.0.2.1"});
    (document["inMesh"], document["service"]) = (json!(false), json!("PassthroughCluster"));
    assert!(text(&document).starts_with("reviews:9080 (192.0.2.1)   not part of the mesh: passed through"));
    document["service"] = json!("BlackHoleCluster");
    assert!(text(&document).contains("REGISTRY_ONLY"));
    let outside = json!({"meshed": false, "caller": {"cluster": "west", "namespace": "shop", "pod": "legacy-x"}});
    let text = text(&outside);
    assert!(text.contains("legacy-x in namespace shop of west has no sidecar") && text.contains("injection"), "{text}");
}
