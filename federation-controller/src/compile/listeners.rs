//! What a router listens on: the servers of all Gateways that select it, merged as in Istio.
//!
//! The oldest Gateway comes first. Servers of a port and address share a listener if all of them carry requests without TLS,
//! or all have TLS and no server name in common. A server that conflicts with an earlier one is left out, with a notice on
//! its Gateway.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use api::networking::gateway::{Carries, Server, ServerTls as ApiTls, TlsMode, TlsProtocol, host_of};
use prost::Message as _;
use wire::discovery::{
    ForwardClientCert, GatewayServer, Listener, Listeners, ServerProtocol, ServerTls, ServerTlsMode, TlsVersion,
};
use wire::{Kind as ResourceKind, name};

use super::resource::{Audience, Compiled, Resource};
use super::rules::gateway::collection;
use crate::inventory::{ClusterInventory, Inventory, RuleNotice};
use crate::objects::{Gateway, Key, Kind, Pod, Record as _, Text};

/// The number of notices about the listeners of one router.
const MAX_NOTICES: usize = 100;

/// Compiles the listeners of a router. Returns nothing if the pod's proxy is not a connected router.
pub(super) fn compile(inventory: &Inventory, cluster: &Text, key: &Key) -> Compiled {
    let pod = inventory.cluster(cluster).and_then(|of| Some((of, of.pods().get(key)?)));
    let Some((cluster, pod)) = pod.filter(|_| inventory.is_router(cluster, key)) else { return Compiled::default() };
    let mut merge = ListenerMerge { cluster, pod, listeners: BTreeMap::new(), notices: Vec::new() };
    let targets = targets(cluster, key);
    for gateway in inventory.gateways_of_router(pod) {
        let servers = gateway.spec.iter().flat_map(|spec| &spec.servers);
        for server in servers.filter(|server| !server.is_auto_passthrough()) {
            merge.add(gateway, server, &targets);
        }
    }
    let listeners = merge.listeners.into_values().map(|of| of.listener).collect();
    let topology = pod.topology.as_deref().copied().unwrap_or_default().or(inventory.mesh().gateway_topology);
    let message = Listeners {
        listeners,
        trusted_proxies: topology.trusted_proxies.unwrap_or_default(),
        forward_client_cert: topology.forward_client_cert.map_or(ForwardClientCert::Unspecified, forwarded).into(),
        proxy_protocol: topology.proxy_protocol.unwrap_or_default(),
    };
    let resource = Resource {
        kind: ResourceKind::Listeners,
        name: name::workload(&cluster.info.name, &key.namespace, &key.name).into(),
        keys: Box::default(),
        audience: Audience::Workload(pod.service_account.clone()),
        body: message.encode_to_vec().into(),
    };
    Compiled { resources: vec![resource], notices: merge.notices, ..Compiled::default() }
}

/// Returns the ports of a pod by the ports of the Services that lead to them. Of several Services, the first by name decides.
fn targets(cluster: &ClusterInventory, pod: &Key) -> HashMap<u16, u16> {
    let mut slices: Vec<_> = cluster.slices_with(pod).collect();
    slices.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
    let mut targets = HashMap::new();
    for slice in slices {
        let Some(service) = cluster.services().get(&slice.service_key()) else { continue };
        for (name, target) in &slice.ports {
            if let Some(port) = service.ports.iter().find(|port| port.name == *name) {
                targets.entry(port.number).or_insert(*target);
            }
        }
    }
    targets
}

/// What the servers of a listener have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Requests without TLS.
    Requests,
    /// TLS.
    Tls,
    /// Opaque bytes, of one server.
    Opaque,
}

impl Family {
    fn of(server: &Server) -> Family {
        match (server.tls_of_port(), server.carries()) {
            (Some(_), _) => Family::Tls,
            (None, Carries::Http) => Family::Requests,
            (None, _) => Family::Opaque,
        }
    }
}

/// A listener that servers are merged into.
struct SharedListener {
    listener: Listener,
    family: Family,
    /// The Gateway of the first server.
    first: Key,
    /// The server names of TLS, each with its Gateway.
    names: HashMap<Text, Key>,
}

struct ListenerMerge<'a> {
    cluster: &'a ClusterInventory,
    pod: &'a Pod,
    listeners: BTreeMap<(u16, Option<IpAddr>), SharedListener>,
    notices: Vec<RuleNotice>,
}

