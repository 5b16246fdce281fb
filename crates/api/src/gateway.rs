//! Istio's Gateway (`networking.istio.io`), as far as this mesh acts on it: servers in mode AUTO_PASSTHROUGH say which
//! services may be reached from other networks. Servers in other modes open an ingress, which no component here serves;
//! they are accepted and reported.

use std::collections::BTreeMap;

use kube::core::{NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::Warning;
use crate::resource::resource;

/// A Gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    /// Name, namespace, labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it opens.
    #[serde(default)]
    pub spec: GatewaySpec,
}

/// What a Gateway opens, and at which gateway pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Labels of the gateway pods that it is for; empty: all.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Its servers.
    #[serde(default)]
    pub servers: Vec<Server>,
}

/// One port of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The port.
    #[serde(default)]
    pub port: Port,
    /// Hosts: `*.local`, `reviews.default.svc.cluster.local`, with or without a leading `<namespace>/`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// TLS settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its number.
    #[serde(default)]
    pub number: u32,
    /// `TLS`, `HTTP` and so on.
    #[serde(default)]
    pub protocol: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// TLS settings of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// The mode. `PASSTHROUGH` where absent.
    #[serde(default)]
    pub mode: TlsMode,
    /// Secret with a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<String>,
}

/// How a server treats TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// By SNI, according to a VirtualService.
    #[default]
    Passthrough,
    /// Terminated, server certificate only.
    Simple,
    /// Terminated, client certificate too.
    Mutual,
    /// By SNI of the form `outbound_.<port>_.<subset>_.<hostname>`, straight to the service.
    AutoPassthrough,
    /// Terminated with the mesh's certificate.
    IstioMutual,
    /// Terminated, client certificate asked for.
    OptionalMutual,
    /// A mode of some newer version.
    #[serde(other)]
    Unknown,
}

impl Server {
    /// Whether it lets services be reached by their SNI.
    pub fn is_auto_passthrough(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::AutoPassthrough)
    }
}

impl Gateway {
    /// Hosts of all servers in mode AUTO_PASSTHROUGH, in order.
    pub fn exported_hosts(&self) -> impl Iterator<Item = &str> {
        self.spec.servers.iter().filter(|s| s.is_auto_passthrough()).flat_map(|s| s.hosts.iter().map(String::as_str))
    }

    /// What of it has no effect.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (index, server) in self.spec.servers.iter().enumerate() {
            let field = |rest: &str| format!("spec.servers[{index}]{rest}");
            if !server.is_auto_passthrough() {
                let mode = server.tls.as_ref().map(|tls| tls.mode);
                let what = mode.map_or_else(|| "a server without tls".to_owned(), |mode| format!("mode {mode:?}"));
                warnings.push(Warning::new(
                    field(".tls.mode"),
                    format!(
                        "{what} opens an ingress, which this mesh does not serve; only AUTO_PASSTHROUGH has effect"
                    ),
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
    fn what_has_no_effect_is_said() {
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
        let fields: Vec<_> = gateway.warnings().into_iter().map(|w| w.field).collect();
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
