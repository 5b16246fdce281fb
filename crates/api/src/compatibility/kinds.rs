//! The kinds without effect.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind whose objects API servers accept, and that has no effect yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KindWithoutEffect {
    /// The API group.
    pub group: &'static str,
    /// The version in which the objects are read.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The plural in URLs.
    pub plural: &'static str,
    /// What happens instead, and what to do.
    pub instead: &'static str,
}

/// The kinds without effect.
pub const WITHOUT_EFFECT: &[KindWithoutEffect] = &[
    KindWithoutEffect {
        group: "telemetry.istio.io",
        version: "v1",
        kind: "Telemetry",
        plural: "telemetries",
        instead: "proxies report the standard metrics and no traces; set the access log in the mesh settings",
    },
    KindWithoutEffect {
        group: "extensions.istio.io",
        version: "v1alpha1",
        kind: "WasmPlugin",
        plural: "wasmplugins",
        instead: "proxies run no plugins; change headers by a VirtualService, and do the rest in the application",
    },
    KindWithoutEffect {
        group: crate::export::GROUP,
        version: "v1alpha1",
        kind: "ServiceImport",
        plural: "serviceimports",
        instead: "the controller writes the imports of exported services; delete this one, and export the service with a ServiceExport",
    },
];

/// EnvoyFilters of which no patch limits the rate of requests.
pub const ENVOY_FILTER: KindWithoutEffect = KindWithoutEffect {
    group: "networking.istio.io",
    version: "v1alpha3",
    kind: "EnvoyFilter",
    plural: "envoyfilters",
    instead: "no proxy is Envoy; use a VirtualService (routes, retries, faults, headers) or a DestinationRule (connections, TLS)",
};

/// Returns the kind if its objects have no effect.
pub fn find(group: &str, kind: &str) -> Option<&'static KindWithoutEffect> {
    WITHOUT_EFFECT.iter().find(|known| known.group == group && known.kind == kind)
}

impl KindWithoutEffect {
    /// Returns the kind as a client names it.
    pub fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    /// Returns the notice about an object.
    pub fn notice(&self, name: &str) -> String {
        format!("{} {name} has no effect: {}", self.kind, self.instead)
    }
}
