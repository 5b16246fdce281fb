//! What gateways know of the proxies in front of them: `gatewayTopology` of Istio's proxy configuration.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MeshConfigError;
use super::fields::SettingFields;

/// The annotation of a pod with its proxy configuration, as YAML.
pub const PROXY_CONFIG_ANNOTATION: &str = "proxy.istio.io/config";

/// The longest annotation that is read.
const MAX_ANNOTATION: usize = 16 << 10;

/// The settings of a gateway, or of all gateways. A field that is not set is that of the mesh settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatewayTopology {
    /// `numTrustedProxies`: the number of addresses at the end of `x-forwarded-for` that are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<u32>,
    /// `forwardClientCertDetails`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_client_cert: Option<ForwardClientCert>,
    /// `proxyProtocol`: connections begin with a header of the PROXY protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<bool>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// It is removed.
    Sanitize,
    /// It is forwarded if the connection is mutual TLS.
    ForwardOnly,
    /// The client's certificate is appended.
    AppendForward,
    /// It is replaced by the client's certificate.
    SanitizeSet,
    /// It is forwarded.
    AlwaysForwardOnly,
}

const FORMS: [&str; 6] =
    ["UNDEFINED", "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"];

impl GatewayTopology {
    /// Reads the fields, and removes them.
    pub(super) fn read(fields: &mut SettingFields) -> Result<Self, MeshConfigError> {
        const PROXIES: &str = "a number of proxies, at most 100";
        const EXPECTED: &str = "SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET or ALWAYS_FORWARD_ONLY";
        let trusted_proxies = match fields.take("numTrustedProxies") {
            None => None,
            Some(value) => match value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|of| *of <= 100) {
                Some(count) => Some(count),
                None => return Err(fields.wrong("numTrustedProxies", &value, PROXIES)),
            },
        };
        let forward_client_cert = match fields.word("forwardClientCertDetails", &FORMS, EXPECTED)? {
            Some("SANITIZE") => Some(ForwardClientCert::Sanitize),
            Some("FORWARD_ONLY") => Some(ForwardClientCert::ForwardOnly),
            Some("APPEND_FORWARD") => Some(ForwardClientCert::AppendForward),
            Some("SANITIZE_SET") => Some(ForwardClientCert::SanitizeSet),
            Some("ALWAYS_FORWARD_ONLY") => Some(ForwardClientCert::AlwaysForwardOnly),
            _ => None,
        };
        // The setting is a message, whose presence enables it.
        let proxy_protocol = fields.take("proxyProtocol").map(|_| true);
        Ok(GatewayTopology { trusted_proxies, forward_client_cert, proxy_protocol })
    }

    /// Reads a pod's annotation [`PROXY_CONFIG_ANNOTATION`]. Returns `None` if it sets nothing, or cannot be read.
    pub fn of_annotation(text: &str) -> Option<Self> {
        // Nearly all annotations have other settings.
        if text.len() > MAX_ANNOTATION || !text.contains("gatewayTopology") {
            return None;
        }
        let config: Value = crate::yaml::from_str(text).ok()?;
        let map = config.get("gatewayTopology")?.as_object()?.clone();
        let read = Self::read(&mut SettingFields { path: String::new(), map }).ok()?;
        (read != Self::default()).then_some(read)
    }

    /// Returns these settings, with those of `defaults` in place of unset ones.
    pub fn or(self, defaults: Self) -> Self {
        GatewayTopology {
            trusted_proxies: self.trusted_proxies.or(defaults.trusted_proxies),
            forward_client_cert: self.forward_client_cert.or(defaults.forward_client_cert),
            proxy_protocol: self.proxy_protocol.or(defaults.proxy_protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_takes_precedence_over_the_mesh_settings() {
        let text = "concurrency: 2\ngatewayTopology: {numTrustedProxies: 2, proxyProtocol: {}}";
        let pod = GatewayTopology::of_annotation(text).unwrap();
        let mesh = crate::mesh::MeshConfig::parse(
            "defaultConfig: {gatewayTopology: {numTrustedProxies: 1, forwardClientCertDetails: SANITIZE, other: 1}}",
        );
        let (mesh, warnings) = mesh.unwrap();
        assert_eq!(warnings[0].field, "defaultConfig.gatewayTopology.other");
        let expected = GatewayTopology {
            trusted_proxies: Some(2),
            forward_client_cert: Some(ForwardClientCert::Sanitize),
            proxy_protocol: Some(true),
        };
        assert_eq!(pod.or(mesh.gateway_topology), expected);
        for text in
            ["gatewayTopology: {numTrustedProxies: -1}", "gatewayTopology: 3", "concurrency: 2", "gatewayTopology: ["]
        {
            assert_eq!(GatewayTopology::of_annotation(text), None, "{text}");
        }
        let refused = crate::mesh::MeshConfig::parse("defaultConfig: {gatewayTopology: {numTrustedProxies: 1000}}");
        assert!(refused.unwrap_err().to_string().contains("defaultConfig.gatewayTopology.numTrustedProxies"));
    }
}
