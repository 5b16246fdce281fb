//! Links, addresses, routes, and reading frames off a link.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ipnet::IpNet;
use net::capture::{Capture, tcp_payload};
use net::link::{Links, Route, Via};
use net::namespace::NetNamespace;

pub(super) const TESTS: &[harness::Test] = &[
    ("links::two_routed_pods_reach_each_other", two_routed_pods_reach_each_other),
    ("links::a_bridge_joins_networks", a_bridge_joins_networks),
    ("links::a_bridge_keeps_its_hardware_address", a_bridge_keeps_its_hardware_address),
    ("links::errors_name_what_is_missing", errors_name_what_is_missing),
];

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A router namespace with pods that are routed, not bridged, as the node agent creates them.
pub(super) struct Cluster {
    pub router: NetNamespace,
    pub pods: Vec<NetNamespace>,
}

/// Returns the IPv4 address of a pod: 10.244.0.2 and up. Its IPv6 address is fd00:10::2 and up.
pub(super) fn pod_address(index: usize) -> IpAddr {
    ip(&format!("10.244.0.{}", index + 2))
}

pub(super) fn cluster(pods: usize) -> Cluster {
    let router = NetNamespace::create().unwrap();
    router.set("ipv4/ip_forward", "1").unwrap();
    router.set("ipv6/conf/all/forwarding", "1").unwrap();
    let pods = (0..pods)
        .map(|index| {
            let pod = NetNamespace::create().unwrap();
            let host_side = format!("veth{index}");
            let mut outer = Links::open_in(&router).unwrap();
            outer.add_veth(&host_side, "eth0", Some(&pod)).unwrap();
            outer.add_address(&host_side, net("169.254.1.1/32")).unwrap();
            outer.up(&host_side).unwrap();
            let mut inner = Links::open_in(&pod).unwrap();
            let six = ip(&format!("fd00:10::{}", index + 2));
            inner.add_address("eth0", IpNet::from(pod_address(index))).unwrap();
            inner.add_address("eth0", IpNet::from(six)).unwrap();
            inner.up("eth0").unwrap();
            inner.up("lo").unwrap();
            outer.add_address(&host_side, net("fe80::1/64")).unwrap();
            for (default, gateway) in [("0.0.0.0/0", "169.254.1.1"), ("::/0", "fe80::1")] {
                let via = Via::Gateway(ip(gateway), "eth0");
                inner.add_route(Route { to: net(default), via, source: None }).unwrap();
            }
            for address in [pod_address(index), six] {
                let route = Route { to: address.into(), via: Via::Link(&host_side), source: None };
                outer.add_route(route).unwrap();
            }
            pod
        })
        .collect();
    let mut links = Links::open_in(&router).unwrap();
    links.add_address("lo", net("10.96.0.1/32")).unwrap();
    Cluster { router, pods }
}

fn two_routed_pods_reach_each_other() {
    let cluster = cluster(2);
    for server in [pod_address(1), ip("fd00:10::3")] {
        let listener = cluster.pods[1].run_in(|| TcpListener::bind((server, 9080)).unwrap()).unwrap();
        let serve = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"plain words").unwrap();
            peer
        });
        let mut frames = cluster.router.run_in(|| Capture::open("veth1", Duration::from_millis(500)).unwrap()).unwrap();
        let mut stream = cluster.pods[0]
            .run_in(|| TcpStream::connect_timeout(&SocketAddr::new(server, 9080), Duration::from_secs(2)).unwrap())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "plain words");
        let peer = serve.join().unwrap().ip();
        if server.is_ipv4() {
            assert_eq!(peer, pod_address(0));
            let mut buffer = [0; 2048];
            let mut seen = false;
            while let Some(frame) = frames.next_frame(&mut buffer).unwrap() {
                seen |= tcp_payload(frame).is_some_and(|(from, _, data)| from == 9080 && data == b"plain words");
            }
            assert!(seen, "the capture shows the payload");
        }
    }
}

