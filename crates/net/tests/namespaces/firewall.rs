//! Rules of capture and Services, tested with real connections.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use net::firewall::{
    Capture, Cut, PeerLoss, Protocol, Services, VirtualServer, apply_services, cut_connections, install_capture,
    lose_packets, remove_capture,
};
use net::namespace::NetNamespace;
use net::{PROXY_MARK, PROXY_UID};

use super::links::{Cluster, cluster, ip, net, pod_address};

pub(super) const TESTS: &[harness::Test] = &[
    ("firewall::outbound_connections_are_captured", outbound_connections_are_captured),
    ("firewall::the_proxys_user_is_exempt_from_capture", the_proxys_user_is_exempt_from_capture),
    ("firewall::inbound_connections_are_captured", inbound_connections_are_captured),
    ("firewall::connections_of_a_pod_to_itself", connections_of_a_pod_to_itself),
    ("firewall::queries_to_the_pods_own_dns_servers_are_captured", queries_to_the_pods_own_dns_servers_are_captured),
    (
        "firewall::queries_of_pod_and_sidecar_have_separate_conntrack_zones",
        queries_of_pod_and_sidecar_have_separate_conntrack_zones,
    ),
    ("firewall::a_bad_link_loses_packets_of_both_directions", a_bad_link_loses_packets_of_both_directions),
    (
        "firewall::a_cut_stops_connections_to_a_port_in_one_direction",
        a_cut_stops_connections_to_a_port_in_one_direction,
    ),
    ("firewall::services_spread_over_backends", services_spread_over_backends),
    ("firewall::services_without_backends_refuse", services_without_backends_refuse),
    ("firewall::hairpins_and_uplinks_are_masqueraded", hairpins_and_uplinks_are_masqueraded),
    ("firewall::three_hundred_services_fit_one_transaction", three_hundred_services_fit_one_transaction),
];

const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends each client the server's name, the client's address and the original destination.
fn announce(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { continue };
            let original = net::original_destination(&stream).unwrap_or(local);
            let _ = write!(stream, "{name} {} {original}", peer.ip());
        }
    });
}

fn serve(inside: &NetNamespace, address: &str, name: &'static str) {
    let listener = inside.run_in(|| TcpListener::bind(address).unwrap()).unwrap();
    announce(listener, name);
}

fn read_response(stream: std::io::Result<TcpStream>) -> Result<String, std::io::Error> {
    let mut stream = stream?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn call(inside: &NetNamespace, address: SocketAddr) -> Result<String, std::io::Error> {
    inside.run_in(|| read_response(TcpStream::connect_timeout(&address, TIMEOUT))).unwrap()
}

/// Connects like the sidecar: with its mark, and optionally from a source address.
fn call_marked(inside: &NetNamespace, address: SocketAddr, source: Option<IpAddr>) -> Result<String, std::io::Error> {
    inside
        .run_in(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let options =
                    net::Connect { mark: Some(PROXY_MARK), timeout: TIMEOUT, source, ..net::Connect::default() };
                let stream = net::connect(address, &options).await?.into_std()?;
                stream.set_nonblocking(false)?;
                read_response(Ok(stream))
            })
        })
        .unwrap()
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A pod with capture and a sidecar's listeners, and a peer pod.
fn meshed(capture: &Capture) -> Cluster {
    let cluster = cluster(2);
    cluster.pods[0].run_in(|| install_capture(capture).unwrap()).unwrap();
    serve(&cluster.pods[0], "[::]:15001", "outbound");
    serve(&cluster.pods[0], "[::]:15006", "inbound");
    serve(&cluster.pods[0], "[::]:15021", "health");
    serve(&cluster.pods[0], "[::]:9080", "application");
    serve(&cluster.pods[1], "[::]:9080", "peer");
    serve(&cluster.pods[1], "[::]:9081", "peer");
    cluster
}

fn plain(text: String) -> String {
    text.replace("::ffff:", "").replace(['[', ']'], "")
}

