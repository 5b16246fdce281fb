//! The settings of injected proxies: Istio's ProxyConfig, of the mesh settings, an annotation, or the object of that
//! name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The highest number of threads.
pub(crate) const MAX_CONCURRENCY: u32 = 1024;
/// The number of environment variables.
pub(crate) const MAX_VARIABLES: usize = 256;

/// The settings of injected proxies. `None`: not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxySettings {
    /// `concurrency`: the number of worker threads; 0: the proxy's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// `terminationDrainDuration`: how long a proxy finishes what is in progress when its pod ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_drain: Option<Duration>,
    /// `holdApplicationUntilProxyStarts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_application: Option<bool>,
    /// `proxyMetadata`: environment variables of the proxy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

impl ProxySettings {
    /// Returns these settings, and where they set nothing, those of `below`. Of a variable that both have, this one
    /// applies.
    #[must_use]
    pub fn over(self, below: &ProxySettings) -> ProxySettings {
        let mut variables = below.variables.clone();
        variables.extend(self.variables);
        ProxySettings {
            concurrency: self.concurrency.or(below.concurrency),
            termination_drain: self.termination_drain.or(below.termination_drain),
            hold_application: self.hold_application.or(below.hold_application),
            variables,
        }
    }
}

/// Returns whether a text is the name of an environment variable, as Kubernetes has them.
pub(crate) fn is_variable(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(allowed) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_nearer_settings_apply() {
        let below = ProxySettings {
            concurrency: Some(2),
            variables: variables(&[("A", "1"), ("B", "1")]),
            ..ProxySettings::default()
        };
        let own = ProxySettings {
            termination_drain: Some(Duration::from_secs(1)),
            variables: variables(&[("B", "2")]),
            ..ProxySettings::default()
        };
        let merged = own.over(&below);
        assert_eq!((merged.concurrency, merged.termination_drain), (Some(2), Some(Duration::from_secs(1))));
        assert_eq!(merged.variables, variables(&[("A", "1"), ("B", "2")]));
    }

    #[test]
    fn names_of_variables_are_those_of_kubernetes() {
        assert!(["A", "a.b-c_d", "_1"].iter().all(|name| is_variable(name)));
        assert!(!["", "1A", "a b", "a=b"].iter().any(|name| is_variable(name)));
    }
}
