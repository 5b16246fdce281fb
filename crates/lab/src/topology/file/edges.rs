//! The edges of a mesh: gateways, certificates of their servers, and servers outside of the mesh.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_saphyr::Spanned;

/// `ingressGateway` or `egressGateway` of a cluster: `true`, or its settings.
#[derive(Debug)]
pub enum GatewayEntry {
    /// Whether there is a gateway, with the default settings.
    Enabled(bool),
    /// The settings of the gateway.
    Settings(GatewaySettings),
}

impl<'de> Deserialize<'de> for GatewayEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GatewayVisitor)
    }
}

struct GatewayVisitor;

impl<'de> Visitor<'de> for GatewayVisitor {
    type Value = GatewayEntry;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("true, false, or a map of namespace and ports")
    }

    fn visit_bool<E>(self, enabled: bool) -> Result<GatewayEntry, E> {
        Ok(GatewayEntry::Enabled(enabled))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GatewayEntry, A::Error> {
        GatewaySettings::deserialize(MapAccessDeserializer::new(map)).map(GatewayEntry::Settings)
    }
}

/// The settings of a gateway.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySettings {
    /// Default `istio-system`.
    pub namespace: Option<Spanned<String>>,
    /// Ports beside 80 and 443, or other settings of these.
    #[serde(default)]
    pub ports: Vec<Spanned<GatewayPortEntry>>,
}

/// A port of a gateway.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayPortEntry {
    /// Default `http2` for 80, `https` for 443, `tcp-<port>` for others.
    pub name: Option<Spanned<String>>,
    /// Port of the Service.
    pub port: Spanned<u16>,
    /// Port that the gateway binds. Default: the port, and 8000 more for ports below 1024.
    pub target_port: Option<Spanned<u16>>,
    /// Port of this machine's loopback. Default: any free one.
    pub host_port: Option<Spanned<u16>>,
}

/// An entry of `spec.external`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalEntry {
    /// Host name, such as `httpbin.example.com`.
    pub host: Spanned<String>,
    /// Default 80 without TLS and 443 with it.
    pub ports: Option<Spanned<Vec<Spanned<ExternalPortEntry>>>>,
}

/// A port of a server outside of the mesh.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalPortEntry {
    /// The port.
    pub port: Spanned<u16>,
    /// Whether the server speaks TLS. Default false.
    #[serde(default)]
    pub tls: bool,
}

/// An entry of `spec.certificates`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateEntry {
    /// Name of the Secret.
    pub secret: Spanned<String>,
    /// Default `istio-system`.
    pub namespace: Option<Spanned<String>>,
    /// Names of the certificate.
    pub hosts: Spanned<Vec<Spanned<String>>>,
    /// Default all clusters with a gateway in the namespace.
    pub clusters: Option<Vec<Spanned<String>>>,
}
