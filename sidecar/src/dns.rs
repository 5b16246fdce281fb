//! The DNS proxy: answers queries for services of the mesh from discovery, and forwards all others to the pod's own servers.
//!
//! Without it, a service that only exists in another cluster would have no name in this one. Answers are those of Istio's DNS
//! proxy: the service's address in this cluster, else its address in the whole mesh; no data for the other address family.
//! Other queries are forwarded byte for byte, so all of their features work.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use wire::Kind;
use wire::client::{Outcome, Subscriber};

use proxy::mesh::{self, DirectEndpoint, Published, Service};

mod forward;

/// The TTL of answers in seconds (Istio's).
const TTL: u32 = 30;
/// The maximum number of queries in progress; more wait in the socket's buffer.
const MAX_QUERIES: usize = 256;
/// The maximum size of a query over UDP; larger ones are truncated and dropped.
const MAX_UDP_QUERY: usize = 4096;
/// The idle timeout of a TCP connection, and the timeout of a query on it.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves names of the mesh.
pub struct Names {
    network: Arc<str>,
    published: Arc<Published>,
    subscriber: Subscriber,
    routed: Routed,
}

/// The result of a query.
#[derive(Debug, PartialEq)]
enum DnsAnswer {
    /// These addresses; none if the name has none of the queried type.
    Addresses(Vec<IpAddr>),
    /// The name is not part of the mesh.
    NotInMesh,
}

impl Names {
    /// Creates a resolver that reads the published view and requests services that are not in it.
    pub fn new(network: Arc<str>, published: Arc<Published>, subscriber: Subscriber) -> Self {
        Self { network, published, subscriber, routed: Routed::of_this_pod() }
    }

    async fn service(&self, name: &str) -> Option<Arc<Service>> {
        let hostname = name.to_owned();
        let known = self.published.newest().services.get(&*hostname).cloned();
        let service = match known {
            Some(service) => service,
            None => {
                if self.demand(Kind::Service, hostname.as_str()).await != Outcome::Present {
                    return None;
                }
                self.published.newest().services.get(&*hostname)?.clone()
            }
        };
        self.published.mark_used([&service.hostname]);
        if !service.headless || service.endpoints.is_some() {
            return Some(service);
        }
        // The answer is the addresses of its pods.
        let endpoints = wire::name::endpoints(&hostname, &self.network);
        self.subscriber.subscribe(Kind::Endpoint, endpoints.as_str());
        self.demand(Kind::Endpoint, endpoints).await;
        Some(self.published.newest().services.get(&*hostname).cloned().unwrap_or(service))
    }

    async fn demand(&self, kind: Kind, name: impl Into<Box<str>>) -> Outcome {
        mesh::demand(&self.subscriber, &self.published.newest().settings, kind, name).await
    }

    async fn answer(&self, name: &str, kind: RecordType) -> DnsAnswer {
        let domain = self.published.newest().settings.cluster_domain.clone();
        let Some(name) = MeshName::parse(name, &domain) else { return DnsAnswer::NotInMesh };
        match (self.service(&name.service).await, name.member) {
            (Some(service), None) => addresses_of(&service, kind, self.routed),
            (Some(service), Some(member)) => addresses_of_member(&service, &member, kind),
            (None, _) => DnsAnswer::NotInMesh,
        }
    }
}

/// Returns a service's addresses of the queried type. A headless service has the addresses of its pods in this network, of all
/// clusters; without pods here, the address that stands for those behind gateways. Without either, the cluster's own DNS
/// answers.
fn addresses_of(service: &Service, kind: RecordType, routed: Routed) -> DnsAnswer {
    let is_kind = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return DnsAnswer::NotInMesh;
    }
    if service.headless {
        let pods: Vec<IpAddr> = service.ready_pods().flat_map(DirectEndpoint::ips).collect();
        if !pods.is_empty() {
            return DnsAnswer::Addresses(pods.into_iter().filter(|pod| is_kind(&pod)).collect());
        }
    }
    if service.addresses.is_empty() {
        return DnsAnswer::NotInMesh;
    }
    // An address that the controller allocated exists in both families, whatever the pod has.
    let usable = |address: &&IpAddr| service.own_addresses > 0 || routed.includes(**address);
    DnsAnswer::Addresses(service.dns_addresses().iter().filter(usable).find(is_kind).copied().into_iter().collect())
}

