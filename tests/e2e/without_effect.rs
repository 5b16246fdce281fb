//! Objects that are accepted and have no effect: their authors learn it from kubectl, from an Event and from the status.

use std::time::Duration;

use crate::support::{Lab, Outcome, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(20);

const TELEMETRY: &str = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: scope}
spec: {accessLogging: [{disabled: true}]}
";
const RULE: &str = "
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {outlierDetection: {minRequestVolume: 10}}}
";
const FILTER: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: headers}
spec: {configPatches: [{applyTo: HTTP_FILTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: REMOVE}}]}
";
const INVALID: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - route:
        - {destination: {host: reviews, subset: v1}, weight: 1}
        - {destination: {host: reviews, subset: v_2}, weight: 1}
      timeout: 0s
";

/// Runs `kubectl apply` on a manifest.
fn apply(lab: &Lab, cluster: &str, manifest: &str) -> Outcome {
    let file = lab.directory.path("manifest.yaml");
    std::fs::write(&file, manifest).expect("written");
    lab.kubectl(cluster, &["apply", "-f", &file.display().to_string()])
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn the_author_of_an_object_without_effect_is_told() {
    kubectl_is_installed();
    let lab = Lab::up("primary-remote.yaml", User::Own);
    for cluster in ["west", "east"] {
        let applied = apply(&lab, cluster, TELEMETRY);
        assert_eq!(applied.code, Some(0), "{applied:?}");
        has(&applied.stdout, &["telemetry.telemetry.istio.io/scope created"]);
        has(&applied.stderr, &["Warning: Telemetry default/scope has no effect: "]);
    }
    let rule = apply(&lab, "west", RULE);
    has(
        &rule.stderr,
        &["Warning: DestinationRule default/reviews: spec.trafficPolicy.outlierDetection.minRequestVolume: "],
    );
    assert!(!rule.stderr.contains("has no effect in cluster"), "{rule:?}");
    let elsewhere = apply(&lab, "east", RULE);
    assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
    has(
        &elsewhere.stderr,
        &["Warning: DestinationRule default/reviews has no effect in cluster east: \
             configuration is read in its primary cluster; apply it in west"],
    );
    let invalid = apply(&lab, "west", INVALID);
    assert_eq!(invalid.code, Some(1), "{invalid:?}");
    has(
        &invalid.stderr,
        &[
            "denied the request: VirtualService default/reviews is invalid:",
            "spec.http[0].timeout: is shorter than 1ms; write a longer duration, or remove it",
            "spec.http[0].route[1].destination.subset: is \"v_2\", which is not the name of a subset",
        ],
    );
    let filter = apply(&lab, "west", FILTER);
    has(
        &filter.stderr,
        &["Warning: EnvoyFilter default/headers has no effect: no proxy is Envoy; use a VirtualService"],
    );
    let refused = apply(&lab, "west", &TELEMETRY.replace("disabled", "disable"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    has(&refused.stderr, &["unknown field \"spec.accessLogging[0].disable\""]);

    let events = || lab.kubectl("west", &["get", "events", "--field-selector=involvedObject.name=scope"]).stdout;
    let event = eventually(SOON, || {
        let events = events();
        if events.contains("NoEffect") { Ok(events) } else { Err(events) }
    });
    has(&event.expect("an Event"), &["Warning", "telemetry/scope", "has no effect"]);
    let status = || lab.isthmus(&["status"]).ok();
    has(
        &status(),
        &[
            "Telemetry has no effect: proxies report the standard metrics",
            "(default/scope)",
            "EnvoyFilter has no effect",
        ],
    );

    lab.kubectl("west", &["delete", "telemetries.telemetry.istio.io", "scope"]).ok();
    let gone = eventually(SOON, || {
        let status = status();
        if status.contains("Telemetry has no effect") { Err(status) } else { Ok(()) }
    });
    gone.expect("the status no longer lists the object");
    lab.down();
}