fn outbound_connections_are_captured() {
    let capture = Capture {
        exclude_outbound_ports: vec![9081],
        exclude_outbound_cidrs: vec![net("10.244.7.0/24")],
        ..Capture::default()
    };
    let cluster = meshed(&capture);
    let pod = &cluster.pods[0];
    assert_eq!(plain(call(pod, at("10.244.0.3:9080")).unwrap()), "outbound 10.244.0.2 10.244.0.3:9080");
    assert_eq!(plain(call(pod, at("[fd00:10::3]:9080")).unwrap()), "outbound fd00:10::2 fd00:10::3:9080");
    // Destinations that do not exist are captured too: the sidecar decides.
    assert_eq!(plain(call(pod, at("240.240.0.1:80")).unwrap()), "outbound 10.244.0.2 240.240.0.1:80");
    assert!(call(pod, at("10.244.0.3:9081")).unwrap().starts_with("peer "));
    assert!(call(pod, at("10.244.7.9:9080")).is_err(), "an excluded network is not captured");
    assert!(call_marked(pod, at("10.244.0.3:9080"), None).unwrap().starts_with("peer "), "the mark exempts");
    assert!(call_marked(pod, at("[fd00:10::3]:9080"), None).unwrap().starts_with("peer "));
    pod.run_in(|| remove_capture().unwrap()).unwrap();
    assert!(call(pod, at("10.244.0.3:9080")).unwrap().starts_with("peer "));
    pod.run_in(|| remove_capture().unwrap()).unwrap();
}

fn the_proxys_user_is_exempt_from_capture() {
    super::needs_several_users();
    let cluster = meshed(&Capture::default());
    let text = cluster.pods[0]
        .run_in(|| {
            let proxy = rustix::process::Uid::from_raw(PROXY_UID);
            rustix::thread::set_thread_res_uid(proxy, proxy, proxy).unwrap();
            read_response(TcpStream::connect_timeout(&at("10.244.0.3:9080"), TIMEOUT))
        })
        .unwrap();
    assert!(text.unwrap().starts_with("peer "));
}

fn inbound_connections_are_captured() {
    let capture = Capture { exclude_inbound_ports: vec![9090], ..Capture::default() };
    let cluster = meshed(&capture);
    serve(&cluster.pods[0], "[::]:9090", "excluded");
    let outside = &cluster.pods[1];
    assert_eq!(plain(call(outside, at("10.244.0.2:9080")).unwrap()), "inbound 10.244.0.3 10.244.0.2:9080");
    assert_eq!(plain(call(outside, at("[fd00:10::2]:9080")).unwrap()), "inbound fd00:10::3 fd00:10::2:9080");
    assert!(call(outside, at("10.244.0.2:15021")).unwrap().starts_with("health "));
    assert!(call(outside, at("10.244.0.2:9090")).unwrap().starts_with("excluded "));
    // A second installation replaces the first.
    cluster.pods[0].run_in(|| install_capture(&Capture::default()).unwrap()).unwrap();
    assert!(call(outside, at("10.244.0.2:9090")).unwrap().starts_with("inbound "));
}

fn connections_of_a_pod_to_itself() {
    let cluster = meshed(&Capture::default());
    let pod = &cluster.pods[0];
    for (address, loopback, source) in
        [("10.244.0.2", "127.0.0.1", "127.0.0.6"), ("fd00:10::2", "::1", "::6")].map(|(a, b, c)| (ip(a), ip(b), ip(c)))
    {
        let (own, loopback) = (SocketAddr::new(address, 9080), SocketAddr::new(loopback, 9080));
        assert!(call(pod, loopback).unwrap().starts_with("application "), "{loopback} is left alone");
        assert!(call(pod, own).unwrap().starts_with("application "), "the application calls itself directly at {own}");
        // The sidecar's inbound listener connects to the application.
        let text = plain(call_marked(pod, own, Some(source)).unwrap());
        assert_eq!(text, format!("application {source} {address}:9080"));
        // The sidecar's outbound listener connects to its own pod: captured inbound.
        assert_eq!(plain(call_marked(pod, own, None).unwrap()), format!("inbound {address} {address}:9080"));
        assert!(call_marked(pod, loopback, None).unwrap().starts_with("application "));
    }
}

/// Returns capture of a pod with this DNS server.
fn with_dns_server(server: &str) -> Capture {
    Capture { dns_servers: vec![ip(server)], ..Capture::default() }
}

