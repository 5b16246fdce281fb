//! The application's DNS: services of the mesh are answered from what the controller tells, everything else by the
//! servers that the pod has anyway.
//!
//! Without this, a service that exists in another cluster only would have no name here. Answers are those of Istio's DNS
//! proxy: the service's address in this cluster, else its address for the whole mesh; no data for the other family.
//! Questions that are not ours are passed on byte for byte, so whatever they use works as before.

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

use proxy::mesh::{self, Service, Shared};

mod forward;

/// How long an answer may be kept (Istio's).
const TTL: u32 = 30;
/// Questions under way at a time; more wait in the socket's buffer.
const AT_ONCE: usize = 256;
/// The largest message over UDP that we take; larger ones are cut off and then refused.
const LARGEST_UDP: usize = 4096;
/// For a question over TCP to arrive, and between questions.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Knows the names of the mesh.
pub struct Names {
    network: Arc<str>,
    shared: Arc<Shared>,
    subscriber: Subscriber,
}

/// What a question comes to.
#[derive(Debug, PartialEq)]
enum Answer {
    /// These addresses; none where the name has none of this kind.
    Addresses(Vec<IpAddr>),
    /// Not a name of the mesh.
    NotOurs,
}

impl Names {
    /// Reads what is published, and asks for what is not there.
    pub fn new(network: Arc<str>, shared: Arc<Shared>, subscriber: Subscriber) -> Self {
        Self { network, shared, subscriber }
    }

    async fn service(&self, name: &str) -> Option<Arc<Service>> {
        let domain = self.shared.newest().settings.cluster_domain.clone();
        let hostname = hostname_of(name, &domain)?;
        let known = self.shared.newest().services.get(&*hostname).cloned();
        let service = match known {
            Some(service) => service,
            None => {
                if mesh::ask(&self.subscriber, Kind::Service, hostname.as_str()).await != Outcome::Present {
                    return None;
                }
                self.shared.newest().services.get(&*hostname)?.clone()
            }
        };
        self.shared.used([&service.hostname]);
        if !service.headless || service.endpoints.is_some() {
            return Some(service);
        }
        // Its pods are the answer.
        let endpoints = wire::name::endpoints(&hostname, &self.network);
        self.subscriber.subscribe(Kind::Endpoint, endpoints.as_str());
        mesh::ask(&self.subscriber, Kind::Endpoint, endpoints).await;
        Some(self.shared.newest().services.get(&*hostname).cloned().unwrap_or(service))
    }

    async fn answer(&self, name: &str, kind: RecordType) -> Answer {
        match self.service(name).await {
            Some(service) => addresses_of(&service, kind),
            None => Answer::NotOurs,
        }
    }
}

/// Which addresses a service has for this question. A headless service has its pods in this network, of all clusters; where
/// it has none here, the address that stands for those behind gateways. Without either, the cluster's own DNS may know.
fn addresses_of(service: &Service, kind: RecordType) -> Answer {
    let is_kind = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Answer::NotOurs;
    }
    if service.headless {
        let pods: Vec<IpAddr> = service.pod_addresses().collect();
        if !pods.is_empty() {
            return Answer::Addresses(pods.into_iter().filter(|pod| is_kind(&pod)).collect());
        }
    }
    if service.addresses.is_empty() {
        return Answer::NotOurs;
    }
    // The first one of a family is the cluster's own, if it has one.
    Answer::Addresses(service.addresses.iter().find(is_kind).copied().into_iter().collect())
}

