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

use proxy::mesh::{self, Published, Service};

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
        Self { network, published, subscriber }
    }

    async fn service(&self, name: &str) -> Option<Arc<Service>> {
        let domain = self.published.newest().settings.cluster_domain.clone();
        let hostname = hostname_of(name, &domain)?;
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
        match self.service(name).await {
            Some(service) => addresses_of(&service, kind),
            None => DnsAnswer::NotInMesh,
        }
    }
}

/// Returns a service's addresses of the queried type. A headless service has the addresses of its pods in this network, of all
/// clusters; without pods here, the address that stands for those behind gateways. Without either, the cluster's own DNS
/// answers.
fn addresses_of(service: &Service, kind: RecordType) -> DnsAnswer {
    let is_kind = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return DnsAnswer::NotInMesh;
    }
    if service.headless {
        let pods: Vec<IpAddr> = service.pod_addresses().collect();
        if !pods.is_empty() {
            return DnsAnswer::Addresses(pods.into_iter().filter(|pod| is_kind(&pod)).collect());
        }
    }
    if service.addresses.is_empty() {
        return DnsAnswer::NotInMesh;
    }
    // The first address of a family is the cluster's own, if there is one.
    DnsAnswer::Addresses(service.addresses.iter().find(is_kind).copied().into_iter().collect())
}

/// Returns the hostname of the service that a DNS name may be: `<service>.<namespace>.svc.<domain>`.
fn hostname_of(name: &str, domain: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let service = name.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (service, namespace) = service.split_once('.')?;
    (!service.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then_some(name)
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
            assert_eq!(hostname_of(name, "cluster.local").as_deref(), Some(ours), "{name}");
        }
        for name in [
            "example.com",
            "reviews",
            "svc.cluster.local",
            "default.svc.cluster.local",
            ".default.svc.cluster.local",
            "example.com.default.svc.cluster.local",
            "reviews.default.svc.other.local",
        ] {
            assert_eq!(hostname_of(name, "cluster.local"), None, "{name}");
        }
    }

    #[test]
    fn answers_with_the_queried_address_family() {
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

    #[test]
    fn a_headless_service_has_the_addresses_of_its_pods() {
        let pod = |ip: &str, health| mesh::Endpoint {
            id: ip.into(),
            cluster: "west".into(),
            network: "net-west".into(),
            locality: Default::default(),
            health,
            weight: 1,
            reach: mesh::Reach::Direct(Arc::new(mesh::DirectEndpoint {
                ip: ip.parse().unwrap(),
                ports: [].into(),
                identity: None,
                mutual_tls: true,
                workload: Arc::default(),
                labels: [].into(),
                pod: ip.into(),
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
        let pods = [pod("10.244.0.1", ready), pod("10.244.0.2", unready), pod("10.244.0.3", ready)];
        service.endpoints = Some(pods.into());
        let here = DnsAnswer::Addresses(vec!["10.244.0.1".parse().unwrap(), "10.244.0.3".parse().unwrap()]);
        assert_eq!(addresses_of(&service, RecordType::A), here);
        assert_eq!(addresses_of(&service, RecordType::AAAA), DnsAnswer::Addresses(vec![]));
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