/// The address families to which the pod has a route.
#[derive(Debug, Clone, Copy)]
struct Routed {
    ipv4: bool,
    ipv6: bool,
}

impl Routed {
    /// Asks the kernel for a route to the addresses that the controller allocates. A pod without a route to either gets both.
    fn of_this_pod() -> Self {
        // Connecting a datagram socket sends nothing; it fails without a route.
        let is_routed = |from: IpAddr, to: IpAddr| {
            std::net::UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((to, 9))).is_ok()
        };
        let ipv4 = is_routed(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(240, 240, 0, 1).into());
        let allocated = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, 1);
        let ipv6 = is_routed(Ipv6Addr::UNSPECIFIED.into(), allocated.into());
        Routed { ipv4: ipv4 || !ipv6, ipv6: ipv6 || !ipv4 }
    }

    fn includes(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// Returns the addresses of a headless service's ready pods in this network, of all clusters, that have this hostname. A pod
/// behind a gateway has no address here.
fn addresses_of_member(service: &Service, member: &str, kind: RecordType) -> DnsAnswer {
    let is_kind = |address: &IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    let named = service.ready_pods().filter(|pod| *pod.hostname == *member && !member.is_empty());
    let addresses: Vec<IpAddr> = named.flat_map(DirectEndpoint::ips).collect();
    if !service.headless || addresses.is_empty() || !matches!(kind, RecordType::A | RecordType::AAAA) {
        return DnsAnswer::NotInMesh;
    }
    DnsAnswer::Addresses(addresses.into_iter().filter(is_kind).collect())
}

/// A DNS name that may be one of the mesh: `<service>.<namespace>.svc.<domain>`, or `<member>.` before that.
#[derive(Debug, PartialEq)]
struct MeshName {
    /// The service's hostname.
    service: String,
    /// The hostname of a pod of a headless service.
    member: Option<String>,
}

impl MeshName {
    fn parse(name: &str, domain: &str) -> Option<Self> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = name.strip_suffix(domain)?.strip_suffix(".svc.")?.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        match labels[..] {
            [_, _] => Some(MeshName { service: name, member: None }),
            [member, service, namespace] => {
                let service = format!("{service}.{namespace}.svc.{domain}");
                Some(MeshName { service, member: Some(member.to_owned()) })
            }
            _ => None,
        }
    }
}

