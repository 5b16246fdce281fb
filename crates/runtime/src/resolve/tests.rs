use super::*;

use std::net::Ipv6Addr;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

/// A pod's `resolv.conf`. Tests replace the servers.
const RESOLV_CONF: &str = "# written by the node
nameserver 127.0.0.1
search default.svc.cluster.local cluster.local
options ndots:5
";

/// Returns the pod's configuration with these servers.
fn system(servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let (config, options) = parse_resolv_conf(RESOLV_CONF).unwrap();
    let servers = servers.iter().map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        config.connections.iter_mut().for_each(|connection| connection.port = server.port());
        config
    });
    (ResolverConfig::from_parts(None, config.search().to_vec(), servers.collect()), options)
}

#[tokio::test]
async fn an_address_resolves_to_itself() {
    assert_eq!(lookup("192.0.2.1", None).await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(lookup("[2001:db8::1]", None).await.unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn names_in_the_hosts_file_are_resolved() {
    // Every machine's hosts file has this name.
    let found = lookup("localhost", None).await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
}

/// A DNS server on loopback that knows one name. It sends an unrelated response before each answer.
async fn server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            let mut stray = Message::response(question.metadata.id.wrapping_sub(7), OpCode::Query);
            stray.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A::new(6, 6, 6, 6))));
            socket.send_to(&stray.to_vec().unwrap(), peer).await.unwrap();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            let known = query.name().to_ascii() == "controller.mesh.svc.cluster.local.";
            match (known, query.query_type()) {
                (true, RecordType::A) => {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A::new(10, 96, 0, 7))));
                }
                (true, RecordType::AAAA) => {
                    let address = RData::AAAA(AAAA(Ipv6Addr::LOCALHOST));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 5, address));
                }
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn both_address_types_are_queried_along_the_search_list() {
    // The first server is closed, and the lookup goes on with the second.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = [closed, server().await];
    let (config, options) = system(&servers);
    let (found, holds) = lookup_with(config, options, "controller.mesh.svc", None).await.unwrap();
    assert_eq!(found, [IpAddr::from([10, 96, 0, 7]), Ipv6Addr::LOCALHOST.into()]);
    assert!(holds <= Duration::from_secs(5), "{holds:?}");
    let (config, options) = system(&servers[1..]);
    let missing = lookup_with(config, options, "unknown", None).await.unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{missing}");
}

#[tokio::test]
async fn sockets_carry_the_mark() {
    let provider = MarkedSockets { mark: Some(net::PROXY_MARK), tasks: TokioHandle::default() };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    match provider.bind_udp(any, any).await {
        Ok(socket) => {
            assert_eq!(socket2::SockRef::from(&socket).mark().unwrap(), net::PROXY_MARK);
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            eprintln!("not checked: this user may not mark sockets");
        }
    }
}
