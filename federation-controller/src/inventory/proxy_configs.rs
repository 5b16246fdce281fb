//! ProxyConfigs: the settings of the proxies that are injected into a pod.
//!
//! As in Istio, from the farthest to the nearest: `defaultConfig` of the mesh settings, the ProxyConfig of the root
//! namespace, that of the pod's namespace, the pod's annotation, and the ProxyConfig that selects the pod. Of several
//! in one place, the oldest applies.

use api::mesh::ProxySettings;

use super::Inventory;
use super::cluster::{Affected, ClusterInventory};
use crate::objects::{Key, Labels, ProxyConfig, Text};

/// The settings of a pod's proxy, apart from those of its annotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyLayers {
    /// What the annotation takes precedence over.
    pub below: ProxySettings,
    /// What takes precedence over the annotation.
    pub above: ProxySettings,
}

impl ClusterInventory {
    /// A ProxyConfig is for pods that are created later.
    pub(super) fn change_proxy_config(&mut self, key: Key, new: Option<ProxyConfig>) -> Affected {
        let old = self.proxy_configs().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        self.collections.proxy_configs.replace(&key, new);
        Affected::default()
    }
}

impl Inventory {
    /// Returns the settings of the proxy of a pod.
    pub fn proxy_layers(&self, namespace: &Text, labels: &Labels) -> ProxyLayers {
        let mesh = ProxySettings::clone(&self.mesh().proxy_settings);
        let Some(own) = self.primary() else { return ProxyLayers { below: mesh, ..ProxyLayers::default() } };
        let root = &self.settings().root_namespace;
        let of = |selects: bool, namespace: &Text| {
            let selecting = own.proxy_configs().selecting(&[namespace], labels);
            let applying = selecting.filter(|config| config.namespace == *namespace && selects_pods(config) == selects);
            let oldest = applying.min_by_key(|config| config.age());
            oldest.and_then(|config| config.spec.as_ref()).map(|spec| spec.settings()).unwrap_or_default()
        };
        let mut below = of(false, root).over(&mesh);
        if namespace != root {
            below = of(false, namespace).over(&below);
        }
        ProxyLayers { below, above: of(true, namespace) }
    }
}

fn selects_pods(config: &ProxyConfig) -> bool {
    let spec = config.spec.as_ref();
    spec.is_some_and(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::*;
    use crate::inventory::Settings;
    use crate::objects::Record as _;
    use crate::objects::event::{Cluster, Event, Mesh};

    fn put(inventory: &mut Inventory, namespace: &str, name: &str, created: i64, spec: Value) {
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let config = ProxyConfig::extract(serde_json::from_value(object).unwrap()).unwrap();
        let object = ProxyConfig { created, ..config }.into();
        inventory.apply(Event::Upsert { cluster: "west".into(), object }, UNIX_EPOCH);
    }

    #[test]
    fn the_nearest_settings_apply_and_of_several_the_oldest() {
        let mut inventory = Inventory::new(Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        });
        let info = Cluster { name: "west".into(), own: true, network: "".into(), server: "".into(), joined: 0 };
        inventory.apply(Event::ClusterAdded(info), UNIX_EPOCH);
        let proxy_settings = ProxySettings { concurrency: Some(1), ..ProxySettings::default() };
        inventory.apply(Event::Mesh(Mesh { proxy_settings: proxy_settings.into(), ..Mesh::default() }), UNIX_EPOCH);
        let web = Labels::from([("app".into(), "web".into())]);
        let of = |inventory: &Inventory, namespace: &str| {
            let layers = inventory.proxy_layers(&namespace.into(), &web);
            (layers.below.concurrency, layers.above.concurrency)
        };
        assert_eq!(of(&inventory, "shop"), (Some(1), None));
        put(&mut inventory, "istio-system", "mesh", 5, json!({"concurrency": 2, "environmentVariables": {"A": "1"}}));
        assert_eq!(of(&inventory, "shop"), (Some(2), None));
        put(&mut inventory, "shop", "younger", 9, json!({"concurrency": 4}));
        put(&mut inventory, "shop", "older", 7, json!({"concurrency": 3, "environmentVariables": {"B": "1"}}));
        put(&mut inventory, "shop", "web", 8, json!({"concurrency": 5, "selector": {"matchLabels": {"app": "web"}}}));
        put(&mut inventory, "shop", "api", 1, json!({"concurrency": 6, "selector": {"matchLabels": {"app": "api"}}}));
        assert_eq!(of(&inventory, "shop"), (Some(3), Some(5)));
        assert_eq!(of(&inventory, "bank"), (Some(2), None));
        assert_eq!(of(&inventory, "istio-system"), (Some(2), None));
        let variables = inventory.proxy_layers(&"shop".into(), &web).below.variables;
        assert_eq!(variables.into_keys().collect::<Vec<_>>(), ["A", "B"]);
        put(&mut inventory, "shop", "older", 7, json!({"concurrency": 5000}));
        assert_eq!(of(&inventory, "shop"), (Some(3), Some(5)), "the last valid version stays in effect");
    }
}
