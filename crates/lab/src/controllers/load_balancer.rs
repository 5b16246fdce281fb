//! Addresses for Services of type LoadBalancer: ten of each IP family per cluster, on the bridge between clusters. A
//! Service has one address of each of its families.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::reconcile::whenever_changed;
use super::retry::Retries;
use super::view::ClusterView;
use crate::topology::IpFamily;

/// An action for a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressAction {
    /// Assign these addresses.
    Assign(Vec<IpAddr>),
    /// Withdraw the addresses: the Service is not of type LoadBalancer any more.
    Withdraw,
    /// Refuse an address, with the reason.
    Refuse(String),
}

/// Returns the actions for all Services.
#[must_use]
pub fn decide(services: &[Arc<Service>], pool: &[IpAddr]) -> Vec<(Arc<Service>, AddressAction)> {
    let mut used: Vec<IpAddr> = Vec::new();
    let mut actions = Vec::new();
    let mut waiting: Vec<&Arc<Service>> = Vec::new();
    for service in services {
        let has = addresses_of(service);
        if !is_load_balancer(service) {
            if !has.is_empty() {
                actions.push((service.clone(), AddressAction::Withdraw));
            }
        } else if keeps(service, &has, pool) {
            used.extend(has);
        } else {
            waiting.push(service);
        }
    }
    // Services that request an address come first, so that no other Service is assigned that address.
    waiting.sort_by_key(|service| {
        (asked(service).is_none(), service.metadata.creation_timestamp.clone(), service.name_any())
    });
    for service in waiting {
        let action = choose(service, pool, &used).map_or_else(AddressAction::Refuse, AddressAction::Assign);
        if let AddressAction::Assign(addresses) = &action {
            used.extend(addresses);
        }
        actions.push((service.clone(), action));
    }
    actions
}

/// Chooses an address of each of a Service's families. An error is the reason why there is none.
fn choose(service: &Service, pool: &[IpAddr], used: &[IpAddr]) -> Result<Vec<IpAddr>, String> {
    let families = families_of(service, pool);
    let mut chosen = Vec::new();
    if let Some(text) = asked(service) {
        let address = text.parse::<IpAddr>().map_err(|_| format!("\"{text}\" is not an IP address"))?;
        if !families.iter().any(|family| family.has(address)) {
            return Err(format!("{text} is not of an IP family of the Service"));
        }
        if !pool.contains(&address) {
            let own: Vec<&IpAddr> = pool.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).collect();
            let range = own.first().zip(own.last()).map_or_else(String::new, |(a, b)| format!("{a} to {b}"));
            return Err(format!("{text} is not one of this cluster's addresses {range}"));
        }
        if used.contains(&address) {
            return Err(format!("{text} is in use by another Service"));
        }
        chosen.push(address);
    }
    for family in families {
        if chosen.iter().any(|address| family.has(*address)) {
            continue;
        }
        // The address that it has, if any, stays.
        let has = addresses_of(service).into_iter().filter(|address| pool.contains(address));
        let mut free =
            has.chain(pool.iter().rev().copied()).filter(|address| family.has(*address) && !used.contains(address));
        chosen.push(free.next().ok_or_else(|| format!("all {family} addresses of the cluster are in use"))?);
    }
    Ok(chosen)
}

/// Returns the families of a Service, or the cluster's first one for a Service without.
fn families_of(service: &Service, pool: &[IpAddr]) -> Vec<IpFamily> {
    let named = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<IpFamily> = named.filter_map(|name| IpFamily::named(name)).collect();
    if families.is_empty() {
        return IpFamily::ALL
            .into_iter()
            .filter(|family| pool.first().is_some_and(|first| family.has(*first)))
            .collect();
    }
    families
}

/// Reports whether a Service is of type LoadBalancer.
#[must_use]
pub fn is_load_balancer(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Returns the addresses that a Service has been assigned.
#[must_use]
pub fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

fn asked(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())
}

fn keeps(service: &Service, has: &[IpAddr], pool: &[IpAddr]) -> bool {
    let families = families_of(service, pool);
    has.len() == families.len()
        && families.iter().all(|family| has.iter().any(|address| family.has(*address)))
        && has.iter().all(|address| pool.contains(address))
        && asked(service).is_none_or(|text| text.parse().is_ok_and(|asked| has.contains(&asked)))
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>, pool: Vec<IpAddr>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &pool, &retries)).await;
}

async fn pass(
    client: &Client,
    view: &ClusterView,
    pool: &[IpAddr],
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
            AddressAction::Assign(addresses) => {
                addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect()
            }
            AddressAction::Withdraw => json!(null),
            AddressAction::Refuse(why) => {
                if !retries.has_failed(&key) {
                    let reason = "SyncLoadBalancerFailed";
                    super::record::event(client, service.object_ref(&()), "service-controller", "Warning", reason, why)
                        .await;
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
        let pool: Vec<IpAddr> = ["203.0.113.10", "203.0.113.11"].map(|ip| ip.parse().expect("an address")).to_vec();
        let assign = |ip: &str| AddressAction::Assign(vec![ip.parse().expect("an address")]);
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

    #[test]
    fn a_service_has_an_address_of_each_family() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let pool: Vec<IpAddr> =
            ["2001:db8:113::10", "2001:db8:113::11", "203.0.113.10", "203.0.113.11"].map(address).to_vec();
        let service = |families: &[&str], asks: Option<&str>, has: &[&str]| {
            let ingress: Vec<_> = has.iter().map(|ip| json!({"ip": ip})).collect();
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": "a", "namespace": "default"},
                "spec": {"type": "LoadBalancer", "loadBalancerIP": asks, "ipFamilies": families},
                "status": {"loadBalancer": {"ingress": ingress}},
            }))
            .expect("a service");
            decide(&[Arc::new(service)], &pool).into_iter().next().map(|(_, action)| action)
        };
        let assign = |ips: &[&str]| Some(AddressAction::Assign(ips.iter().map(|ip| address(ip)).collect()));
        let both = ["IPv4", "IPv6"];
        assert_eq!(service(&both, None, &[]), assign(&["203.0.113.11", "2001:db8:113::11"]));
        assert_eq!(service(&[], None, &[]), assign(&["2001:db8:113::11"]), "the cluster's first family");
        assert_eq!(service(&["IPv4"], None, &[]), assign(&["203.0.113.11"]));
        let asked = service(&both, Some("2001:db8:113::10"), &[]);
        assert_eq!(asked, assign(&["2001:db8:113::10", "203.0.113.11"]));
        assert_eq!(service(&both, None, &["203.0.113.10", "2001:db8:113::10"]), None, "kept");
        assert_eq!(service(&both, None, &["203.0.113.10"]), assign(&["203.0.113.10", "2001:db8:113::11"]));
        let refused = service(&["IPv4"], Some("2001:db8:113::10"), &[]);
        assert!(matches!(refused, Some(AddressAction::Refuse(why)) if why.contains("family")));
    }
}
