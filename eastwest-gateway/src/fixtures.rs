//! Messages for tests: a service `ratings` and its endpoints.

use std::sync::Arc;

use proxy::mesh::ProxyLocation;
use wire::Kind;
use wire::client::Store as _;
use wire::delta::{Body, Changed, Update};
use wire::discovery;
use wire::discovery::endpoint::Kind as EndpointKind;

use crate::store::RouteStore;

pub(crate) const RATINGS: &str = "ratings.default.svc.cluster.local";
pub(crate) const SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";

/// A pod of the service, behind service port 9080.
pub(crate) fn endpoint(cluster: &str, network: &str, ip: [u8; 4], port: u16) -> discovery::Endpoint {
    discovery::Endpoint {
        service: RATINGS.into(),
        cluster: cluster.into(),
        network: network.into(),
        weight: 1,
        kind: Some(EndpointKind::Direct(discovery::Direct {
            ip: ip.to_vec().into(),
            ports: [(9080, port.into())].into(),
            identity: "spiffe://cluster.local/ns/default/sa/ratings".into(),
            mutual_tls: true,
            workload: Some(discovery::WorkloadLabels { workload: "ratings-v1".into(), ..Default::default() }),
            labels: [("version".into(), "v1".into())].into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The service, exported by these clusters and networks.
pub(crate) fn service(exports: &[(&str, &str)]) -> discovery::Service {
    let subset =
        |version: &str| discovery::Subset { name: version.into(), labels: [("version".into(), version.into())].into() };
    discovery::Service {
        hostname: RATINGS.into(),
        name: "ratings".into(),
        namespace: "default".into(),
        ports: vec![discovery::Port { number: 9080, name: "http".into(), ..Default::default() }],
        exports: exports
            .iter()
            .map(|(cluster, network)| discovery::Export {
                cluster: (*cluster).into(),
                network: (*network).into(),
                ..Default::default()
            })
            .collect(),
        subsets: vec![subset("v1"), subset("v2")],
        ..Default::default()
    }
}

/// An empty store of the gateway of `net-east`.
pub(crate) fn store() -> RouteStore {
    RouteStore::new(location(), Arc::default())
}

pub(crate) fn location() -> ProxyLocation {
    ProxyLocation {
        cluster: "east".into(),
        network: "net-east".into(),
        namespace: "isthmus-system".into(),
        pod: "gateway".into(),
        ip: [10, 244, 0, 1].into(),
    }
}

/// The resource name of an endpoint in east.
pub(crate) fn endpoint_name(id: &str) -> String {
    wire::name::endpoint(RATINGS, "net-east", "east", id)
}

pub(crate) fn changed(name: &str, body: Body) -> Changed {
    Changed { name: name.into(), aliases: Vec::new(), body }
}

pub(crate) fn update(kind: Kind, changed: Vec<Changed>, removed: &[&str]) -> Update {
    Update { kind, changed, removed: removed.iter().map(|name| (*name).to_owned()).collect() }
}

pub(crate) fn push_service(store: &mut RouteStore, service: discovery::Service) {
    store.apply(update(Kind::Service, vec![changed(RATINGS, Body::Service(service))], &[])).unwrap();
}

pub(crate) fn push_endpoint(store: &mut RouteStore, id: &str, endpoint: discovery::Endpoint) {
    store.apply(update(Kind::Endpoint, vec![changed(id, Body::Endpoint(endpoint))], &[])).unwrap();
}
