//! `networking.istio.io` Gateway, of which servers in AUTO_PASSTHROUGH mode are read.

use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Labels, Record, Selector, Text, fields};

/// A Gateway. It exports services if it has servers that pass TLS through by server name, and has no effect otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gateway {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// `spec.selector`: labels of the gateway pods to which the Gateway applies, in any namespace.
    pub selector: Labels,
    /// Hosts of all servers in AUTO_PASSTHROUGH mode, as written: `*.local`, `default/reviews.default.svc.cluster.local`.
    /// Empty: the Gateway has no effect.
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
        (!self.hosts.is_empty()).then_some(Selector { namespace: None, labels: &self.selector })
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
    fn only_servers_in_auto_passthrough_mode_have_effect() {
        let gateway = |mode: &str| {
            let object = serde_json::json!({"metadata": {"name": "g", "namespace": "istio-system"}, "spec": {
                "selector": {"istio": "eastwestgateway"},
                "servers": [{"port": {"number": 15443, "name": "tls", "protocol": "TLS"},
                             "tls": {"mode": mode}, "hosts": ["*.local"]}]}});
            Gateway::extract(serde_json::from_value(object).unwrap()).unwrap()
        };
        assert_eq!(gateway("AUTO_PASSTHROUGH").hosts, ["*.local".into()]);
        assert!(gateway("AUTO_PASSTHROUGH").selector().is_some());
        let ingress = gateway("SIMPLE");
        assert!(ingress.hosts.is_empty() && ingress.selector().is_none());
    }
}
