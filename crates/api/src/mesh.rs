//! Mesh-wide settings: the YAML under key `mesh` of ConfigMap `istio` in the root namespace (Istio's MeshConfig).
//!
//! Istio's settings without effect in Isthmus are accepted with a warning, so that an existing ConfigMap works unchanged.
//! `federation.exportAll` and `federation.lease` are settings of Isthmus alone.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::Warning;
use crate::networking::problem::Problem;
use crate::networking::traffic_policy::TrafficPolicy;
pub use crate::proxy_settings::ProxySettings;

mod fields;
pub mod operator;
mod providers;
mod proxy_settings;
mod topology;

use fields::{AT_LEAST_1MS, AT_LEAST_10S, SettingFields, ZERO_OR_AT_LEAST_1MS, kind};
pub use providers::{CheckedBody, ExternalAuthorization, HttpCheck};
pub use topology::{ForwardClientCert, GatewayTopology, PROXY_CONFIG_ANNOTATION};

/// The mesh-wide settings.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {
    /// `meshId`, or `defaultConfig.meshId`.
    pub mesh_id: String,
    /// `trustDomain`; `None`: the controller's option decides.
    pub trust_domain: Option<String>,
    /// `outboundTrafficPolicy.mode: REGISTRY_ONLY`.
    pub registry_only: bool,
    /// `accessLogFile`; empty: no access log.
    pub access_log_file: String,
    /// `accessLogEncoding: JSON`.
    pub access_log_json: bool,
    /// `accessLogFormat`; empty: the default format.
    pub access_log_format: String,
    /// `connectTimeout`; `None`: the proxy's default.
    pub connect_timeout: Option<Duration>,
    /// `protocolDetectionTimeout`; zero, the default, leaves it to the proxy.
    pub protocol_detection_timeout: Duration,
    /// `localityLbSetting.enabled`; true if absent.
    pub locality_load_balancing: bool,
    /// `federation.exportAll`: all services are exported.
    pub export_all: bool,
    /// `federation.lease`: how long the knowledge of a remote cluster holds without proof of life; `None`: the controller's
    /// default.
    pub lease: Option<Duration>,
    /// `defaultServiceExportTo`, of Services and ServiceEntries; empty: all namespaces.
    pub service_export_to: Vec<String>,
    /// `defaultVirtualServiceExportTo`; empty: all namespaces.
    pub virtual_service_export_to: Vec<String>,
    /// `defaultDestinationRuleExportTo`; empty: all namespaces.
    pub destination_rule_export_to: Vec<String>,
    /// `defaultTrafficPolicy`: the `connectionPool` and `outlierDetection` of destinations without their own.
    pub default_policy: Option<TrafficPolicy>,
    /// `pathNormalization.normalization`: the form to which proxies bring the paths of requests.
    pub path_normalization: PathNormalization,
    /// `trustDomainAliases`: former names of the trust domain, which policies still write.
    pub trust_domain_aliases: Vec<String>,
    /// `extensionProviders`: the servers that policies of action CUSTOM ask.
    pub external_authorizations: Vec<ExternalAuthorization>,
    /// `defaultConfig`: the settings of injected proxies.
    pub proxy_settings: ProxySettings,
    /// `defaultConfig.gatewayTopology`: the proxies in front of gateways.
    pub gateway_topology: GatewayTopology,
}

/// The form to which proxies bring the paths of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PathNormalization {
    /// Without dot segments, encoded unreserved characters and backslashes (`BASE`, `DEFAULT`).
    #[default]
    Base,
    /// As they are (`NONE`).
    None,
    /// The first, with single slashes (`MERGE_SLASHES`).
    MergeSlashes,
    /// The same, with encoded slashes decoded before (`DECODE_AND_MERGE_SLASHES`).
    DecodeAndMergeSlashes,
}

impl Default for MeshConfig {
    fn default() -> Self {
        MeshConfig {
            mesh_id: String::new(),
            trust_domain: None,
            registry_only: false,
            access_log_file: String::new(),
            access_log_json: false,
            access_log_format: String::new(),
            connect_timeout: None,
            protocol_detection_timeout: Duration::ZERO,
            locality_load_balancing: true,
            export_all: false,
            lease: None,
            service_export_to: Vec::new(),
            virtual_service_export_to: Vec::new(),
            destination_rule_export_to: Vec::new(),
            default_policy: None,
            path_normalization: PathNormalization::default(),
            trust_domain_aliases: Vec::new(),
            external_authorizations: Vec::new(),
            proxy_settings: ProxySettings::default(),
            gateway_topology: GatewayTopology::default(),
        }
    }
}

/// Why mesh-wide settings are rejected. The previous settings stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshConfigError {
    /// The text is not YAML, or not a map.
    #[error("the mesh settings cannot be parsed: {0}")]
    Yaml(String),
    /// A field has an invalid value.
    #[error("mesh setting {field} is {found}, but must be {expected}")]
    Value {
        /// The path of the field.
        field: String,
        /// The value.
        found: String,
        /// Which values are valid.
        expected: &'static str,
    },
    /// A field is invalid.
    #[error("mesh setting {field} {message}")]
    Field {
        /// The path of the field.
        field: String,
        /// What is wrong.
        message: String,
    },
}

/// Istio's settings without effect in Isthmus. Other unknown names are likely mistakes and have another warning.
const ISTIO_SETTINGS: &[&str] = &[
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "defaultHttpRetryPolicy",
    "defaultProviders",
    "disableEnvoyListenerLog",
    "discoverySelectors",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "h2UpgradePolicy",
    "hboneIdleTimeout",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "outboundClusterStatName",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "rootNamespace",
    "serviceScopeConfigs",
    "serviceSettings",
    "tcpKeepalive",
    "tlsDefaults",
    "verifyCertificateAtClient",
];