/// Serves DNS on loopback at `port`. Must be called within a `LocalSet`, and serves as long as it lives.
///
/// # Errors
/// Returns an error if the port is in use.
pub async fn serve(names: Names, port: u16, mark: Option<u32>) -> io::Result<()> {
    let server = Rc::new(Server { names, mark, permits: Arc::new(Semaphore::new(MAX_QUERIES)) });
    // Not the wildcard address: clients drop answers from another address than the queried one.
    for (ip, needed) in [(IpAddr::V4(Ipv4Addr::LOCALHOST), true), (IpAddr::V6(Ipv6Addr::LOCALHOST), false)] {
        let address = SocketAddr::new(ip, port);
        match bind(address).await {
            Ok((udp, tcp)) => {
                tokio::task::spawn_local(server.clone().datagrams(Rc::new(udp)));
                tokio::task::spawn_local(server.clone().streams(tcp));
            }
            Err(error) if needed => {
                return Err(io::Error::new(error.kind(), format!("cannot listen for DNS at {address}: {error}")));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

struct Server {
    names: Names,
    mark: Option<u32>,
    permits: Arc<Semaphore>,
}

impl Server {
    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let mut buffer = vec![0; MAX_UDP_QUERY];
        loop {
            // Never closed.
            let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error for an earlier answer.
                Err(_) => continue,
            };
            let (server, socket, query) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            tokio::task::spawn_local(async move {
                if let Some(answer) = server.respond(&query, false).await {
                    let _ = socket.send_to(&answer, client).await;
                }
                drop(permit);
            });
        }
    }

    async fn streams(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::task::spawn_local(async move {
                        // Clients may disconnect at any time.
                        let _ = server.conversation(stream).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Serves queries over TCP, in order (RFC 1035 §4.2.2).
    async fn conversation(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = tokio::time::timeout(TCP_IDLE_TIMEOUT, stream.read_u16()).await??;
            let mut query = vec![0; length.into()];
            tokio::time::timeout(TCP_IDLE_TIMEOUT, stream.read_exact(&mut query)).await??;
            let Some(answer) = self.respond(&query, true).await else { return Ok(()) };
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
        }
    }

    /// Returns the response to a query, or `None` if the message is not a query.
    async fn respond(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let message = Message::from_vec(query).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let question = message.queries.first()?;
        let name = question.name().to_ascii();
        match self.names.answer(&name, question.query_type()).await {
            DnsAnswer::Addresses(addresses) => respond_with(&message, &addresses),
            DnsAnswer::NotInMesh => match forward::forward(query, over_tcp, self.mark).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    tracing::debug!(%error, name, "no DNS server answered");
                    server_failure(&message)
                }
            },
        }
    }
}

fn respond_with(query: &Message, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut answer = response_to(query, ResponseCode::NoError);
    let name = query.queries.first()?.name();
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => RData::A((*address).into()),
            IpAddr::V6(address) => RData::AAAA((*address).into()),
        };
        answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
    answer.to_vec().ok()
}

fn server_failure(query: &Message) -> Option<Vec<u8>> {
    response_to(query, ResponseCode::ServFail).to_vec().ok()
}

fn response_to(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = code == ResponseCode::NoError;
    answer.metadata.response_code = code;
    answer.add_queries(query.queries.iter().cloned());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::Name;

    #[test]
    fn only_names_of_services_are_looked_up() {
        let ours = "reviews.default.svc.cluster.local";
        for name in [ours, "reviews.default.svc.cluster.local.", "Reviews.Default.svc.cluster.local"] {
            let expected = MeshName { service: ours.into(), member: None };
            assert_eq!(MeshName::parse(name, "cluster.local"), Some(expected), "{name}");
        }
        let member = MeshName { service: ours.into(), member: Some("db-0".into()) };
        assert_eq!(MeshName::parse("DB-0.reviews.default.svc.cluster.local", "cluster.local"), Some(member));
        for name in [
            "example.com",
            "reviews",
            "svc.cluster.local",
            "default.svc.cluster.local",
            ".default.svc.cluster.local",
            "www.example.com.default.svc.cluster.local",
            "..default.svc.cluster.local",
            "reviews.default.svc.other.local",
        ] {
            assert_eq!(MeshName::parse(name, "cluster.local"), None, "{name}");
        }
    }

    #[test]
    fn answers_with_the_queried_address_family() {
        let addresses_of = |service: &Service, kind| addresses_of(service, kind, BOTH);
        let service = |addresses: &[&str], headless| Service {
            hostname: "reviews.default.svc.cluster.local".into(),
            name: "reviews".into(),
            namespace: "default".into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            headless,
            ..Service::default()
        };
        let both = service(&["10.96.0.7", "240.240.1.1"], false);
        let first = DnsAnswer::Addresses(vec!["10.96.0.7".parse().unwrap()]);
        assert_eq!(addresses_of(&both, RecordType::A), first);
        assert_eq!(addresses_of(&both, RecordType::AAAA), DnsAnswer::Addresses(vec![]));
        assert_eq!(addresses_of(&both, RecordType::SRV), DnsAnswer::NotInMesh);
        assert_eq!(addresses_of(&service(&[], true), RecordType::A), DnsAnswer::NotInMesh);
    }

    const BOTH: Routed = Routed { ipv4: true, ipv6: true };

    fn answer(addresses: &[&str]) -> DnsAnswer {
        DnsAnswer::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_dual_stack_service_has_an_address_of_each_family() {
        let service = |addresses: &[&str], own_addresses| Service {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            own_addresses,
            ..Service::default()
        };
        let own = service(&["10.96.0.7", "fd00:10:96::7", "240.240.1.1", "2001:2::f0f0:101"], 2);
        assert_eq!(addresses_of(&own, RecordType::A, BOTH), answer(&["10.96.0.7"]));
        assert_eq!(addresses_of(&own, RecordType::AAAA, BOTH), answer(&["fd00:10:96::7"]));
        // The cluster's Service has one family, whatever other clusters have.
        let one = service(&["10.96.0.7", "240.240.1.1", "2001:2::f0f0:101"], 1);
        assert_eq!(addresses_of(&one, RecordType::AAAA, BOTH), answer(&[]));
        // A pod without IPv6 cannot use an allocated IPv6 address.
        let shared = service(&["240.240.1.1", "2001:2::f0f0:101"], 0);
        assert_eq!(addresses_of(&shared, RecordType::AAAA, BOTH), answer(&["2001:2::f0f0:101"]));
        let only_ipv4 = Routed { ipv4: true, ipv6: false };
        assert_eq!(addresses_of(&shared, RecordType::AAAA, only_ipv4), answer(&[]));
        assert_eq!(addresses_of(&shared, RecordType::A, only_ipv4), answer(&["240.240.1.1"]));
    }

    #[test]
    fn a_headless_service_has_the_addresses_of_its_pods() {
        let addresses_of = |service: &Service, kind| addresses_of(service, kind, BOTH);
        let pod = |ip: &str, further_ip: Option<&str>, hostname: &str, health| mesh::Endpoint {
            id: ip.into(),
            cluster: "west".into(),
            network: "net-west".into(),
            locality: Default::default(),
            health,
            weight: 1,
            reach: mesh::Reach::Direct(Arc::new(mesh::DirectEndpoint {
                ip: ip.parse().unwrap(),
                further_ip: further_ip.map(|ip| ip.parse().unwrap()),
                ports: [].into(),
                identity: None,
                mutual_tls: true,
                workload: Arc::default(),
                labels: [].into(),
                pod: ip.into(),
                hostname: hostname.into(),
                only_node: None,
            })),
        };
        let mut service = Service {
            hostname: "db.default.svc.cluster.local".into(),
            name: "db".into(),
            namespace: "default".into(),
            addresses: ["240.240.1.1".parse().unwrap()].into(),
            headless: true,
            ..Service::default()
        };
        // All endpoints are behind gateways.
        let shared = DnsAnswer::Addresses(vec!["240.240.1.1".parse().unwrap()]);
        assert_eq!(addresses_of(&service, RecordType::A), shared);
        let (ready, unready) = (balance::Health::Ready, balance::Health::Unready);
        let pods = [("10.244.0.1", ready), ("10.244.0.2", unready), ("10.244.0.3", ready)]
            .map(|(ip, of)| pod(ip, None, "", of));
        service.endpoints = Some(pods.into());
        let here = DnsAnswer::Addresses(vec!["10.244.0.1".parse().unwrap(), "10.244.0.3".parse().unwrap()]);
        assert_eq!(addresses_of(&service, RecordType::A), here);
        assert_eq!(addresses_of(&service, RecordType::AAAA), DnsAnswer::Addresses(vec![]));
        // Pods of both families have a record of each type, whichever address the proxy would use.
        let first = pod("10.244.0.1", Some("fd00::1"), "db-0", ready);
        let pods = [first, pod("fd00::2", Some("10.244.0.2"), "db-1", ready), pod("10.244.0.3", None, "db-2", unready)];
        service.endpoints = Some(pods.into());
        // A member has its own name while it is ready; others are left to the cluster's DNS.
        for (member, expected) in [
            ("db-0", answer(&["10.244.0.1"])),
            ("db-1", answer(&["10.244.0.2"])),
            ("db-2", DnsAnswer::NotInMesh),
            ("db-3", DnsAnswer::NotInMesh),
            ("", DnsAnswer::NotInMesh),
        ] {
            assert_eq!(addresses_of_member(&service, member, RecordType::A), expected, "{member}");
        }
        assert_eq!(addresses_of_member(&service, "db-0", RecordType::AAAA), answer(&["fd00::1"]));
        assert_eq!(addresses_of_member(&service, "db-0", RecordType::SRV), DnsAnswer::NotInMesh);
        service.headless = false;
        assert_eq!(addresses_of_member(&service, "db-0", RecordType::A), DnsAnswer::NotInMesh);
        service.headless = true;
        let Some(endpoints) = &mut service.endpoints else { unreachable!() };
        *endpoints = endpoints.iter().take(2).cloned().collect();
        assert_eq!(addresses_of(&service, RecordType::A), answer(&["10.244.0.1", "10.244.0.2"]));
        assert_eq!(addresses_of(&service, RecordType::AAAA), answer(&["fd00::1", "fd00::2"]));
    }

    #[test]
    fn responses_repeat_the_query() {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii("a.b.svc.cluster.local.").unwrap(), RecordType::A));
        let answer = respond_with(&question, &["10.0.0.1".parse().unwrap()]).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::NoError));
        assert_eq!(answer.queries, question.queries);
        assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::new(10, 0, 0, 1).into()));
        let failed = Message::from_vec(&server_failure(&question).unwrap()).unwrap();
        assert_eq!((failed.metadata.response_code, failed.answers.len()), (ResponseCode::ServFail, 0));
    }
}
