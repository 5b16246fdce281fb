//! Conversion of the wire's messages into the data path's form. Each function returns a sentence on what is invalid.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balance::{Health, Locality};
use identity::SpiffeId;
use policy::{PeerAuthenticationLayer, PeerMode};
use telemetry::access_log::Format;
use wire::discovery as message;

mod authentication;
mod destination;
mod external;
mod federation;
mod policies;
mod rate_limits;
mod routes;
mod workload;

pub(super) use authentication::request_authentication;
pub(super) use destination::{DestinationVariants, destination};
pub(super) use policies::policy;
pub(super) use rate_limits::RateLimitPolicy;
pub(super) use routes::{Client, routes};
pub(super) use workload::{PortLimits, own_workload};

use super::model::{
    DirectEndpoint, Endpoint, Export, GatewayAddress, Port, Protocol, Reach, Service, Subset, Summary, WorkloadLabels,
};
use super::snapshot::{AccessLogSettings, AddressBlock, DETECTION_TIMEOUT, MeshSettings, OutboundPolicy};
use super::{ProxyLocation, entry};
use crate::http::PathNormalization;

pub(super) type Result<T> = std::result::Result<T, String>;

pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr> {
    let ip = wire::name::ip_of_bytes(bytes);
    ip.map(|ip| ip.to_canonical()).ok_or_else(|| format!("an address has {} bytes instead of 4 or 16", bytes.len()))
}

pub(super) fn port_number(number: u32) -> Result<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{number} is not a port"))
}

pub(super) fn spiffe(id: &str) -> Result<SpiffeId> {
    id.parse().map_err(|error: identity::SpiffeError| error.to_string())
}

fn protocol(value: i32) -> Protocol {
    match message::Protocol::try_from(value).unwrap_or_default() {
        message::Protocol::Unspecified => Protocol::Unknown,
        message::Protocol::Http => Protocol::Http,
        message::Protocol::Http2 => Protocol::Http2,
        message::Protocol::Grpc => Protocol::Grpc,
        message::Protocol::Tcp | message::Protocol::Tls => Protocol::Tcp,
    }
}

fn locality(message: Option<&message::Locality>) -> Locality {
    message.map(|l| Locality::new(&l.region, &l.zone, &l.subzone)).unwrap_or_default()
}

fn workload_labels(message: Option<&message::WorkloadLabels>) -> Arc<WorkloadLabels> {
    let Some(labels) = message else { return Arc::default() };
    Arc::new(WorkloadLabels {
        workload: labels.workload.as_str().into(),
        namespace: labels.namespace.as_str().into(),
        app: labels.app.as_str().into(),
        version: labels.version.as_str().into(),
        canonical_service: labels.canonical_service.as_str().into(),
        canonical_revision: labels.canonical_revision.as_str().into(),
    })
}

