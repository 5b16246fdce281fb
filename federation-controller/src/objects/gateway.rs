//! `networking.istio.io` Gateway, of which servers in AUTO_PASSTHROUGH mode are read.

use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Labels, Record, Selector, Text, fields};

/// A Gateway that passes TLS through by server name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gateway {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// `spec.selector`: labels of the gateway pods to which the Gateway applies, in any namespace.
    pub selector: Labels,
    /// Hosts of all servers in AUTO_PASSTHROUGH mode, as written: `*.local`, `default/reviews.default.svc.cluster.local`.
    pub hosts: Vec<Text>,
}

/// What a host costs beyond its text: its entry in the index of hosts, and the work for it when the Gateway changes.
const HOST: usize = 1024;

impl Record for Gateway {
    type Source = api::gateway::Gateway;
    const KIND: Kind = Kind::Gateway;
    const NAME: &'static str = "Gateway";
    const OPTIONAL: bool = true;
    const LIMIT: usize = 1_000;

    fn extract(object: Self::Source) -> Option<Self> {
        for warning in object.warnings() {
            tracing::debug!(gateway = ?object.metadata.name, namespace = ?object.metadata.namespace, "{warning}");
        }
        if !object.spec.servers.iter().any(api::gateway::Server::is_auto_passthrough) {
            return None;
        }
        let hosts = object.exported_hosts().filter(|host| host.len() <= fields::MAX_HOST);
        let hosts = hosts.take(fields::MAX_HOSTS).map(Into::into).collect();
        let selector = object.spec.selector.into_iter().take(fields::MAX_LABELS);
        Some(Gateway {
            namespace: fields::namespace(&object.metadata)?,
            name: fields::name(&object.metadata)?,
            hosts,
            selector: selector.map(|(key, value)| (key.into(), value.into())).collect(),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn selector(&self) -> Option<Selector<'_>> {
        Some(Selector { namespace: None, labels: &self.selector })
    }

    fn size(&self) -> usize {
        let hosts = self.hosts.iter().map(|host| HOST + fields::size(host));
        size_of::<Self>() + fields::size(&self.name) + self.selector.size() + hosts.sum::<usize>()
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        strings.labels(&mut self.selector);
        self.hosts.iter_mut().for_each(|host| strings.text(host));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gateways_in_auto_passthrough_mode_are_kept() {
        let gateway = |mode: &str| {
            let object = serde_json::json!({"metadata": {"name": "g", "namespace": "istio-system"}, "spec": {
                "selector": {"istio": "eastwestgateway"},
                "servers": [{"port": {"number": 15443, "name": "tls", "protocol": "TLS"},
                             "tls": {"mode": mode}, "hosts": ["*.local"]}]}});
            Gateway::extract(serde_json::from_value(object).unwrap())
        };
        assert_eq!(gateway("AUTO_PASSTHROUGH").unwrap().hosts, ["*.local".into()]);
        assert_eq!(gateway("PASSTHROUGH"), None);
    }
}
