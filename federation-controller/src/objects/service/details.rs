//! What imports of a service have beside what the mesh uses of it.

use serde::{Deserialize, Serialize};

use super::{PortSpec, ServiceSpec};
use crate::objects::intern::Strings;
use crate::objects::{Text, fields};

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// Returns the protocol of a port, which is TCP if it has none; `None` for an unknown one.
    pub(in crate::objects) fn of(protocol: Option<&str>) -> Option<Self> {
        match protocol.unwrap_or_default() {
            "" | "TCP" => Some(Transport::Tcp),
            "UDP" => Some(Transport::Udp),
            "SCTP" => Some(Transport::Sctp),
            _ => None,
        }
    }

    /// Returns the protocol as objects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
        }
    }
}

/// An IP family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Returns the family as objects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        }
    }
}

/// A port of any protocol, as the service declares it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeclaredPort {
    /// The name; empty if the only port has none.
    pub name: Text,
    /// The transport protocol.
    pub transport: Transport,
    /// The number.
    pub number: u16,
    /// `appProtocol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Text>,
}

/// Fields of a service that few services have, for its imports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceDetails {
    /// All ports; empty: those of the service, which are all TCP and have no `appProtocol`.
    #[serde(default, skip_serializing_if = "<[DeclaredPort]>::is_empty")]
    pub ports: Box<[DeclaredPort]>,
    /// `sessionAffinity: ClientIP`.
    #[serde(default)]
    pub client_ip: bool,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// `trafficDistribution`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<Text>,
    /// `ipFamilies`; empty: IPv4.
    #[serde(default, skip_serializing_if = "<[IpFamily]>::is_empty")]
    pub ip_families: Box<[IpFamily]>,
}

impl ServiceDetails {
    /// Returns the fields of a service; `None` if it has none of them.
    pub(super) fn of(spec: &ServiceSpec) -> Option<Self> {
        let plain = |port: &PortSpec| fields::is_tcp(port.protocol.as_deref()) && port.app_protocol.is_none();
        let ports = spec.ports.iter().take(fields::MAX_PORTS);
        let families = spec.ip_families.iter().take(2).filter_map(|family| match family.as_str() {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        });
        let families: Vec<IpFamily> = families.collect();
        let client_ip = spec.session_affinity == "ClientIP";
        let details = ServiceDetails {
            ports: match ports.clone().all(plain) {
                true => Box::default(),
                false => ports.filter_map(declared).collect(),
            },
            client_ip,
            timeout_seconds: spec.session_affinity_config.client_ip.timeout_seconds.filter(|_| client_ip),
            traffic_distribution: spec
                .traffic_distribution
                .as_deref()
                .filter(|value| value.len() <= fields::MAX_LABEL)
                .map(Into::into),
            ip_families: if families == [IpFamily::V4] { Box::default() } else { families.into() },
        };
        (details != ServiceDetails::default()).then_some(details)
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.ports.len() * (size_of::<DeclaredPort>() + fields::MAX_LABEL)
    }

    pub(super) fn intern(&mut self, strings: &mut Strings) {
        for port in &mut self.ports {
            strings.text(&mut port.name);
            strings.option(&mut port.app_protocol);
        }
        strings.option(&mut self.traffic_distribution);
    }
}

fn declared(port: &PortSpec) -> Option<DeclaredPort> {
    Some(DeclaredPort {
        name: port.name.as_deref().filter(|name| name.len() <= fields::MAX_LABEL).unwrap_or_default().into(),
        transport: Transport::of(port.protocol.as_deref())?,
        number: fields::port(port.port)?,
        app_protocol: port.app_protocol.as_deref().filter(|of| of.len() <= fields::MAX_LABEL_KEY).map(Into::into),
    })
}