/// Returns labels ordered by key.
pub(super) fn labels(message: &BTreeMap<String, String>) -> Box<[(Box<str>, Box<str>)]> {
    message.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// Converts a service as a proxy at this location sees it, without its endpoints, unless it is of a ServiceEntry.
pub(super) fn service(message: &message::Service, location: &ProxyLocation) -> Result<Service> {
    if message.hostname.is_empty() {
        return Err("the service has no hostname".to_owned());
    }
    let mut ports = message.ports.iter().map(port).collect::<Result<Vec<_>>>()?;
    ports.sort_unstable_by_key(|port| port.number);
    // The cluster's own addresses come first: DNS answers with them.
    let of = |cluster: &str| {
        let cluster = cluster.to_owned();
        message.addresses.iter().filter(move |address| address.cluster == cluster)
    };
    let own_addresses = of(&location.cluster).count();
    let addresses = of(&location.cluster).chain(of("")).map(|address| ip(&address.ip)).collect::<Result<_>>()?;
    let export = |export: &message::Export| {
        Ok(Export {
            cluster: export.cluster.as_str().into(),
            network: export.network.as_str().into(),
            sources: export.sources.as_ref().map(federation::sources).transpose()?,
        })
    };
    let subset =
        |subset: &message::Subset| Subset { name: subset.name.as_str().into(), labels: labels(&subset.labels) };
    let mut service = Service {
        hostname: message.hostname.as_str().into(),
        name: message.name.as_str().into(),
        namespace: message.namespace.as_str().into(),
        ports: ports.into(),
        addresses,
        own_addresses,
        exports: message.exports.iter().map(export).collect::<Result<_>>()?,
        subsets: message.subsets.iter().map(subset).collect(),
        headless: message.headless,
        clusterset: message.clusterset,
        endpoints: None,
        routes: None,
        policy: Arc::default(),
        entry: None,
    };
    if let Some(of) = &message.entry {
        entry::add(&mut service, of, &location.network)?;
    }
    Ok(service)
}

fn port(message: &message::Port) -> Result<Port> {
    let server_name = |name: &String| name.trim_end_matches('.').to_ascii_lowercase().into();
    Ok(Port {
        number: port_number(message.number)?,
        name: message.name.as_str().into(),
        protocol: protocol(message.protocol),
        server_names: message.server_names.iter().map(server_name).collect(),
    })
}

/// Converts an endpoint for a proxy with this address.
pub(super) fn endpoint(id: &str, message: &message::Endpoint, own: IpAddr) -> Result<Endpoint> {
    let health = match message.health() {
        message::Health::Ready => Health::Ready,
        message::Health::Unready => Health::Unready,
        message::Health::Draining => Health::Draining,
    };
    let (reach, weight) = match &message.kind {
        Some(message::endpoint::Kind::Direct(direct)) => {
            (Reach::Direct(Arc::new(self::direct(direct, own)?)), message.weight.max(1))
        }
        Some(message::endpoint::Kind::Summary(summary)) => {
            let weight = if summary.ready == 0 { 0 } else { message.weight.max(1) };
            (Reach::Gateways(self::summary(summary)?), weight)
        }
        None => return Err("the endpoint is neither direct nor a summary".to_owned()),
    };
    Ok(Endpoint {
        id: id.into(),
        cluster: message.cluster.as_str().into(),
        network: message.network.as_str().into(),
        locality: locality(message.locality.as_ref()),
        health,
        weight,
        reach,
    })
}

fn summary(message: &message::Summary) -> Result<Summary> {
    Ok(Summary {
        identities: message.identities.iter().map(|id| spiffe(id)).collect::<Result<_>>()?,
        ports: message.ports.iter().map(|port| port_number(*port)).collect::<Result<_>>()?,
        subset: message.subset.as_str().into(),
    })
}

fn direct(message: &message::Direct, own: IpAddr) -> Result<DirectEndpoint> {
    let ports = message
        .ports
        .iter()
        .map(|(service, pod)| Ok((port_number(*service)?, port_number(*pod)?)))
        .collect::<Result<_>>()?;
    let identity = if message.identity.is_empty() { None } else { Some(spiffe(&message.identity)?) };
    let mut addresses = (ip(&message.ip)?, None);
    for further in &message.further_ips {
        let further = ip(further)?;
        if further.is_ipv4() != addresses.0.is_ipv4() {
            addresses.1.get_or_insert(further);
        }
    }
    // The own family, which this pod has; the endpoint's other one, it may not have.
    if let (first, Some(further)) = addresses
        && further.is_ipv4() == own.is_ipv4()
    {
        addresses = (further, Some(first));
    }
    let pod: Arc<str> = message.pod.as_str().into();
    Ok(DirectEndpoint {
        ip: addresses.0,
        further_ip: addresses.1,
        ports,
        identity,
        mutual_tls: message.mutual_tls,
        plaintext_ports: message.plaintext_ports.iter().map(|port| port_number(*port)).collect::<Result<_>>()?,
        workload: workload_labels(message.workload.as_ref()),
        labels: labels(&message.labels),
        hostname: if message.pod_hostname == message.pod { pod.clone() } else { message.pod_hostname.as_str().into() },
        node: message.node.as_str().into(),
        only_node: message.node_local.then(|| message.node.as_str().into()),
        pod,
    })
}

pub(super) fn authentication(message: &message::PeerAuthentication) -> Result<PeerAuthenticationLayer> {
    let mode = |value: i32| match message::PeerMode::try_from(value) {
        Ok(message::PeerMode::Permissive) => Ok(Some(PeerMode::Permissive)),
        Ok(message::PeerMode::Strict) => Ok(Some(PeerMode::Strict)),
        Ok(message::PeerMode::Disable) => Ok(Some(PeerMode::Disable)),
        Ok(message::PeerMode::Unset) => Ok(None),
        Err(_) => Err(format!("{value} is not a mutual TLS mode")),
    };
    let ports = message
        .ports
        .iter()
        .filter_map(|(port, value)| match (port_number(*port), mode(*value)) {
            (Ok(port), Ok(mode)) => mode.map(|mode| Ok((port, mode))),
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
        })
        .collect::<Result<_>>()?;
    Ok(PeerAuthenticationLayer { mode: mode(message.mode)?, ports })
}

/// Converts the gateways of a network for a proxy with this address. Of a cluster with gateway addresses of both families,
/// the proxy's own family is used: it may not have the other one.
pub(super) fn gateways(message: &message::NetworkGateway, own: IpAddr) -> Result<Arc<[GatewayAddress]>> {
    let gateway = |gateway: &message::GatewayAddress| {
        let address = SocketAddr::new(ip(&gateway.ip)?, port_number(gateway.port)?);
        Ok(GatewayAddress { address, cluster: gateway.cluster.as_str().into() })
    };
    let all = message.addresses.iter().map(gateway).collect::<Result<Vec<_>>>()?;
    let is_own = |gateway: &GatewayAddress| gateway.address.is_ipv4() == own.is_ipv4();
    let with_own: HashSet<_> = all.iter().filter(|of| is_own(of)).map(|gateway| gateway.cluster.clone()).collect();
    Ok(all.into_iter().filter(|gateway| is_own(gateway) || !with_own.contains(&gateway.cluster)).collect())
}

/// Converts the mesh-wide settings for a proxy of this cluster.
pub(super) fn settings(message: &message::MeshConfig, own: &str) -> Result<MeshSettings> {
    let default = MeshSettings::default();
    let json = message.access_log_encoding() == message::AccessLogEncoding::Json;
    if !message.access_log_format.is_empty() {
        let parse = if json { Format::json } else { Format::text };
        parse(&message.access_log_format).map_err(|error| error.to_string())?;
    }
    let millis = |millis: u32| (millis > 0).then(|| Duration::from_millis(millis.into()));
    Ok(MeshSettings {
        mesh_id: message.mesh_id.as_str().into(),
        cluster_domain: if message.cluster_domain.is_empty() {
            default.cluster_domain
        } else {
            message.cluster_domain.as_str().into()
        },
        outbound_policy: match message.outbound_policy() {
            message::OutboundPolicy::AllowAny => OutboundPolicy::AllowAny,
            message::OutboundPolicy::RegistryOnly => OutboundPolicy::RegistryOnly,
        },
        log: AccessLogSettings {
            file: message.access_log_file.as_str().into(),
            json,
            format: message.access_log_format.as_str().into(),
        },
        configured_connect_timeout: millis(message.connect_timeout_ms),
        detection_timeout: millis(message.protocol_detection_timeout_ms).unwrap_or(DETECTION_TIMEOUT),
        locality_load_balancing: message.locality_load_balancing,
        path_normalization: match message::PathNormalization::try_from(message.path_normalization) {
            Ok(message::PathNormalization::Base) => PathNormalization::Base,
            Ok(message::PathNormalization::None) => PathNormalization::None,
            Ok(message::PathNormalization::MergeSlashes) => PathNormalization::MergeSlashes,
            Ok(message::PathNormalization::DecodeAndMergeSlashes) => PathNormalization::DecodeAndMergeSlashes,
            Err(_) => return Err(format!("{} is not a form of paths", message.path_normalization)),
        },
        entries: message.entries,
        wildcard_entries: message.wildcard_entries,
        address_blocks: {
            let block = |of: &message::AddressBlock| {
                Ok(AddressBlock {
                    ip: ip(&of.ip)?,
                    length: u8::try_from(of.length).map_err(|_| format!("{} is no number of bits", of.length))?,
                    hostname: of.hostname.as_str().into(),
                })
            };
            let mut blocks = message.address_blocks.iter().map(block).collect::<Result<Vec<_>>>()?;
            blocks.sort_by_key(|block| std::cmp::Reverse(block.length));
            blocks.into()
        },
        drained: {
            let for_own =
                message.drained.iter().filter(|of| of.cluster != own && of.viewers.iter().any(|of| of == own));
            for_own.map(|of| of.cluster.as_str().into()).collect()
        },
        path_interval: millis(message.path_interval_ms).unwrap_or(default.path_interval),
    })
}
