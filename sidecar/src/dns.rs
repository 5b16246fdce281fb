//! The DNS proxy: answers queries for services of the mesh from discovery, and forwards all others to the pod's own servers.
//!
//! Without it, a service that only exists in another cluster would have no name in this one. Answers are those of Istio's DNS
//! proxy: the service's address in this cluster, else its address in the whole mesh, which is also the answer for its name in
//! `clusterset.local`; no data for the other address family and
//! for other types of record, but for the SRV records of ports. Other queries are forwarded byte for byte, so all of their
//! features work.
//!
//! A name that is known is answered at once, however many other queries wait for the controller or for a server.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use hickory_proto::rr::{DNSClass, RecordType};
use wire::Kind;
use wire::client::{Outcome, Subscriber};

use proxy::mesh::{self, Published, Service};

mod answer;
mod forward;
mod message;
mod server;

use answer::{Answer, AskingPod, MeshName, Routed};
pub use forward::{Forwarding, servers};
use message::Query;
pub use server::serve;

/// Resolves names of the mesh.
pub struct Names {
    network: Arc<str>,
    published: Arc<Published>,
    subscriber: Subscriber,
    pod: AskingPod,
}

impl Names {
    /// Creates a resolver for a pod of this cluster and network, which reads the published view and requests services that are
    /// not in it.
    pub fn new(cluster: Arc<str>, network: Arc<str>, published: Arc<Published>, subscriber: Subscriber) -> Self {
        Self { network, published, subscriber, pod: AskingPod { cluster, routed: Routed::of_this_pod() } }
    }

