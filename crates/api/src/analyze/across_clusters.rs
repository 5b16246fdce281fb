//! Services of one name that differ between clusters, although the mesh sees one service.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::message::Report;
use super::object::{Object, Origin};
use super::services::OF_SYSTEM;
use crate::networking::problem::Severity;

pub(super) fn check(objects: &[Object], report: &mut Report) {
    let mut by_name: BTreeMap<String, BTreeMap<&str, &Object>> = BTreeMap::new();
    for object in objects.iter().filter(|object| (object.group(), object.kind()) == ("", "Service")) {
        let Origin::Cluster(cluster) = &object.origin else { continue };
        let kubernetes = object.namespace == "default" && object.name() == "kubernetes";
        if !kubernetes && !OF_SYSTEM.contains(&&*object.namespace) {
            by_name.entry(object.full_name()).or_default().insert(cluster, object);
        }
    }
    for clusters in by_name.into_values() {
        let mut clusters = clusters.into_iter();
        let Some((cluster, first)) = clusters.next() else { continue };
        for (_, other) in clusters {
            let differs = differences(first, other);
            if !differs.is_empty() {
                let text = format!(
                    "differs from the Service of cluster {cluster}: {}; the mesh sees one service, so make them equal, or name them differently",
                    differs.join(", ")
                );
                report.add(other, "IST0170", Severity::Warning, "spec", text);
            }
        }
    }
}

fn differences(a: &Object, b: &Object) -> Vec<String> {
    let mut found = Vec::new();
    let headless = |object: &Object| object.value["spec"]["clusterIP"] == "None";
    if headless(a) != headless(b) {
        let form = |object: &Object| if headless(object) { "is headless" } else { "has a cluster IP" };
        found.push(format!("it {} there and {} here", form(a), form(b)));
    }
    let kind = |object: &Object| object.value["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind(a) != kind(b) {
        found.push(format!("its type is {} there and {} here", kind(a), kind(b)));
    }
    if ports(a) != ports(b) {
        let text = |object: &Object| ports(object).into_iter().collect::<Vec<_>>().join(" ");
        found.push(format!("its ports are {} there and {} here", text(a), text(b)));
    }
    found
}

/// Returns what a client sees of the ports. Their targets and node ports are a matter of each cluster.
fn ports(service: &Object) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ports = service.value["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let parts = [text(&port["name"]), format!("{}/{protocol}", port["port"]), text(&port["appProtocol"])];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":")
        })
        .collect()
}
