//! From the wire's messages to the data path's own form. Each function says what is wrong with what it refuses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balance::{Health, Locality};
use identity::SpiffeId;
use policy::{PeerAuthentication, PeerMode};
use wire::discovery as message;

mod policies;

pub(super) use policies::policy;

use super::model::{
    Direct, Endpoint, Gateway, InboundPort, LogSettings, OutboundPolicy, Own, Port, Protocol, Reach, Service, Settings,
    WorkloadLabels,
};

type Result<T> = std::result::Result<T, String>;

pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr> {
    match bytes.len() {
        4 => Ok(IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default())),
        16 => Ok(IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()).to_canonical()),
        other => Err(format!("an address of {other} bytes; it has 4 or 16")),
    }
}

fn port_number(number: u32) -> Result<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{number} is not a port"))
}

fn spiffe(id: &str) -> Result<SpiffeId> {
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

fn labels(message: Option<&message::WorkloadLabels>) -> Arc<WorkloadLabels> {
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

/// A service as `cluster` sees it, without its endpoints.
pub(super) fn service(message: &message::Service, cluster: &str) -> Result<Service> {
    if message.hostname.is_empty() {
        return Err("it has no hostname".to_owned());
    }
    let mut ports = message
        .ports
        .iter()
        .map(|port| Ok(Port { number: port_number(port.number)?, protocol: protocol(port.protocol) }))
        .collect::<Result<Vec<_>>>()?;
    ports.sort_unstable_by_key(|port| port.number);
    // That of the own cluster first: it is what its DNS answers.
    let here = message.addresses.iter().filter(|address| address.cluster == cluster);
    let anywhere = message.addresses.iter().filter(|address| address.cluster.is_empty());
    let addresses = here.chain(anywhere).map(|address| ip(&address.ip)).collect::<Result<_>>()?;
    Ok(Service {
        hostname: message.hostname.as_str().into(),
        name: message.name.as_str().into(),
        namespace: message.namespace.as_str().into(),
        ports: ports.into(),
        addresses,
        headless: message.headless,
        endpoints: None,
    })
}

pub(super) fn endpoint(id: &str, message: &message::Endpoint) -> Result<Endpoint> {
    let health = match message.health() {
        message::Health::Ready => Health::Ready,
        message::Health::Unready => Health::Unready,
        message::Health::Draining => Health::Draining,
    };
    let (reach, weight) = match &message.kind {
        Some(message::endpoint::Kind::Direct(direct)) => {
            (Reach::Direct(Arc::new(self::direct(direct)?)), message.weight.max(1))
        }
        Some(message::endpoint::Kind::Summary(summary)) => {
            let identities = summary.identities.iter().map(|id| spiffe(id)).collect::<Result<_>>()?;
            let ports = summary.ports.iter().map(|port| port_number(*port)).collect::<Result<_>>()?;
            let weight = if summary.ready == 0 { 0 } else { message.weight.max(1) };
            (Reach::Gateways { identities, ports }, weight)
        }
        None => return Err("it is neither a pod nor a summary".to_owned()),
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

fn direct(message: &message::Direct) -> Result<Direct> {
    let ports = message
        .ports
        .iter()
        .map(|(service, pod)| Ok((port_number(*service)?, port_number(*pod)?)))
        .collect::<Result<_>>()?;
    let identity = if message.identity.is_empty() { None } else { Some(spiffe(&message.identity)?) };
    Ok(Direct {
        ip: ip(&message.ip)?,
        ports,
        identity,
        mutual_tls: message.mutual_tls,
        labels: labels(message.workload.as_ref()),
        pod: message.pod.as_str().into(),
    })
}

pub(super) fn own(message: &message::Workload) -> Result<Own> {
    let mut ports = message
        .ports
        .iter()
        .map(|port| {
            Ok(InboundPort {
                number: port_number(port.number)?,
                protocol: protocol(port.protocol),
                service: port.service.as_str().into(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    ports.sort_by_key(|port| port.number);
    ports.dedup_by_key(|port| port.number);
    Ok(Own {
        locality: locality(message.locality.as_ref()),
        labels: labels(message.labels.as_ref()),
        ports: ports.into(),
    })
}

pub(super) fn authentication(message: &message::PeerAuthentication) -> Result<PeerAuthentication> {
    let mode = |value: i32| match message::PeerMode::try_from(value) {
        Ok(message::PeerMode::Permissive) => Ok(PeerMode::Permissive),
        Ok(message::PeerMode::Strict) => Ok(PeerMode::Strict),
        Ok(message::PeerMode::Disable) => Ok(PeerMode::Disable),
        Err(_) => Err(format!("{value} is no mode")),
    };
    let ports = message
        .ports
        .iter()
        .map(|(port, value)| Ok((port_number(*port)?, mode(*value)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(PeerAuthentication::new(mode(message.mode)?, ports))
}

pub(super) fn gateways(message: &message::NetworkGateway) -> Result<Arc<[Gateway]>> {
    message
        .addresses
        .iter()
        .map(|gateway| {
            let address = SocketAddr::new(ip(&gateway.ip)?, port_number(gateway.port)?);
            Ok(Gateway { address, cluster: gateway.cluster.as_str().into() })
        })
        .collect()
}

pub(super) fn settings(message: &message::MeshConfig) -> Settings {
    let default = Settings::default();
    let asked = Duration::from_millis(message.connect_timeout_ms.into());
    Settings {
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
        log: LogSettings {
            file: message.access_log_file.as_str().into(),
            json: message.access_log_encoding() == message::AccessLogEncoding::Json,
            format: message.access_log_format.as_str().into(),
        },
        connect_timeout: if asked.is_zero() { default.connect_timeout } else { asked },
        detection_timeout: (message.protocol_detection_timeout_ms > 0)
            .then(|| Duration::from_millis(message.protocol_detection_timeout_ms.into())),
        locality_load_balancing: message.locality_load_balancing,
    }
}
