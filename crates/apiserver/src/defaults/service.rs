//! Services, Endpoints, EndpointSlices, Ingresses and NetworkPolicies.

use serde_json::{Value, json};

use super::fields::{each, empty, object, present, set, set_text};

/// Timeout of session affinity by client address: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn service(service: &mut Value) {
    if let Some(spec) = object(service, "spec") {
        service_spec(spec);
    }
    if let Some(status) = object(service, "status") {
        set(status, "loadBalancer", empty());
    }
}

fn service_spec(spec: &mut Value) {
    set_text(spec, "type", "ClusterIP");
    set_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
    }
    for port in each(spec, "ports") {
        set_text(port, "protocol", "TCP");
        let number = port["port"].clone();
        if port["targetPort"] == 0 || port["targetPort"] == "" {
            port["targetPort"] = Value::Null;
        }
        set(port, "targetPort", number);
    }
    if spec["type"] == "ExternalName" {
        return;
    }
    set_text(spec, "internalTrafficPolicy", "Cluster");
    if spec["type"] != "ClusterIP" {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

pub(super) fn endpoints(endpoints: &mut Value) {
    for subset in each(endpoints, "subsets") {
        each(subset, "ports").for_each(|port| set_text(port, "protocol", "TCP"));
    }
}

pub(super) fn endpoint_slice(slice: &mut Value) {
    for port in each(slice, "ports") {
        set(port, "name", "");
        set_text(port, "protocol", "TCP");
    }
}

pub(super) fn ingress(ingress: &mut Value) {
    object(ingress, "spec");
    if let Some(status) = object(ingress, "status") {
        set(status, "loadBalancer", empty());
    }
}

pub(super) fn network_policy(policy: &mut Value) {
    let Some(spec) = present(policy, "spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            each(rule, "ports").for_each(|port| set_text(port, "protocol", "TCP"));
        }
    }
    let egress = spec["egress"].as_array().is_some_and(|rules| !rules.is_empty());
    set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}
