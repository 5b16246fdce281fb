use std::path::Path;

use install::gateways::GatewayKind;

use crate::topology::Topology;

/// Returns a topology with these fields of cluster `west`, and these of `spec`.
fn parse(of_west: &str, of_spec: &str) -> Result<Topology, String> {
    let text = format!(
        "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters:\n    - {{name: west, role: primary{of_west}}}\n    \
         - {{name: east, role: remote, ipFamilies: [IPv4, IPv6]}}\n{of_spec}"
    );
    Topology::parse(Path::new("my.yaml"), &text).map_err(|error| error.to_string())
}

#[test]
fn a_gateway_is_one_word_or_has_settings() {
    let none = parse(", ingressGateway: false", "").expect("a topology");
    assert!(none.clusters[0].gateways().next().is_none() && !none.has_edges());
    let plain = parse(", ingressGateway: true, egressGateway: true", "").expect("a topology");
    let kinds: Vec<GatewayKind> = plain.clusters[0].gateways().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [GatewayKind::Ingress, GatewayKind::Egress]);
    let ports = |topology: &Topology| -> Vec<(String, u16, u16, Option<u16>)> {
        let gateway = topology.clusters[0].ingress_gateway.as_ref().expect("a gateway");
        gateway.ports.iter().map(|port| (port.name.clone(), port.port, port.target_port, port.host_port)).collect()
    };
    let defaults = [("http2".to_owned(), 80, 8080, None), ("https".to_owned(), 443, 8443, None)];
    assert_eq!(ports(&plain), defaults);
    let addresses: Vec<String> = plain.ingress_ports().map(|port| port.address.to_string()).collect();
    assert_eq!(addresses, ["203.0.113.11:80", "203.0.113.11:443"]);

    let settings = ", ingressGateway: {namespace: edge, ports: [{port: 80, hostPort: 8080}, {port: 31400, name: tcp-mongo}, {port: 70, targetPort: 7000}]}";
    let own = parse(settings, "").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(own.clusters[0].ingress_gateway.as_ref().map(|gateway| &*gateway.namespace), Some("edge"));
    let expected = [
        ("http2".to_owned(), 80, 8080, Some(8080)),
        ("https".to_owned(), 443, 8443, None),
        ("tcp-mongo".to_owned(), 31400, 31400, None),
        ("tcp-70".to_owned(), 70, 7000, None),
    ];
    assert_eq!(ports(&own), expected);
}

#[test]
fn external_servers_have_addresses_of_the_bridge() {
    let spec = "  external:\n    - host: httpbin.example.com\n    - {host: api.example.com, ports: [{port: 8443, tls: true}]}\n";
    let topology = parse("", spec).unwrap_or_else(|error| panic!("{error}"));
    let servers: Vec<(String, Vec<(u16, bool)>)> = topology
        .external_addresses()
        .map(|(server, addresses)| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (addresses.join(" "), server.ports.iter().map(|port| (port.port, port.tls)).collect())
        })
        .collect();
    let expected = [
        ("203.0.113.101 2001:db8:113::101".to_owned(), vec![(80, false), (443, true)]),
        ("203.0.113.102 2001:db8:113::102".to_owned(), vec![(8443, true)]),
    ];
    assert_eq!(servers, expected);
}

#[test]
fn mistakes_are_located() {
    let gateway = |settings: &str| (format!(", ingressGateway: {settings}"), String::new());
    let spec = |text: &str| (", ingressGateway: true".to_owned(), format!("{text}\n"));
    let many =
        format!("{{ports: [{}]}}", (1..=15).map(|port| format!("{{port: {port}}}")).collect::<Vec<_>>().join(", "));
    let cases: &[((String, String), &[&str])] = &[
        (gateway("maybe"), &["my.yaml:5:", "docs/topology.md"]),
        (gateway("{port: 80}"), &["unknown field", "known fields: namespace, ports"]),
        (gateway("{namespace: Edge}"), &["\"Edge\" is not a valid namespace name"]),
        (gateway("{ports: [{port: 0}]}"), &["0 is not a port"]),
        (gateway("{ports: [{port: 90, hostPort: 0}]}"), &["0 is not a port"]),
        (gateway("{ports: [{port: 15021}]}"), &["port 15021 is one of the gateway's own"]),
        (gateway("{ports: [{port: 90, targetPort: 15090}]}"), &["port 15090 is one of the gateway's own"]),
        (gateway("{ports: [{port: 90}, {port: 90}]}"), &["port 90 of a gateway is listed twice"]),
        (gateway("{ports: [{port: 8080}]}"), &["ports 80 and 8080 of a gateway have the target port 8080"]),
        (gateway("{ports: [{port: 90, name: https}]}"), &["ports 443 and 90 of a gateway have the name \"https\""]),
        (gateway("{ports: [{port: 90, name: TCP}]}"), &["\"TCP\" is not the name of a port"]),
        (
            gateway("{ports: [{port: 80, hostPort: 8080}, {port: 443, hostPort: 8080}]}"),
            &["hostPort 8080 of cluster \"west\""],
        ),
        (gateway(&many), &["a gateway has at most 16 ports"]),
        (
            (", egressGateway: {ports: [{port: 80, hostPort: 80}]}".to_owned(), String::new()),
            &["from inside of its cluster only"],
        ),
        (spec("  external: [{host: httpbin}]"), &["\"httpbin\" is not the host name of an external server", "one dot"]),
        (spec("  external: [{host: a.example}, {host: a.example}]"), &["host \"a.example\" is listed twice"]),
        (
            spec("  issuers: [{host: a.example}]\n  external: [{host: a.example}]"),
            &["one external server or one issuer"],
        ),
        (spec("  external: [{host: a.example, ports: []}]"), &["0 ports of an external server"]),
        (spec("  external: [{host: a.example, ports: [{port: 1}, {port: 1}]}]"), &["1 is listed twice"]),
        (spec("  certificates: [{secret: a, hosts: []}]"), &["0 hosts of a certificate"]),
        (
            spec("  certificates: [{secret: a, hosts: ['a.*.example']}]"),
            &["\"a.*.example\" is not a host of a certificate"],
        ),
        (
            spec("  certificates: [{secret: a, hosts: [a.example], clusters: [east]}]"),
            &["clusters with one in istio-system: west"],
        ),
        (spec("  certificates: [{secret: a, namespace: b, hosts: [a.example]}]"), &["clusters with one in b: none"]),
        (
            spec("  certificates: [{secret: a, hosts: [a.example]}, {secret: a, hosts: [b.example]}]"),
            &["Secret istio-system/a is listed twice"],
        ),
    ];
    for ((of_west, of_spec), expected) in cases {
        let error = parse(of_west, of_spec).expect_err(&format!("{of_west} {of_spec}"));
        for part in *expected {
            assert!(error.contains(part), "{of_west} {of_spec}: {error}");
        }
    }
}

#[test]
fn a_certificate_is_for_the_clusters_with_a_gateway_in_its_namespace() {
    let spec = "  certificates: [{secret: shop, hosts: [shop.example.com, '*.shop.example.com']}]\n";
    let topology = parse(", ingressGateway: true", spec).unwrap_or_else(|error| panic!("{error}"));
    let [certificate] = topology.certificates.as_slice() else { panic!("one certificate") };
    assert_eq!((&*certificate.namespace, &*certificate.clusters), ("istio-system", &["west".to_owned()][..]));
}