    /// Returns whether a name is below the domain of the cluster, whose own server is no other's.
    fn is_of_cluster(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let domain = &self.published.newest().settings.cluster_domain;
        name.strip_suffix(&**domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Notes the addresses that another server answered for names of the cluster.
    fn learn(&self, response: &[u8]) {
        for (name, address) in message::addresses(response) {
            if self.is_of_cluster(&name) {
                self.published.note_address(address);
            }
        }
    }

    /// Returns the answer to a query if that is known without waiting for the controller.
    fn known(&self, query: &Query) -> Option<Answer> {
        let Some(name) = self.mesh_name(query) else { return Some(Answer::NotInMesh) };
        let service = self.published.newest().services.get(&*name.service).cloned()?;
        if service.headless && service.endpoints.is_none() {
            return None;
        }
        if !self.published.newest().knows(&service) {
            return Some(Answer::NotInMesh);
        }
        self.published.mark_used([&service.hostname]);
        Some(name.answer(&service, query.record_type(), &self.pod))
    }

    /// Returns the answer to a query, and requests the service from the controller if it is not known.
    async fn answer(&self, query: &Query) -> Answer {
        let Some(name) = self.mesh_name(query) else { return Answer::NotInMesh };
        let service = self.seen(&name).await;
        service.map_or(Answer::NotInMesh, |service| name.answer(&service, query.record_type(), &self.pod))
    }

    /// Returns the addresses of both families that a full name is answered with; `None` if it is left to the pod's own servers.
    pub async fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = self.parse(name)?;
        match name.answer(&*self.seen(&name).await?, RecordType::ANY, &self.pod) {
            Answer::Addresses(addresses) => Some(addresses),
            Answer::Ports(_) | Answer::NotInMesh => None,
        }
    }

    /// Returns the service of a name, and requests it from the controller if it is not known. A service that the proxy does not
    /// see is as if it were not in the mesh: another server may know its name.
    async fn seen(&self, name: &MeshName) -> Option<Arc<Service>> {
        let service = match self.service(&name.service).await {
            Some(service) => Some(service),
            None => self.wildcard_of(&name.service).await,
        };
        service.filter(|service| self.published.newest().knows(service))
    }

    /// Returns the service of the longest wildcard of ServiceEntries for a host, if it has addresses to answer with.
    async fn wildcard_of(&self, host: &str) -> Option<Arc<Service>> {
        if !self.published.newest().settings.wildcard_entries {
            return None;
        }
        let wildcards: Vec<String> = mesh::wildcards_of(host).collect();
        let found = join_all(wildcards.iter().map(|wildcard| self.service(wildcard))).await;
        found.into_iter().flatten().next().filter(|service| !service.dns_addresses().is_empty())
    }

    fn mesh_name(&self, query: &Query) -> Option<MeshName> {
        self.parse(query.name()).filter(|_| query.class() == DNSClass::IN)
    }

    fn parse(&self, name: &str) -> Option<MeshName> {
        let settings = self.published.newest().settings.clone();
        let domain = &settings.cluster_domain;
        // A name of any domain may be the host of a ServiceEntry.
        let entry = || settings.entries.then(|| MeshName::of_entry(name)).flatten();
        MeshName::parse(name, domain).or_else(|| MeshName::parse_clusterset(name, domain)).or_else(entry)
    }

    async fn service(&self, hostname: &str) -> Option<Arc<Service>> {
        let known = self.published.newest().services.get(hostname).cloned();
        let service = match known {
            Some(service) => service,
            None => {
                if self.demand(Kind::Service, hostname).await != Outcome::Present {
                    return None;
                }
                self.published.newest().services.get(hostname)?.clone()
            }
        };
        self.published.mark_used([&service.hostname]);
        if !service.headless || service.endpoints.is_some() {
            return Some(service);
        }
        // The answer is the addresses of its pods.
        let endpoints = wire::name::endpoints(hostname, &self.network);
        self.subscriber.subscribe(Kind::Endpoint, endpoints.as_str());
        self.demand(Kind::Endpoint, endpoints).await;
        Some(self.published.newest().services.get(hostname).cloned().unwrap_or(service))
    }

    async fn demand(&self, kind: Kind, name: impl Into<Box<str>>) -> Outcome {
        mesh::demand(&self.subscriber, &self.published.newest().settings, kind, name).await
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{self, Message, MessageType, OpCode};
    use hickory_proto::rr::Name;
    use proxy::mesh::{MeshStore, ProxyLocation};
    use tonic::transport::Channel;
    use wire::delta::{Body, Changed, Update};
    use wire::discovery as d;
    use wire::name::{Node, Role};

    use super::*;

    fn push(store: &mut MeshStore, name: &str, body: Body) {
        let changed = Changed { name: name.into(), aliases: Vec::new(), body };
        let kind = changed.body.kind();
        assert!(store.update(Update { kind, changed: vec![changed], removed: Vec::new() }).rejected.is_empty());
    }

    fn service(name: &str, namespace: &str, last: u8) -> Body {
        let address = d::VirtualAddress { cluster: String::new(), ip: vec![240, 240, 0, last].into() };
        Body::Service(d::Service {
            hostname: format!("{name}.{namespace}.svc.cluster.local"),
            name: name.into(),
            namespace: namespace.into(),
            addresses: vec![address],
            ..d::Service::default()
        })
    }

    fn query(name: &str) -> Query {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        Query::read(&message.to_vec().unwrap(), false).ok().unwrap()
    }

    #[test]
    fn a_name_that_is_not_in_the_scope_is_left_to_the_clusters_own_server() {
        let ip: IpAddr = [10, 244, 0, 1].into();
        let location = ProxyLocation {
            cluster: "west".into(),
            network: "net-west".into(),
            namespace: "shop".into(),
            pod: "web".into(),
            ip,
        };
        let mut store = MeshStore::new(location, |_| {}).with_routes();
        let (own, other) = ("cart.shop.svc.cluster.local", "ledger.bank.svc.cluster.local");
        push(&mut store, own, service("cart", "shop", 1));
        push(&mut store, other, service("ledger", "bank", 2));
        let workload = d::Workload {
            peer_authentication: "mesh".into(),
            scope: "west/shop/default".into(),
            ..d::Workload::default()
        };
        push(&mut store, "west/shop/web", Body::Workload(workload));
        let pattern = d::HostPattern { namespace: ".".into(), host: "*".into(), exclude: false };
        let listener = d::ScopeListener { port: 0, hosts: vec![pattern] };
        let scope = d::Scope { listeners: vec![listener], ..d::Scope::default() };
        push(&mut store, "west/shop/default", Body::Scope(scope));
        let published = store.published();
        let node =
            Node { role: Role::Sidecar, ip, pod: "web".into(), namespace: "shop".into(), cluster: "west".into() };
        let away = || async { Err::<Channel, &str>("away") };
        let (subscriber, _discovery) = wire::client::discovery(&node, store, away, wire::client::Settings::default());
        let names = Names::new("west".into(), "net-west".into(), published, subscriber);
        assert_eq!(names.known(&query(own)), Some(Answer::Addresses(vec![[240, 240, 0, 1].into()])));
        assert_eq!(names.known(&query(other)), Some(Answer::NotInMesh));
        assert_eq!(names.known(&query("absent.shop.svc.cluster.local")), None, "the controller knows");
    }
}