fn queries_to_the_pods_own_dns_servers_are_captured() {
    let cluster = meshed(&with_dns_server("10.96.0.10"));
    let pod = &cluster.pods[0];
    respond_as(pod, "127.0.0.1:15053", "sidecar");
    serve(pod, "127.0.0.1:15053", "names");
    assert_eq!(query(pod, 0, "10.96.0.10:53", None), "sidecar heard question");
    assert!(call(pod, at("10.96.0.10:53")).unwrap().starts_with("names "));
    // Another server answers for itself.
    respond_as(&cluster.pods[1], "10.244.0.3:53", "server");
    assert_eq!(query(pod, 0, "10.244.0.3:53", None), "server heard question");
    assert!(call(pod, at("10.244.0.3:53")).unwrap().starts_with("outbound "), "a connection like any other");
}

/// Connection tracking keeps its decision for a pair of addresses and ports, and ports are reused.
fn queries_of_pod_and_sidecar_have_separate_conntrack_zones() {
    let cluster = meshed(&with_dns_server("10.244.0.3"));
    let pod = &cluster.pods[0];
    respond_as(pod, "127.0.0.1:15053", "sidecar");
    respond_as(&cluster.pods[1], "10.244.0.3:53", "server");
    for port in [40001, 40002] {
        let mut who = [(None, "sidecar heard question"), (Some(PROXY_MARK), "server heard question")];
        // The order must not matter.
        who.rotate_left(usize::from(port % 2 == 0));
        for (mark, expected) in who.into_iter().cycle().take(6) {
            assert_eq!(query(pod, port, "10.244.0.3:53", mark), expected, "from port {port}, mark {mark:?}");
        }
    }
}

fn a_cut_stops_connections_to_a_port_in_one_direction() {
    let cluster = cluster(2);
    let (near, far) = (&cluster.pods[0], &cluster.pods[1]);
    for (inside, address) in [(far, "10.244.0.3:8000"), (far, "10.244.0.3:8001"), (near, "10.244.0.2:8000")] {
        serve(inside, address, "server");
    }
    let works = |from, to: &str| call(from, to.parse().unwrap()).is_ok();
    let cut = |cuts: &[Cut]| near.run_in(|| cut_connections("eth0", cuts).unwrap()).unwrap();
    // Nothing to remove.
    cut(&[]);
    assert!(works(near, "10.244.0.3:8000"));
    cut(&[Cut { addresses: vec!["10.244.0.3".parse().unwrap(), "fd00::3".parse().unwrap()], port: 8000 }]);
    assert!(!works(near, "10.244.0.3:8000"));
    assert!(works(near, "10.244.0.3:8001"), "another port");
    assert!(works(far, "10.244.0.2:8000"), "the other direction");
    cut(&[Cut { addresses: vec!["10.244.0.3".parse().unwrap()], port: 8001 }]);
    assert!(works(near, "10.244.0.3:8000") && !works(near, "10.244.0.3:8001"), "replaced");
    cut(&[]);
    assert!(works(near, "10.244.0.3:8001"));
}

fn a_bad_link_loses_packets_of_both_directions() {
    const SENT: u32 = 2000;
    let cluster = cluster(2);
    let socket = |pod: usize, address: &str| cluster.pods[pod].run_in(|| UdpSocket::bind(address).unwrap()).unwrap();
    let (near, far) = (socket(0, "10.244.0.2:7000"), socket(1, "10.244.0.3:7000"));
    // Each packet is read before the next one is sent, so that no queue is full.
    let arrived_of = |sent: u32, from: &UdpSocket, to: &UdpSocket, address: &str| {
        to.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let once = |_: &u32| {
            // A packet that this host drops is an error of the sender.
            let _ = from.send_to(b"packet", address);
            to.recv(&mut [0; 16]).is_ok()
        };
        (0..sent).filter(once).count() as f64 / f64::from(sent)
    };
    let arrived = |from: &UdpSocket, to: &UdpSocket, address: &str| arrived_of(SENT, from, to, address);
    let lose = |per_mille: u16, peers: &[PeerLoss]| {
        cluster.pods[0].run_in(|| lose_packets("eth0", per_mille, peers).unwrap()).unwrap();
    };
    lose(300, &[]);
    // The standard deviation is one percent.
    let (out, back) = (arrived(&near, &far, "10.244.0.3:7000"), arrived(&far, &near, "10.244.0.2:7000"));
    assert!((out - 0.7).abs() < 0.07 && (back - 0.7).abs() < 0.07, "{out} {back}");
    lose(0, &[]);
    assert!(arrived(&near, &far, "10.244.0.3:7000") > 0.99);
    let peer = |address: &str, per_mille| PeerLoss { addresses: vec![address.parse().unwrap()], per_mille };
    lose(900, &[peer("10.244.0.9", 800), peer("10.244.0.3", 100), peer("fd00::3", 700)]);
    let (out, back) = (arrived(&near, &far, "10.244.0.3:7000"), arrived(&far, &near, "10.244.0.2:7000"));
    assert!((out - 0.9).abs() < 0.05 && (back - 0.9).abs() < 0.05, "{out} {back}");
    lose(900, &[peer("10.244.0.3", 0)]);
    assert!(arrived(&near, &far, "10.244.0.3:7000") > 0.99 && arrived(&far, &near, "10.244.0.2:7000") > 0.99);
    lose(1000, &[peer("10.244.0.9", 0)]);
    assert!(arrived_of(100, &near, &far, "10.244.0.3:7000") < 0.01);
}

