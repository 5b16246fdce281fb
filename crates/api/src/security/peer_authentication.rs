//! PeerAuthentication: whether workloads accept plaintext beside mutual TLS.

use std::collections::BTreeMap;

use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::json::{message, object, words};

object! {
    /// Istio's PeerAuthentication resource.
    PeerAuthentication: optional PeerAuthenticationSpec, "security.istio.io", "PeerAuthentication", "peerauthentications"
}

message! {
    /// The spec of a PeerAuthentication.
    PeerAuthenticationSpec {
        /// The workloads to which it applies; unset: all of its namespace, or of the mesh if that is the root namespace.
        selector: Option<WorkloadSelector> = "selector",
        /// The mode.
        mtls: Option<MutualTls> = "mtls",
        /// Modes of single ports of the application, which take precedence.
        port_level_mtls: BTreeMap<String, MutualTls> = "portLevelMtls",
    }
}

message! {
    /// A mode in its wrapper.
    MutualTls {
        /// The mode.
        mode: Mode = "mode",
    }
}

words! {
    /// Whether a port accepts plaintext beside mutual TLS.
    Mode {
        /// As the object of the next wider scope says.
        #[default]
        Unset = "UNSET",
        /// Plaintext alone is terminated; TLS passes.
        Disable = "DISABLE",
        /// Both.
        Permissive = "PERMISSIVE",
        /// Mutual TLS alone.
        Strict = "STRICT",
    }
}

impl PeerAuthenticationSpec {
    /// Returns the mode of ports that have none of their own.
    pub fn mode(&self) -> Mode {
        self.mtls.as_ref().map(|mtls| mtls.mode).unwrap_or_default()
    }

    /// Returns the modes of single ports.
    pub fn ports(&self) -> impl Iterator<Item = (u16, Mode)> {
        self.port_level_mtls.iter().filter_map(|(port, mtls)| Some((port.parse().ok()?, mtls.mode)))
    }

    /// Returns whether it selects workloads by labels.
    pub fn selects(&self) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
    }
}
