//! What the policies of the destinations decide about the request: their own sidecars are asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use lab::console::Patience;
use serde_json::{Value, json};

use super::ExplainArgs;
use crate::access::{ClusterAccess, describe};
use crate::authz::escaped;
use crate::config::source;

/// The largest number of sidecars that are asked.
const ASKED: usize = 8;

/// The request, as the destination sees it.
pub(super) struct DescribedRequest<'a> {
    /// The host of the request.
    pub(super) authority: &'a str,
    pub(super) args: &'a ExplainArgs,
}

/// Returns the decision of one sidecar in each cluster that receives requests, for each destination.
pub(super) async fn of_all(
    clusters: &[ClusterAccess],
    document: &Value,
    request: &DescribedRequest<'_>,
    patience: &Patience,
) -> Vec<Value> {
    let mut decisions = Vec::new();
    for destination in document["destinations"].as_array().into_iter().flatten() {
        let mut asked: BTreeMap<&str, &Value> = BTreeMap::new();
        for endpoint in destination["endpoints"].as_array().into_iter().flatten() {
            if let Some(cluster) = endpoint["cluster"].as_str().filter(|name| !name.is_empty())
                && endpoint["percent"].as_f64().is_some_and(|share| share > 0.0)
            {
                // Those with the largest share come first.
                asked.entry(cluster).or_insert(endpoint);
            }
        }
        for (cluster, endpoint) in asked {
            if decisions.len() == ASKED {
                return decisions;
            }
            let place = json!({"cluster": cluster, "host": destination["host"], "port": destination["port"],
                "subset": destination["subset"]});
            decisions.push(decision(clusters, document, (destination, endpoint), request, patience, place).await);
        }
    }
    decisions
}

async fn decision(
    clusters: &[ClusterAccess],
    document: &Value,
    (destination, endpoint): (&Value, &Value),
    request: &DescribedRequest<'_>,
    patience: &Patience,
    mut place: Value,
) -> Value {
    let asked = async {
        let name = endpoint["cluster"].as_str().unwrap_or_default();
        let cluster = clusters.iter().find(|cluster| cluster.name == name);
        let cluster = cluster.with_context(|| format!("no context of cluster {name} was given: --context {name}"))?;
        let (pod, port) = answering(cluster, destination, endpoint, patience).await?;
        let query = query(document, endpoint, request, port);
        let from = format!("the sidecar of {} in {name}, through {}", pod.name_any(), cluster.api_server());
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let page = patience.answer(&from, source::read(cluster, &namespace, &name, &query)).await??;
        let decided: Value = serde_json::from_str(&page).context("the sidecar's answer is no JSON")?;
        anyhow::Ok((name, decided))
    };
    match asked.await {
        Ok((pod, decided)) => {
            place["pod"] = json!(pod);
            place["decision"] = decided;
            place["error"] = Value::Null;
        }
        Err(error) => {
            place["pod"] = Value::Null;
            place["decision"] = Value::Null;
            place["error"] = json!(describe(&error));
        }
    }
    place
}

/// Returns a pod that may answer, and the port of its application.
async fn answering(
    cluster: &ClusterAccess,
    destination: &Value,
    endpoint: &Value,
    patience: &Patience,
) -> anyhow::Result<(Pod, u16)> {
    let host = destination["host"].as_str().unwrap_or_default();
    let mut labels = host.splitn(3, '.');
    let (Some(name), Some(namespace), Some(rest)) = (labels.next(), labels.next(), labels.next()) else {
        bail!("{host} is no service of Kubernetes");
    };
    if !rest.starts_with("svc.") {
        bail!("{host} is no service of Kubernetes");
    }
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
    let service = patience.answer(&cluster.api_server(), services.get(name)).await?;
    let service = service.with_context(|| format!("reading service {namespace}/{name} of {}", cluster.name))?;
    let spec = service.spec.unwrap_or_default();
    let mut selector = spec.selector.clone().unwrap_or_default();
    let of_subset = destination["labels"].as_object().into_iter().flatten();
    selector.extend(of_subset.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())));
    if selector.is_empty() {
        bail!("service {namespace}/{name} of {} selects no pods", cluster.name);
    }
    let selector: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let selected = ListParams::default().labels(&selector.join(","));
    let mut listed = patience.answer(&cluster.api_server(), pods.list(&selected)).await??.items;
    let address: Option<SocketAddr> = endpoint["address"].as_str().and_then(|address| address.parse().ok());
    let direct = address.filter(|_| endpoint["throughGateway"] != json!(true)).map(|address| address.ip().to_string());
    let ip = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    listed.sort_by_key(|pod| (direct.is_some() && ip(pod) != direct, !running(pod), pod.name_any()));
    let pod = listed.into_iter().next();
    let pod = pod.with_context(|| format!("service {namespace}/{name} of {} has no pods", cluster.name))?;
    let number = destination["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    let target = spec.ports.iter().flatten().find(|port| port.port == i32::from(number));
    let port = target.and_then(|port| target_port(port.target_port.as_ref()?, &pod)).unwrap_or(number);
    Ok((pod, port))
}

/// Returns the port of a pod that a Service's port leads to.
fn target_port(target: &IntOrString, pod: &Pod) -> Option<u16> {
    match target {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let found = ports.find(|port| port.name.as_deref() == Some(name))?;
            u16::try_from(found.container_port).ok()
        }
    }
}

/// Returns the query for the page `/authz` of the destination's sidecar.
fn query(document: &Value, endpoint: &Value, request: &DescribedRequest<'_>, port: u16) -> String {
    let mut query = format!("/authz?port={port}");
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            _ = write!(query, "&{name}={}", escaped(value));
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if document["as"] == json!("request") {
        add("method", &request.args.method);
        let rest = request.args.url.split_once("://").map_or("", |(_, rest)| rest);
        let path = rest.find(['/', '?']).map_or("/", |at| &rest[at..]);
        add("path", path);
        add("host", request.authority);
        request.args.headers.iter().for_each(|header| add("header", header));
    }
    if endpoint["tls"] == json!("mutual") {
        let identity = text(&document["caller"]["identity"]);
        add("principal", identity.strip_prefix("spiffe://").unwrap_or(&identity));
        add("cluster", &text(&document["caller"]["cluster"]));
    }
    // A gateway's connections have an address of its own.
    if endpoint["throughGateway"] != json!(true) {
        add("source", &text(&document["caller"]["address"]));
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_application_is_found_by_number_or_name() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]}}))
        .unwrap();
        for (target, port) in [
            (IntOrString::Int(9090), Some(9090)),
            (IntOrString::String("http".into()), Some(8080)),
            (IntOrString::String("other".into()), None),
        ] {
            assert_eq!(target_port(&target, &pod), port, "{target:?}");
        }
    }
}