/// Responds to each datagram with a name and the content of the datagram.
fn respond_as(inside: &NetNamespace, address: &str, name: &'static str) {
    let server = inside.run_in(|| UdpSocket::bind(address).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&[name.as_bytes(), b" heard ", &buffer[..length]].concat(), from);
        }
    });
}

/// Sends a datagram from a port and returns the response.
fn query(inside: &NetNamespace, port: u16, server: &str, mark: Option<u32>) -> String {
    inside
        .run_in(|| {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            if let Some(mark) = mark {
                net::socket::set_mark(&socket, mark).unwrap();
            }
            socket.connect(server).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket.send(b"question").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        })
        .unwrap()
}

fn server(address: &str, backends: &[&str]) -> VirtualServer {
    let address = at(address);
    VirtualServer {
        address: address.ip(),
        port: address.port(),
        protocol: Protocol::Tcp,
        backends: backends.iter().map(|backend| at(backend)).collect(),
    }
}

fn services_spread_over_backends() {
    let cluster = cluster(4);
    for (pod, name) in cluster.pods[1..].iter().zip(["one", "two", "three"]) {
        serve(pod, "[::]:8080", name);
    }
    let four = ["10.244.0.3:8080", "10.244.0.4:8080", "10.244.0.5:8080"];
    let six = ["[fd00:10::3]:8080", "[fd00:10::4]:8080", "[fd00:10::5]:8080"];
    let mut udp = server("10.96.0.20:53", &["10.244.0.3:5353"]);
    udp.protocol = Protocol::Udp;
    let services = Services {
        virtual_servers: vec![server("10.96.0.20:80", &four), server("[fd00:96::20]:80", &six), udp],
        ..Services::default()
    };
    cluster.router.run_in(|| apply_services(&services).unwrap()).unwrap();
    let mut links = net::link::Links::open_in(&cluster.router).unwrap();
    let route = net::link::Route { to: net("10.96.0.0/16"), via: net::link::Via::Link("lo"), source: None };
    links.add_route(route).unwrap();

    for (who, address) in [
        (&cluster.pods[0], "10.96.0.20:80"),
        (&cluster.pods[0], "[fd00:96::20]:80"),
        (&cluster.router, "10.96.0.20:80"),
    ] {
        let mut counts = HashMap::new();
        for _ in 0..150 {
            let text = call(who, at(address)).unwrap();
            *counts.entry(text.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
        }
        // Each backend has an expected count of 50 with a standard deviation below 6; the limits are five deviations
        // away.
        assert!(counts.len() == 3 && counts.values().all(|count| (20..=80).contains(count)), "{address}: {counts:?}");
    }
    let echo = cluster.pods[1].run_in(|| UdpSocket::bind("10.244.0.3:5353").unwrap()).unwrap();
    let client = cluster.pods[0]
        .run_in(|| {
            let socket = UdpSocket::bind("10.244.0.2:0").unwrap();
            socket.send_to(b"over udp", "10.96.0.20:53").unwrap();
            socket
        })
        .unwrap();
    echo.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut buffer = [0; 16];
    let (_, from) = echo.recv_from(&mut buffer).unwrap();
    assert_eq!(from, client.local_addr().unwrap());

    let fewer = Services { virtual_servers: vec![server("10.96.0.20:80", &four[..1])], ..Services::default() };
    cluster.router.run_in(|| apply_services(&fewer).unwrap()).unwrap();
    assert!((0..20).all(|_| call(&cluster.pods[0], at("10.96.0.20:80")).unwrap().starts_with("one ")));
}

fn services_without_backends_refuse() {
    let cluster = cluster(2);
    serve(&cluster.pods[1], "[::]:8080", "one");
    let mut services = Services {
        virtual_servers: vec![server("10.96.0.20:80", &["10.244.0.3:8080"])],
        service_networks: vec![net("10.96.0.0/16")],
        ..Services::default()
    };
    cluster.router.run_in(|| apply_services(&services).unwrap()).unwrap();
    let mut kept = cluster.pods[0].run_in(|| TcpStream::connect(at("10.96.0.20:80")).unwrap()).unwrap();
    services.virtual_servers[0].backends.clear();
    cluster.router.run_in(|| apply_services(&services).unwrap()).unwrap();
    let started = Instant::now();
    for address in ["10.96.0.20:80", "10.96.0.99:80", "10.96.0.20:81"] {
        // Without a route to Service addresses in the router, packets to unknown ones would have no route.
        let mut links = net::link::Links::open_in(&cluster.router).unwrap();
        let via = net::link::Via::Link("veth1");
        links.add_route(net::link::Route { to: net("10.96.0.0/16"), via, source: None }).unwrap();
        let error = call(&cluster.pods[0], at(address)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}: {error}");
    }
    // From the router too, except to its own addresses.
    let error = call(&cluster.router, at("10.96.0.99:80")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    serve(&cluster.router, "10.96.0.1:443", "own");
    assert!(call(&cluster.router, at("10.96.0.1:443")).unwrap().starts_with("own "));
    assert!(call(&cluster.pods[0], at("10.96.0.1:443")).unwrap().starts_with("own "));
    assert!(started.elapsed() < Duration::from_secs(1), "refused at once");
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("one "), "existing connections continue: {text}");
}

fn hairpins_and_uplinks_are_masqueraded() {
    let cluster = cluster(1);
    let outside = NetNamespace::create().unwrap();
    let mut links = net::link::Links::open_in(&cluster.router).unwrap();
    links.add_veth("uplink", "eth0", Some(&outside)).unwrap();
    links.add_address("uplink", net("203.0.113.1/24")).unwrap();
    links.up("uplink").unwrap();
    let mut inner = net::link::Links::open_in(&outside).unwrap();
    inner.add_address("eth0", net("203.0.113.9/24")).unwrap();
    inner.up("eth0").unwrap();
    let services = Services {
        virtual_servers: vec![
            server("10.96.0.20:80", &["10.244.0.2:8080"]),
            server("203.0.113.10:80", &["10.244.0.2:8080"]),
        ],
        uplink: Some("uplink".into()),
        ..Services::default()
    };
    links.add_address("uplink", net("203.0.113.10/32")).unwrap();
    cluster.router.run_in(|| apply_services(&services).unwrap()).unwrap();
    serve(&outside, "[::]:9080", "outside");
    serve(&cluster.pods[0], "[::]:8080", "self");
    let text = plain(call(&cluster.pods[0], at("203.0.113.9:9080")).unwrap());
    assert!(text.starts_with("outside 203.0.113.1 "), "{text}");
    let text = plain(call(&cluster.pods[0], at("10.96.0.20:80")).unwrap());
    assert!(text.starts_with("self "), "{text}");
    let text = plain(call(&outside, at("203.0.113.10:80")).unwrap());
    assert!(text.starts_with("self 203.0.113.9 "), "a LoadBalancer keeps the caller's address: {text}");
    assert_eq!(pod_address(0), ip("10.244.0.2"));
}

fn three_hundred_services_fit_one_transaction() {
    let alone = NetNamespace::create().unwrap();
    let backends = ["10.244.0.2:80", "10.244.0.3:80", "10.244.0.4:80"];
    let virtual_servers =
        (0..300).map(|index| server(&format!("10.96.{}.{}:80", index / 250, index % 250 + 1), &backends)).collect();
    let services = Services { virtual_servers, ..Services::default() };
    alone.run_in(|| apply_services(&services).unwrap()).unwrap();
}
