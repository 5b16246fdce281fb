//! Istio's Gateway (`networking.istio.io`), as far as it has effect: servers with TLS mode AUTO_PASSTHROUGH export
//! services to other networks. Servers of other modes configure an ingress, which is not supported; they are accepted
//! with a warning.

use std::collections::BTreeMap;

use kube::core::{NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::Warning;
use crate::resource::resource;

/// Istio's Gateway resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    /// The metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The spec.
    #[serde(default)]
    pub spec: GatewaySpec,
}

/// The spec of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The labels of the gateway pods to configure; empty: all.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// The servers.
    #[serde(default)]
    pub servers: Vec<Server>,
}

/// A server of a Gateway: a port and the hosts that it serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The port.
    #[serde(default)]
    pub port: Port,
    /// The hosts: `*.local`, `reviews.default.svc.cluster.local`, with or without a leading `<namespace>/`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The TLS settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The port of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The number.
    #[serde(default)]
    pub number: u32,
    /// The protocol: `TLS`, `HTTP` and so on.
    #[serde(default)]
    pub protocol: String,
    /// The name.
    #[serde(default)]
    pub name: String,
}

/// TLS settings of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// The mode; `PASSTHROUGH` if absent.
    #[serde(default)]
    pub mode: TlsMode,
    /// The name of the Secret with the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<String>,
}

/// The TLS mode of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Forward by SNI, as a VirtualService says.
    #[default]
    Passthrough,
    /// Terminate TLS with a server certificate.
    Simple,
    /// Terminate TLS and require a client certificate.
    Mutual,
    /// Forward by SNI of the form `outbound_.<port>_.<subset>_.<hostname>` to that service.
    AutoPassthrough,
    /// Terminate TLS with the mesh's certificate.
    IstioMutual,
    /// Terminate TLS and request a client certificate.
    OptionalMutual,
    /// A mode that this version does not know.
    #[serde(other)]
    Unknown,
}

impl TlsMode {
    fn description(self) -> &'static str {
        match self {
            Self::Passthrough => "mode PASSTHROUGH",
            Self::Simple => "mode SIMPLE",
            Self::Mutual => "mode MUTUAL",
            Self::AutoPassthrough => "mode AUTO_PASSTHROUGH",
            Self::IstioMutual => "mode ISTIO_MUTUAL",
            Self::OptionalMutual => "mode OPTIONAL_MUTUAL",
            Self::Unknown => "an unknown mode",
        }
    }
}

impl Server {
    /// Returns whether the server forwards by SNI (AUTO_PASSTHROUGH).
    pub fn is_auto_passthrough(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::AutoPassthrough)
    }
}

impl Gateway {
    /// Returns the hosts of all servers with mode AUTO_PASSTHROUGH, in order.
    pub fn exported_hosts(&self) -> impl Iterator<Item = &str> {
        self.spec.servers.iter().filter(|s| s.is_auto_passthrough()).flat_map(|s| s.hosts.iter().map(String::as_str))
    }

    /// Returns a warning for each field without effect.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (index, server) in self.spec.servers.iter().enumerate() {
            let field = |rest: &str| format!("spec.servers[{index}]{rest}");
            if !server.is_auto_passthrough() {
                let what = server.tls.as_ref().map_or("a server without tls", |tls| tls.mode.description());
                warnings.push(Warning::new(
                    field(".tls.mode"),
                    format!("{what} configures an ingress, which is not supported; only AUTO_PASSTHROUGH has effect"),
                ));
                continue;
            }
            if server.tls.as_ref().is_some_and(|tls| tls.credential_name.is_some()) {
                warnings.push(Warning::new(
                    field(".tls.credentialName"),
                    "is not used in mode AUTO_PASSTHROUGH: the gateway does not open the connection",
                ));
            }
            if !matches!(server.port.protocol.to_ascii_uppercase().as_str(), "TLS" | "HTTPS") {
                warnings.push(Warning::new(field(".port.protocol"), "should be TLS in mode AUTO_PASSTHROUGH"));
            }
            if server.port.number != 15443 {
                warnings.push(Warning::new(
                    field(".port.number"),
                    "the gateway listens on 15443; other numbers have no effect",
                ));
            }
            if server.hosts.is_empty() {
                warnings.push(Warning::new(field(".hosts"), "is empty, so nothing is exported by it"));
            }
        }
        warnings
    }
}

resource!(Gateway, "networking.istio.io", "v1beta1", "Gateway", "gateways", NamespaceResourceScope);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_sample_exports_everything_local() {
        // samples/multicluster/expose-services.yaml
        let text = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: cross-network-gateway
spec:
  selector:
    istio: eastwestgateway
  servers:
    - port:
        number: 15443
        name: tls
        protocol: TLS
      tls:
        mode: AUTO_PASSTHROUGH
      hosts:
        - "*.local"
"#;
        let gateway: Gateway = crate::yaml::from_str(text).unwrap();
        assert_eq!(gateway.exported_hosts().collect::<Vec<_>>(), ["*.local"]);
        assert_eq!(gateway.warnings(), []);
    }

    #[test]
    fn fields_without_effect_have_warnings() {
        let text = r#"
spec:
  servers:
    - {port: {number: 443, protocol: HTTPS, name: https}, hosts: [a.example], tls: {mode: SIMPLE, credentialName: x}}
    - {port: {number: 80, protocol: HTTP, name: http}, hosts: [a.example]}
    - {port: {number: 8443, protocol: HTTP}, tls: {mode: AUTO_PASSTHROUGH, credentialName: x}}
    - {port: {number: 1, protocol: TLS}, tls: {mode: SOMETHING_NEW}}
"#;
        let gateway: Gateway = crate::yaml::from_str(text).unwrap();
        assert_eq!(gateway.exported_hosts().count(), 0);
        let warnings = gateway.warnings();
        let text = "mode SIMPLE configures an ingress, which is not supported; only AUTO_PASSTHROUGH has effect";
        assert_eq!(warnings[0].message, text);
        let fields: Vec<_> = warnings.into_iter().map(|warning| warning.field).collect();
        assert_eq!(
            fields,
            [
                "spec.servers[0].tls.mode",
                "spec.servers[1].tls.mode",
                "spec.servers[2].tls.credentialName",
                "spec.servers[2].port.protocol",
                "spec.servers[2].port.number",
                "spec.servers[2].hosts",
                "spec.servers[3].tls.mode",
            ]
        );
    }
}
