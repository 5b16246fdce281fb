//! `networking.istio.io` Gateway: what ingress and egress gateways listen on, and what east-west gateways export.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::gateway::{Port, Server, ServerTls, TlsMode};
use api::networking::{self, GatewaySpec};

use super::{Kind, Labels, Rule, RuleSpec, Watched, fields};

/// A Gateway.
pub type Gateway = Rule<GatewaySpec>;

impl RuleSpec for GatewaySpec {
    type Source = networking::Gateway;
    const KIND: Kind = Kind::Gateway;
    const NAME: &'static str = "Gateway";
    const WATCHED: Watched = Watched::EveryCluster;
    const EVERY_NAMESPACE: bool = true;
    const LIMIT: usize = 1_000;

    /// A host counts twice: it has an entry in the index of hosts, and is work when the Gateway changes.
    fn parts(&self) -> usize {
        1 + self.servers.iter().map(|server| 1 + 2 * server.hosts.len()).sum::<usize>()
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        Some(self.selector.clone())
    }
}

impl Gateway {
    /// Returns the hosts of the servers in mode AUTO_PASSTHROUGH, as written, within bounds.
    pub fn exported_hosts(&self) -> impl Iterator<Item = &str> {
        let hosts = self.spec.iter().flat_map(|spec| spec.exported_hosts());
        hosts.filter(|host| host.len() <= fields::MAX_HOST).take(fields::MAX_HOSTS)
    }

    /// Returns whether the Gateway exports services, once it has pods.
    pub fn exports(&self) -> bool {
        self.exported_hosts().next().is_some()
    }

    /// Returns whether the Gateway has servers of ingress or egress gateways.
    pub fn has_listeners(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.has_listeners())
    }

    /// Returns a Gateway that exports services by their hosts.
    pub(crate) fn exporting(namespace: &str, name: &str, selector: Labels, hosts: &[&str]) -> Gateway {
        let server = Server {
            port: Some(Port { number: 15443, protocol: "TLS".into(), name: "tls".into(), target_port: 0 }),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            tls: Some(ServerTls { mode: TlsMode::AutoPassthrough, ..ServerTls::default() }),
            ..Server::default()
        };
        let labels = selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Rule {
            namespace: namespace.into(),
            name: name.into(),
            created: 0,
            generation: 0,
            spec: Some(Arc::new(GatewaySpec { servers: vec![server], selector: labels })),
            selector: Some(selector),
            dry_run: false,
            unallocated: false,
            problems: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Record as _;

    #[test]
    fn servers_in_auto_passthrough_mode_export_and_others_listen() {
        let gateway = |mode: &str| {
            let object = serde_json::json!({"metadata": {"name": "g", "namespace": "istio-system"}, "spec": {
                "selector": {"istio": "eastwestgateway"},
                "servers": [{"port": {"number": 15443, "name": "tls", "protocol": "TLS"},
                             "tls": {"mode": mode}, "hosts": ["*.local"]}]}});
            Gateway::extract(serde_json::from_value(object).unwrap()).unwrap()
        };
        let exporting = gateway("AUTO_PASSTHROUGH");
        assert_eq!(exporting.exported_hosts().collect::<Vec<_>>(), ["*.local"]);
        assert!(exporting.exports() && !exporting.has_listeners());
        let ingress = gateway("PASSTHROUGH");
        assert!(!ingress.exports() && ingress.has_listeners());
        assert_eq!(ingress.selector().unwrap().namespace, None, "in every namespace");
        assert!(gateway("SIMPLE").refused(), "without a certificate");
    }
}