/// The hostname of a service that a DNS name is, if it can be one: `<service>.<namespace>.svc.<domain>`.
fn hostname_of(name: &str, domain: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let service = name.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (service, namespace) = service.split_once('.')?;
    (!service.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then_some(name)
}

/// Serves on loopback at `port`, for as long as the local set lives. Must be called inside one.
///
/// # Errors
/// Where the port is taken.
pub async fn serve(names: Names, port: u16, mark: Option<u32>) -> io::Result<()> {
    let server = Rc::new(Server { names, mark, at_once: Arc::new(Semaphore::new(AT_ONCE)) });
    // Not the wildcard address: an answer from another address than was asked is no answer.
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
    at_once: Arc<Semaphore>,
}

impl Server {
    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let mut buffer = vec![0; LARGEST_UDP];
        loop {
            // Never closed.
            let Ok(permit) = self.at_once.clone().acquire_owned().await else { return };
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Told of an earlier answer that nobody took.
                Err(_) => continue,
            };
            let (server, socket, question) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            tokio::task::spawn_local(async move {
                if let Some(answer) = server.respond(&question, false).await {
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
                        // A client that leaves is no error of ours.
                        let _ = server.conversation(stream).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Questions over TCP, one after the other (RFC 1035 §4.2.2).
    async fn conversation(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
            let mut question = vec![0; length.into()];
            tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
            let Some(answer) = self.respond(&question, true).await else { return Ok(()) };
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
        }
    }

    /// The answer to a question; none to what is no question.
    async fn respond(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let message = Message::from_vec(question).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let asked = message.queries.first()?;
        let name = asked.name().to_ascii();
        match self.names.answer(&name, asked.query_type()).await {
            Answer::Addresses(addresses) => respond_with(&message, &addresses),
            Answer::NotOurs => match forward::ask(question, over_tcp, self.mark).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    tracing::debug!(%error, name, "no server answered");
                    failed(&message)
                }
            },
        }
    }
}

fn respond_with(question: &Message, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut answer = response_to(question, ResponseCode::NoError);
    let name = question.queries.first()?.name();
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => RData::A((*address).into()),
            IpAddr::V6(address) => RData::AAAA((*address).into()),
        };
        answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
    answer.to_vec().ok()
}

fn failed(question: &Message) -> Option<Vec<u8>> {
    response_to(question, ResponseCode::ServFail).to_vec().ok()
}

fn response_to(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = code == ResponseCode::NoError;
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::Name;

    #[test]
    fn only_names_of_services_are_asked_for() {
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
    fn answers_the_family_that_was_asked() {
        let service = |addresses: &[&str], headless| Service {
            hostname: "reviews.default.svc.cluster.local".into(),
            name: "reviews".into(),
            namespace: "default".into(),
            ports: [].into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            headless,
            endpoints: None,
        };
        let both = service(&["10.96.0.7", "240.240.1.1"], false);
        let first = Answer::Addresses(vec!["10.96.0.7".parse().unwrap()]);
        assert_eq!(addresses_of(&both, RecordType::A), first);
        assert_eq!(addresses_of(&both, RecordType::AAAA), Answer::Addresses(vec![]));
        assert_eq!(addresses_of(&both, RecordType::SRV), Answer::NotOurs);
        assert_eq!(addresses_of(&service(&[], true), RecordType::A), Answer::NotOurs);
    }

    #[test]
    fn a_headless_service_is_its_pods() {
        let pod = |ip: &str, health| mesh::Endpoint {
            id: ip.into(),
            cluster: "west".into(),
            network: "net-west".into(),
            locality: Default::default(),
            health,
            weight: 1,
            reach: mesh::Reach::Direct(Arc::new(mesh::Direct {
                ip: ip.parse().unwrap(),
                ports: [].into(),
                identity: None,
                mutual_tls: true,
                labels: Arc::default(),
                pod: ip.into(),
            })),
        };
        let mut service = Service {
            hostname: "db.default.svc.cluster.local".into(),
            name: "db".into(),
            namespace: "default".into(),
            ports: [].into(),
            addresses: ["240.240.1.1".parse().unwrap()].into(),
            headless: true,
            endpoints: None,
        };
        // All of it is behind gateways.
        let shared = Answer::Addresses(vec!["240.240.1.1".parse().unwrap()]);
        assert_eq!(addresses_of(&service, RecordType::A), shared);
        let (ready, unready) = (balance::Health::Ready, balance::Health::Unready);
        let pods = [pod("10.244.0.1", ready), pod("10.244.0.2", unready), pod("10.244.0.3", ready)];
        service.endpoints = Some(pods.into());
        let here = Answer::Addresses(vec!["10.244.0.1".parse().unwrap(), "10.244.0.3".parse().unwrap()]);
        assert_eq!(addresses_of(&service, RecordType::A), here);
        assert_eq!(addresses_of(&service, RecordType::AAAA), Answer::Addresses(vec![]));
    }

    #[test]
    fn responses_repeat_the_question() {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii("a.b.svc.cluster.local.").unwrap(), RecordType::A));
        let answer = respond_with(&question, &["10.0.0.1".parse().unwrap()]).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::NoError));
        assert_eq!(answer.queries, question.queries);
        assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::new(10, 0, 0, 1).into()));
        let failed = Message::from_vec(&failed(&question).unwrap()).unwrap();
        assert_eq!((failed.metadata.response_code, failed.answers.len()), (ResponseCode::ServFail, 0));
    }
}
