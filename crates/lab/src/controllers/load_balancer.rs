//! Addresses for Services of type LoadBalancer: ten per cluster, on the bridge between clusters.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::cache::ClusterView;
use super::reconcile::whenever_changed;
use super::retry::Retries;

/// An action for a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressAction {
    /// Assign this address.
    Assign(Ipv4Addr),
    /// Withdraw the address: the Service is not of type LoadBalancer any more.
    Withdraw,
    /// Refuse an address, with the reason.
    Refuse(String),
}

/// Returns the actions for all Services.
#[must_use]
pub fn decide(services: &[Arc<Service>], pool: &[Ipv4Addr]) -> Vec<(Arc<Service>, AddressAction)> {
    let mut used: Vec<Ipv4Addr> = Vec::new();
    let mut actions = Vec::new();
    let mut waiting: Vec<&Arc<Service>> = Vec::new();
    for service in services {
        let has = address_of(service);
        if !is_load_balancer(service) {
            if has.is_some() {
                actions.push((service.clone(), AddressAction::Withdraw));
            }
        } else if let Some(address) = has.filter(|has| keeps(service, *has, pool)) {
            used.push(address);
        } else {
            waiting.push(service);
        }
    }
    // Services that request an address come first, so that no other Service is assigned that address.
    waiting.sort_by_key(|service| {
        (asked(service).is_none(), service.metadata.creation_timestamp.clone(), service.name_any())
    });
    for service in waiting {
        let action = match asked(service) {
            Some(text) => match text.parse::<Ipv4Addr>() {
                Ok(address) if !pool.contains(&address) => AddressAction::Refuse(format!(
                    "{text} is not one of this cluster's addresses {}",
                    pool.first().zip(pool.last()).map_or_else(String::new, |(a, b)| format!("{a} to {b}"))
                )),
                Ok(address) if used.contains(&address) => {
                    AddressAction::Refuse(format!("{text} is in use by another Service"))
                }
                Ok(address) => AddressAction::Assign(address),
                Err(_) => AddressAction::Refuse(format!("\"{text}\" is not an IPv4 address")),
            },
            None => match pool.iter().rev().find(|address| !used.contains(address)) {
                Some(address) => AddressAction::Assign(*address),
                None => AddressAction::Refuse(format!("all {} addresses are in use", pool.len())),
            },
        };
        if let AddressAction::Assign(address) = &action {
            used.push(*address);
        }
        actions.push((service.clone(), action));
    }
    actions
}

/// Reports whether a Service is of type LoadBalancer.
#[must_use]
pub fn is_load_balancer(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Returns the address that a Service has been assigned.
#[must_use]
pub fn address_of(service: &Service) -> Option<Ipv4Addr> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    match ingress.first()?.ip.as_deref()?.parse().ok()? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn asked(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())
}

fn keeps(service: &Service, has: Ipv4Addr, pool: &[Ipv4Addr]) -> bool {
    pool.contains(&has) && asked(service).is_none_or(|text| text.parse() == Ok(has))
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>, pool: Vec<Ipv4Addr>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &pool, &retries)).await;
}

async fn pass(
    client: &Client,
    view: &ClusterView,
    pool: &[Ipv4Addr],
    retries: &tokio::sync::Mutex<Retries>,
) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    for (service, action) in decide(&view.services.list(), pool) {
        let key = service.uid().unwrap_or_default();
        if !retries.due(&key, started) {
            continue;
        }
        let ingress = match &action {
            AddressAction::Assign(address) => json!([{"ip": address.to_string(), "ipMode": "VIP"}]),
            AddressAction::Withdraw => json!(null),
            AddressAction::Refuse(why) => {
                if !retries.has_failed(&key) {
                    let reason = "SyncLoadBalancerFailed";
                    super::record::event(client, service.as_ref(), "service-controller", "Warning", reason, why).await;
                }
                retries.failed(&key, Instant::now());
                continue;
            }
        };
        let api: Api<Service> = Api::namespaced(client.clone(), &service.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        match api.patch_status(&service.name_any(), &PatchParams::default(), &patch).await {
            Ok(service) => {
                view.services.put(service);
                view.touch();
                retries.succeeded(&key);
            }
            Err(error) => {
                let error = client_error::describe(&error);
                tracing::debug!(service = service.name_any(), error, "cannot write a load balancer address");
                retries.failed(&key, Instant::now());
            }
        }
    }
    retries.next(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, kind: &str, asks: Option<&str>, has: Option<&str>) -> Arc<Service> {
        let ingress = has.map(|ip| json!([{"ip": ip}]));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"type": kind, "loadBalancerIP": asks},
                "status": {"loadBalancer": {"ingress": ingress}},
            }))
            .expect("a service"),
        )
    }

    #[test]
    fn addresses() {
        let pool: Vec<Ipv4Addr> = ["203.0.113.10", "203.0.113.11"].map(|ip| ip.parse().expect("an address")).to_vec();
        let assign = |ip: &str| AddressAction::Assign(ip.parse().expect("an address"));
        let lb = "LoadBalancer";
        type Case<'a> = (Vec<Arc<Service>>, Vec<(&'a str, Option<AddressAction>)>);
        let cases: Vec<Case<'_>> = vec![
            (vec![service("a", lb, None, None)], vec![("a", Some(assign("203.0.113.11")))]),
            (vec![service("a", lb, Some("203.0.113.10"), None)], vec![("a", Some(assign("203.0.113.10")))]),
            (
                vec![service("a", lb, None, None), service("b", lb, Some("203.0.113.11"), None)],
                vec![("b", Some(assign("203.0.113.11"))), ("a", Some(assign("203.0.113.10")))],
            ),
            (vec![service("a", lb, None, Some("203.0.113.10"))], vec![]),
            (
                vec![service("a", lb, Some("203.0.113.11"), Some("203.0.113.10"))],
                vec![("a", Some(assign("203.0.113.11")))],
            ),
            (vec![service("a", "ClusterIP", None, Some("203.0.113.10"))], vec![("a", Some(AddressAction::Withdraw))]),
            (vec![service("a", lb, Some("192.0.2.1"), None)], vec![("a", None)]),
            (vec![service("a", lb, Some("here"), None)], vec![("a", None)]),
            (
                vec![
                    service("a", lb, None, Some("203.0.113.10")),
                    service("b", lb, None, Some("203.0.113.11")),
                    service("c", lb, None, None),
                ],
                vec![("c", None)],
            ),
        ];
        for (services, expected) in cases {
            let got = decide(&services, &pool);
            assert_eq!(got.len(), expected.len(), "{got:?}");
            for ((service, action), (name, wanted)) in got.iter().zip(&expected) {
                assert_eq!(service.name_any(), *name);
                match wanted {
                    Some(wanted) => assert_eq!(action, wanted),
                    None => assert!(matches!(action, AddressAction::Refuse(_)), "{action:?}"),
                }
            }
        }
    }
}
