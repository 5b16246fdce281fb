//! Kinds that users have and that name parts of other proxies, installers and meshes: EnvoyFilter, WasmPlugin, IstioOperator,
//! Linkerd's ServiceProfile, and SMI's TrafficSplit and HTTPRouteGroup.

use serde_json::Value;

use super::schema::{
    anything, boolean, free, integer_or_text, list, map, number, object, object_with, selector, target, text,
};

pub(super) fn envoy_filter() -> Value {
    let patch = object([("applyTo", text()), ("match", free()), ("patch", free())]);
    object([
        ("workloadSelector", object([("labels", map(text()))])),
        ("targetRefs", list(target())),
        ("configPatches", list(patch)),
        ("priority", integer_or_text()),
    ])
}

pub(super) fn wasm_plugin() -> Value {
    object([
        ("selector", selector()),
        ("targetRef", target()),
        ("targetRefs", list(target())),
        ("url", text()),
        ("sha256", text()),
        ("imagePullPolicy", text()),
        ("imagePullSecret", text()),
        ("verificationKey", text()),
        ("pluginConfig", free()),
        ("pluginName", text()),
        ("phase", text()),
        ("failStrategy", text()),
        ("priority", integer_or_text()),
        ("vmConfig", free()),
        ("match", list(free())),
        ("type", text()),
    ])
}

pub(super) fn istio_operator() -> Value {
    let components = object([
        ("base", component()),
        ("pilot", component()),
        ("cni", component()),
        ("ztunnel", component()),
        ("istiodRemote", component()),
        ("ingressGateways", list(component())),
        ("egressGateways", list(component())),
    ]);
    object([
        ("profile", text()),
        ("installPackagePath", text()),
        ("hub", text()),
        ("tag", anything()),
        ("revision", text()),
        ("defaultRevision", boolean()),
        ("compatibilityVersion", text()),
        ("namespace", text()),
        ("meshConfig", free()),
        ("components", components),
        ("values", free()),
        ("unvalidatedValues", free()),
    ])
}

fn component() -> Value {
    object([
        ("name", text()),
        ("enabled", boolean()),
        ("namespace", text()),
        ("label", map(text())),
        ("hub", text()),
        ("tag", anything()),
        ("spec", free()),
        ("k8s", free()),
    ])
}

pub(super) fn service_profile() -> Value {
    // Conditions contain conditions, which a structural schema cannot express.
    let response_class = object([("condition", free()), ("isFailure", boolean())]);
    let route = object([
        ("name", text()),
        ("condition", free()),
        ("isRetryable", boolean()),
        ("timeout", text()),
        ("responseClasses", list(response_class)),
    ]);
    let budget = object([("minRetriesPerSecond", number()), ("retryRatio", number()), ("ttl", text())]);
    object([
        ("routes", list(route)),
        ("retryBudget", budget),
        ("dstOverrides", list(object([("authority", text()), ("weight", integer_or_text())]))),
        ("opaquePorts", list(integer_or_text())),
    ])
}

pub(super) fn traffic_split() -> Value {
    let backend = object_with([("service", text()), ("weight", integer_or_text())]);
    let reference = object([("kind", text()), ("name", text()), ("apiGroup", text())]);
    object([("service", text()), ("backends", list(backend)), ("matches", list(reference))])
}

pub(super) fn http_route_group() -> Value {
    object([("matches", route_matches())])
}

/// The matches of a group. Before v1alpha3 they are beside the metadata.
pub(super) fn route_matches() -> Value {
    // A list of maps before v1alpha4, then a map, which a structural schema cannot express.
    let route = object([("name", text()), ("methods", list(text())), ("pathRegex", text()), ("headers", anything())]);
    list(route)
}