impl ListenerMerge<'_> {
    fn add(&mut self, gateway: &Gateway, server: &Server, targets: &HashMap<u16, u16>) {
        let Some(port) = &server.port else { return };
        let Ok(number) = u16::try_from(port.number) else { return };
        let target = targets.get(&number).copied().unwrap_or(number);
        let bind = server.bind.parse::<IpAddr>().ok();
        let family = Family::of(server);
        let hosts: Vec<Text> = server.hosts.iter().map(|host| served(host, gateway)).collect();
        if let Some(merged) = self.listeners.get_mut(&(target, bind)) {
            if merged.family != family || family == Family::Opaque {
                let text = format!(
                    "server {} has no effect: its port {number} conflicts with that of Gateway {}, which is older; use another port",
                    port.name, merged.first
                );
                return self.note(gateway, text);
            }
            let taken = hosts.iter().find_map(|host| Some((host, merged.names.get(host)?)));
            if let Some((host, other)) = taken.filter(|_| family == Family::Tls) {
                let text = format!(
                    "server {} has no effect: Gateway {other} has host {host} on port {number} already; merge them, or name other hosts",
                    port.name
                );
                return self.note(gateway, text);
            }
        }
        let compiled = self.server(gateway, server, &hosts);
        let merged = self.listeners.entry((target, bind)).or_insert_with(|| SharedListener {
            listener: Listener {
                port: target.into(),
                bind: bind.map(name::ip_to_bytes).unwrap_or_default(),
                server_port: port.number,
                servers: Vec::new(),
            },
            family,
            first: gateway.key(),
            names: HashMap::new(),
        });
        merged.names.extend(hosts.into_iter().map(|host| (host, gateway.key())));
        merged.listener.servers.push(compiled);
    }

    fn server(&self, gateway: &Gateway, server: &Server, hosts: &[Text]) -> GatewayServer {
        let key = gateway.key();
        let port_name = server.port.as_ref().map_or("", |port| &port.name);
        let protocol = match server.carries() {
            Carries::Http => ServerProtocol::Http,
            Carries::Tcp | Carries::Tls => ServerProtocol::Tcp,
        };
        let mut hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        GatewayServer {
            gateway: key.to_string(),
            name: if server.name.is_empty() { port_name.to_owned() } else { server.name.clone() },
            protocol: protocol.into(),
            hosts,
            tls: server.tls_of_port().map(|tls| self.tls(tls)),
            routes: collection(&key, server),
            https_redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
        }
    }

    fn tls(&self, of: &ApiTls) -> ServerTls {
        let secret = |secret: &str| name::workload(&self.cluster.info.name, &self.pod.namespace, secret);
        let files = of.has_certificate() && of.credentials().next().is_none();
        let file = |path: &str| if files { path.to_owned() } else { String::new() };
        let (certificate, key) = of.files();
        let of_clients = |values: &[String]| if of.verifies_clients() { values.to_vec() } else { Vec::new() };
        ServerTls {
            mode: mode(of.mode).into(),
            credentials: of.credentials().map(secret).collect(),
            ca_credential: of.ca_credential().map(secret).unwrap_or_default(),
            server_certificate: file(certificate),
            private_key: file(key),
            ca_certificates: file(&of.ca_certificates),
            ca_crl: file(&of.ca_crl),
            subject_alt_names: of_clients(&of.subject_alt_names),
            certificate_hashes: of_clients(&of.verify_certificate_hash)
                .iter()
                .map(|hash| hash.replace(':', "").to_ascii_lowercase())
                .collect(),
            certificate_spki: of_clients(&of.verify_certificate_spki),
            min_version: version(of.min_protocol_version).into(),
            max_version: version(of.max_protocol_version).into(),
            cipher_suites: of.cipher_suites.clone(),
        }
    }

    fn note(&mut self, gateway: &Gateway, text: String) {
        if self.notices.len() < MAX_NOTICES {
            let object = gateway.key();
            self.notices.push(RuleNotice { kind: Kind::Gateway, object, code: "IST0145".into(), text });
        }
    }
}

/// Returns the host that a server serves, without the namespace of its VirtualServices.
fn served(host: &str, gateway: &Gateway) -> Text {
    host_of(host, &gateway.namespace).1.to_ascii_lowercase().into()
}

fn forwarded(of: api::mesh::ForwardClientCert) -> ForwardClientCert {
    match of {
        api::mesh::ForwardClientCert::Sanitize => ForwardClientCert::Sanitize,
        api::mesh::ForwardClientCert::ForwardOnly => ForwardClientCert::ForwardOnly,
        api::mesh::ForwardClientCert::AppendForward => ForwardClientCert::AppendForward,
        api::mesh::ForwardClientCert::SanitizeSet => ForwardClientCert::SanitizeSet,
        api::mesh::ForwardClientCert::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    }
}

fn mode(of: TlsMode) -> ServerTlsMode {
    match of {
        TlsMode::Passthrough | TlsMode::AutoPassthrough => ServerTlsMode::Passthrough,
        TlsMode::Simple => ServerTlsMode::Simple,
        TlsMode::Mutual => ServerTlsMode::Mutual,
        TlsMode::OptionalMutual => ServerTlsMode::OptionalMutual,
        TlsMode::IstioMutual => ServerTlsMode::IstioMutual,
    }
}

/// Versions before 1.2 are not supported, and 1.2 takes their place.
fn version(of: TlsProtocol) -> TlsVersion {
    match of {
        TlsProtocol::Auto => TlsVersion::Unspecified,
        TlsProtocol::V1_0 | TlsProtocol::V1_1 | TlsProtocol::V1_2 => TlsVersion::TlsVersion12,
        TlsProtocol::V1_3 => TlsVersion::TlsVersion13,
    }
}
