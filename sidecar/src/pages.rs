//! What the admin endpoint shows of a sidecar: what it was told, as it is used.

use std::sync::{Arc, OnceLock};

use runtime::admin::{Admin, Reply};
use serde_json::{Value, json};

use proxy::mesh::{Endpoint, Reach, Service, Shared, Snapshot};
use proxy::upstream::target;

/// What is published, once there is something.
pub(crate) type Known = Arc<OnceLock<Arc<Shared>>>;

/// Adds the pages.
pub(crate) fn add(admin: Admin, known: &Known) -> Admin {
    let (listing, dump) = (known.clone(), known.clone());
    admin
        .page("/clusters", "the services in use and their endpoints", move |_| {
            Reply::text(listing.get().map(|shared| clusters(&shared.newest())).unwrap_or_default())
        })
        .section("mesh", move || dump.get().map_or(Value::Null, |shared| config(&shared.newest())))
}

/// One line per endpoint of each service port, as Envoy's `/clusters` has them.
fn clusters(snapshot: &Snapshot) -> String {
    let mut lines = Vec::new();
    for service in snapshot.services.values() {
        for port in &service.ports {
            let cluster = format!("outbound|{}||{}", port.number, service.hostname);
            for choice in target::targets(service, port.number, snapshot) {
                let target = &choice.target;
                lines.push(format!(
                    "{cluster}::{}::{:?}::weight::{}::cluster::{}::locality::{}::{}\n",
                    target.address,
                    choice.health,
                    choice.weight,
                    target.cluster,
                    choice.locality,
                    match (&target.tls, target.remote) {
                        (None, _) => "plaintext",
                        (Some(_), false) => "mutual TLS",
                        (Some(_), true) => "mutual TLS through gateway",
                    }
                ));
            }
        }
    }
    lines.sort();
    lines.concat()
}

fn config(snapshot: &Snapshot) -> Value {
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    let own = snapshot.own.as_ref();
    json!({
        "meshId": &*snapshot.settings.mesh_id,
        "outboundPolicy": format!("{:?}", snapshot.settings.outbound_policy),
        "connectTimeoutMs": snapshot.settings.connect_timeout.as_millis() as u64,
        "workload": own.map(|own| json!({
            "name": &*own.labels.workload,
            "locality": own.locality.to_string(),
            "ports": own.ports.iter().map(|port| json!({
                "number": port.number,
                "protocol": format!("{:?}", port.protocol),
                "service": &*port.service,
            })).collect::<Vec<_>>(),
        })),
        "authentication": snapshot.authentication.as_ref().map(|found| format!("{:?}", found.mode)),
        "gateways": snapshot.gateways.iter().map(|(network, gateways)| {
            let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address.to_string()).collect();
            (network.to_string(), json!(addresses))
        }).collect::<serde_json::Map<_, _>>(),
        "services": services.into_iter().map(|found| service(found)).collect::<Vec<_>>(),
    })
}

fn service(service: &Service) -> Value {
    json!({
        "hostname": &*service.hostname,
        "addresses": service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ports": service.ports.iter().map(|port| format!("{} {:?}", port.number, port.protocol)).collect::<Vec<_>>(),
        "endpoints": service.endpoints.as_ref().map(|endpoints| endpoints.iter().map(endpoint).collect::<Vec<_>>()),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({
        "id": &*endpoint.id,
        "cluster": &*endpoint.cluster,
        "network": &*endpoint.network,
        "locality": endpoint.locality.to_string(),
        "health": format!("{:?}", endpoint.health),
        "weight": endpoint.weight,
    });
    match &endpoint.reach {
        Reach::Direct(direct) => {
            value["address"] = json!(direct.ip.to_string());
            value["identity"] = json!(direct.identity.as_ref().map(ToString::to_string));
            value["mutualTls"] = json!(direct.mutual_tls);
        }
        Reach::Gateways { identities, .. } => {
            value["identities"] = json!(identities.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
    value
}