impl MeshConfig {
    /// Parses the settings. Also returns a warning for each setting without effect.
    ///
    /// # Errors
    /// Returns an error that names the field if a value is invalid.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>), MeshConfigError> {
        let value: Value = if text.trim().is_empty() {
            Value::Object(Map::new())
        } else {
            crate::yaml::from_str(text).map_err(MeshConfigError::Yaml)?
        };
        Self::of_value(value)
    }

    /// Reads the settings, as [`MeshConfig::parse`] does.
    ///
    /// # Errors
    /// Returns an error that names the field if a value is invalid.
    pub fn of_value(value: Value) -> Result<(Self, Vec<Warning>), MeshConfigError> {
        let mut top = match value {
            Value::Object(map) => SettingFields { path: String::new(), map },
            Value::Null => SettingFields { path: String::new(), map: Map::new() },
            other => return Err(MeshConfigError::Yaml(format!("it must be a map, but is {}", kind(&other)))),
        };
        let mut warnings = Vec::new();
        let mut config = MeshConfig {
            access_log_file: top.text("accessLogFile")?.unwrap_or_default(),
            access_log_format: top.text("accessLogFormat")?.unwrap_or_default(),
            access_log_json: top.word("accessLogEncoding", &["TEXT", "JSON"], "TEXT or JSON")? == Some("JSON"),
            connect_timeout: top.duration("connectTimeout", AT_LEAST_1MS)?,
            trust_domain: top.text("trustDomain")?.filter(|domain| !domain.is_empty()),
            ..MeshConfig::default()
        };
        if let Some(timeout) = top.duration("protocolDetectionTimeout", ZERO_OR_AT_LEAST_1MS)? {
            config.protocol_detection_timeout = timeout;
        }
        let mut outbound = top.inner("outboundTrafficPolicy")?;
        let modes = ["ALLOW_ANY", "REGISTRY_ONLY", "ALLOW_ANY_DYNAMIC_DNS"];
        let mode = outbound.word("mode", &modes, "ALLOW_ANY or REGISTRY_ONLY")?;
        config.registry_only = mode == Some("REGISTRY_ONLY");
        if mode == Some("ALLOW_ANY_DYNAMIC_DNS") {
            warnings.push(Warning::new("outboundTrafficPolicy.mode", "has the effect of ALLOW_ANY"));
        }
        let mut locality = top.inner("localityLbSetting")?;
        if let Some(enabled) = locality.boolean("enabled")? {
            config.locality_load_balancing = enabled;
        }
        let mut defaults = top.inner("defaultConfig")?;
        config.mesh_id = match top.text("meshId")? {
            Some(id) => id,
            None => defaults.text("meshId")?.unwrap_or_default(),
        };
        let mut topology = defaults.inner("gatewayTopology")?;
        config.gateway_topology = GatewayTopology::read(&mut topology)?;
        let mut federation = top.inner("federation")?;
        config.export_all = federation.boolean("exportAll")?.unwrap_or_default();
        config.lease = federation.duration("lease", AT_LEAST_10S)?;
        config.service_export_to = top.export_to("defaultServiceExportTo")?;
        config.virtual_service_export_to = top.export_to("defaultVirtualServiceExportTo")?;
        config.destination_rule_export_to = top.export_to("defaultDestinationRuleExportTo")?;
        let mut paths = top.inner("pathNormalization")?;
        const FORMS: &str = "DEFAULT, NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES";
        let forms = ["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"];
        config.path_normalization = match paths.word("normalization", &forms, FORMS)? {
            Some("NONE") => PathNormalization::None,
            Some("MERGE_SLASHES") => PathNormalization::MergeSlashes,
            Some("DECODE_AND_MERGE_SLASHES") => PathNormalization::DecodeAndMergeSlashes,
            _ => PathNormalization::Base,
        };
        config.trust_domain_aliases = top.trust_domains("trustDomainAliases")?;
        config.default_policy = top.policy("defaultTrafficPolicy", &mut warnings)?;
        config.external_authorizations = top.external_authorizations("extensionProviders", &mut warnings)?;

        // What is so in any case. Users write the first name as well, which Istio ignores.
        for name in ["enableAutoMTLS", "enableAutoMtls"] {
            if top.map.get(name) == Some(&Value::Bool(true)) {
                top.map.remove(name);
            }
        }
        for name in top.map.keys() {
            let message = if ISTIO_SETTINGS.contains(&name.as_str()) {
                "this Istio setting has no effect in Isthmus".to_owned()
            } else {
                "unknown setting; it is ignored".to_owned()
            };
            warnings.push(Warning::new(name.clone(), message));
        }
        let (proxy_settings, of_proxies) = ProxySettings::of_fields(defaults)?;
        config.proxy_settings = proxy_settings;
        warnings.extend(of_proxies);
        for inner in [outbound, locality, topology, federation, paths] {
            warnings.extend(
                inner.map.keys().map(|name| {
                    Warning::new(format!("{}{name}", inner.path), "has no effect in Isthmus; it is ignored")
                }),
            );
        }
        Ok((config, warnings))
    }
}

/// Returns what of an object has no effect, if it is one with mesh-wide settings.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        ("install.istio.io", "IstioOperator") => {
            let warnings = operator::warnings(&object["spec"]).into_iter();
            warnings.map(|warning| Problem::warning(warning.field, warning.message)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
