//! ProxyConfig: settings of the proxies that are injected into some pods.

use std::collections::BTreeMap;

use super::destination_rule::WorkloadSelector;
use super::json::{message, object};
use crate::proxy_settings::ProxySettings;

object! {
    /// Istio's ProxyConfig resource.
    ProxyConfig: ProxyConfigSpec, "networking.istio.io", "v1beta1", "ProxyConfig", "proxyconfigs"
}

message! {
    /// The spec of a ProxyConfig.
    ProxyConfigSpec {
        /// The pods that it is for; unset: all of the namespace, or of the mesh in the root namespace.
        selector: Option<WorkloadSelector> = "selector",
        /// The number of worker threads; 0: the proxy's default.
        concurrency: Option<u32> = "concurrency",
        /// Environment variables of the proxy.
        environment_variables: BTreeMap<String, String> = "environmentVariables",
        /// The form of the image.
        image: Option<ProxyImage> = "image",
    }
}

message! {
    /// The form of a proxy's image.
    ProxyImage {
        /// `default`, `debug` or `distroless`.
        image_type: String = "imageType",
    }
}

impl ProxyConfigSpec {
    /// Returns the settings.
    pub fn settings(&self) -> ProxySettings {
        ProxySettings {
            concurrency: self.concurrency,
            variables: self.environment_variables.clone(),
            ..ProxySettings::default()
        }
    }
}