fn a_bridge_joins_networks() {
    let wire = NetNamespace::create().unwrap();
    let ends = [NetNamespace::create().unwrap(), NetNamespace::create().unwrap()];
    let mut links = Links::open_in(&wire).unwrap();
    links.add_bridge("wire").unwrap();
    links.up("wire").unwrap();
    for (index, end) in ends.iter().enumerate() {
        let port = format!("port{index}");
        // Created here and moved: the other way to give a namespace one end of a link.
        links.add_veth(&port, "uplink-to-be", None).unwrap();
        links.move_to("uplink-to-be", end).unwrap();
        links.attach(&port, "wire").unwrap();
        links.up(&port).unwrap();
        let mut inner = Links::open_in(end).unwrap();
        inner.up("uplink-to-be").unwrap();
        inner.add_address("uplink-to-be", net(&format!("203.0.113.{}/24", index + 1))).unwrap();
        for extra in 10..20 {
            inner.add_address("uplink-to-be", net(&format!("203.0.113.{}/32", extra + 10 * index))).unwrap();
        }
    }
    let listener = ends[1].run_in(|| TcpListener::bind("203.0.113.25:80").unwrap()).unwrap();
    let address: SocketAddr = "203.0.113.25:80".parse().unwrap();
    let stream = ends[0].run_in(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).unwrap()).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
}

/// By default a bridge has the lowest address of its links. A neighbour that has cached that address could not reach the
/// bridge after a link with a lower one is attached.
fn a_bridge_keeps_its_hardware_address() {
    let bridge = NetNamespace::create().unwrap();
    let mut links = Links::open_in(&bridge).unwrap();
    links.add_bridge("br0").unwrap();
    links.add_address("br0", net("203.0.113.254/24")).unwrap();
    links.up("br0").unwrap();
    let address: SocketAddr = "203.0.113.254:80".parse().unwrap();
    let listener = bridge.run_in(|| TcpListener::bind(address).unwrap()).unwrap();
    let mut ends = Vec::new();
    for last in [0x30, 0x20, 0x10] {
        let (end, port) = (NetNamespace::create().unwrap(), format!("port{last}"));
        links.add_veth(&port, "eth0", Some(&end)).unwrap();
        links.set_hardware_address(&port, [0, 0, 0, 0, 0, last]).unwrap();
        links.attach(&port, "br0").unwrap();
        links.up(&port).unwrap();
        let mut inner = Links::open_in(&end).unwrap();
        inner.add_address("eth0", net(&format!("203.0.113.{last}/24"))).unwrap();
        inner.up("eth0").unwrap();
        ends.push(end);
        // The first end caches the bridge's address.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).unwrap();
        let _stream = ends[0].run_in(connect).unwrap();
        listener.accept().unwrap();
    }
}

fn errors_name_what_is_missing() {
    let alone = NetNamespace::create().unwrap();
    let mut links = Links::open_in(&alone).unwrap();
    let error = links.delete("nothing").unwrap_err();
    assert!(error.is_missing(), "{error}");
    assert_eq!(error.to_string(), "cannot remove link nothing: No such device (os error 19)");
    let error = links.add_veth("much-too-long-a-name", "x", None).unwrap_err();
    assert!(error.to_string().starts_with("cannot create link much-too-long-a-name with peer x: "), "{error}");
    assert!(alone.set("ipv4/no_such_thing", "1").unwrap_err().to_string().contains("/proc/sys/net/ipv4/no_such_thing"));
    let route = Route { to: net("10.244.0.0/16"), via: Via::Unreachable, source: None };
    links.add_route(route).unwrap();
    let address = SocketAddr::new(pod_address(9), 80);
    let error = alone.run_in(|| TcpStream::connect_timeout(&address, Duration::from_secs(2))).unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
    links.delete_route(route).unwrap();
}
