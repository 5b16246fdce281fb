use super::*;

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA};

#[test]
fn reads_resolv_conf() {
    let config = Config::parse(
        "# made by the node\nnameserver 10.96.0.10\nnameserver fd00::a ; second\nsearch default.svc.cluster.local svc.cluster.local. cluster.local\noptions ndots:5 edns0\n",
    );
    assert_eq!(config.servers, ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]);
    assert_eq!(config.search, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
    assert_eq!(config.ndots, 5);
    assert_eq!(Config::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
}

#[test]
fn tries_search_domains_by_the_number_of_dots() {
    let config = Config { servers: vec![], search: vec!["a.b".into(), "b".into()], ndots: 2 };
    assert_eq!(config.candidates("x.y"), ["x.y.a.b.", "x.y.b.", "x.y."]);
    assert_eq!(config.candidates("x.y.z"), ["x.y.z.", "x.y.z.a.b.", "x.y.z.b."]);
    assert_eq!(config.candidates("x."), ["x."]);
}

#[test]
fn finds_hosts() {
    let text = "127.0.0.1 localhost\n::1 localhost ip6-localhost # loopback\n10.0.0.1 pod Pod.default\nbroken\n";
    assert_eq!(in_hosts(text, "localhost"), ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    assert_eq!(in_hosts(text, "pod.DEFAULT."), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert!(in_hosts(text, "loopback").is_empty());
}

#[tokio::test]
async fn an_address_is_its_own() {
    assert_eq!(lookup("192.0.2.1", None).await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(lookup("[2001:db8::1]", None).await.unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
}

/// A DNS server on loopback that knows one name, and answers a stray message first.
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
            socket.send_to(b"garbage", peer).await.unwrap();
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
async fn asks_both_kinds_along_the_search_list() {
    // The first server is closed, and the lookup goes on with the second.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = Config {
        servers: vec![closed, server().await],
        search: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
        ndots: 5,
    };
    let found = lookup_with(&config, "controller.mesh.svc", None).await.unwrap();
    assert_eq!(found, [IpAddr::from([10, 96, 0, 7]), Ipv6Addr::LOCALHOST.into()]);
    let missing = lookup_with(&config, "nobody", None).await.unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}
