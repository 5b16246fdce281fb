use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

const GOOD: &str = "\
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
spec:
  networks:
    - name: net-west
    - name: net-east
      delay: 20ms
  clusters:
    - name: west
      role: primary
      network: net-west
      region: us-west
      zones: [us-west-1a, us-west-1b]
    - name: east
      role: remote
      network: net-east
  workloads:
    - name: reviews
      clusters: [west, east]
      version: v1
      replicas: 2
    - name: reviews
      cluster: west
      version: v2
      zone: us-west-1b
    - name: batch
      cluster: east
      kind: command
      command: [sleep, '3600']
      env: {y: 'no'}
  exports:
    - name: reviews
";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies").join(name)
}

fn parse(text: &str) -> Result<Topology, Box<Diagnostic>> {
    Topology::parse(Path::new("my.yaml"), text)
}

#[test]
fn a_valid_file_resolves() {
    let topology = parse(GOOD).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(topology.name, "my");
    assert_eq!(topology.mesh.trust_domain, "cluster.local");
    let [west, east] = topology.clusters.as_slice() else { panic!("two clusters") };
    assert_eq!(west.secrets_of, ["east"]);
    assert_eq!(east.role, Role::Remote { primary: "west".into() });
    assert_eq!(east.zones, ["east-a"]);
    assert_eq!(east.uplink().to_string(), "203.0.113.2");
    assert_eq!(east.gateway().to_string(), "203.0.113.20");
    assert_eq!(west.load_balancer_pool().len(), 10);
    assert_eq!(topology.networks[1].delay, Some(Duration::from_millis(20)));
    let lossy = parse(&GOOD.replace("delay: 20ms", "loss: 0.5%")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((lossy.networks[0].loss_per_mille, lossy.networks[1].loss_per_mille), (None, Some(5)));
    let deployments: Vec<(&str, &str)> =
        topology.workloads.iter().map(|w| (w.cluster.as_str(), w.controller_name.as_str())).collect();
    assert_eq!(deployments, [("west", "reviews-v1"), ("east", "reviews"), ("west", "reviews-v2"), ("east", "batch")]);
    assert_eq!(topology.exports_of("west"), [("default".to_owned(), "reviews".to_owned())]);
    assert_eq!(topology.workloads[3].env["y"], "no");
}

#[test]
fn the_repositorys_topologies_are_valid() {
    for (name, clusters, exports) in [
        ("primary-remote.yaml", 2, 2),
        ("multi-primary.yaml", 2, 2),
        ("three-regions.yaml", 3, 2),
        ("shared-network.yaml", 3, 2),
        ("dual-stack.yaml", 2, 2),
        ("ipv6.yaml", 2, 2),
        ("canary.yaml", 2, 1),
        ("edges.yaml", 2, 1),
        ("federation.yaml", 4, 1),
    ] {
        let topology = Topology::load(&shipped(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(topology.clusters.len(), clusters, "{name}");
        assert_eq!(topology.exports_of("east").len(), exports, "{name}");
    }
}

#[test]
fn an_issuer_signs_by_rs256_unless_it_says_otherwise() {
    let text = GOOD.replace(
        "  exports:",
        "  issuers:\n    - host: auth.example.com\n    - {host: id.example.com, algorithm: EdDSA}\n  exports:",
    );
    let topology = parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let issuers: Vec<_> = topology.issuers.iter().map(|issuer| (issuer.url(), issuer.algorithm)).collect();
    let expected = [
        ("https://auth.example.com".to_owned(), TokenAlgorithm::Rs256),
        ("https://id.example.com".to_owned(), TokenAlgorithm::EdDsa),
    ];
    assert_eq!(issuers, expected);
    assert!(parse(GOOD).is_ok_and(|topology| topology.issuers.is_empty()));
}

/// (text of the good file, its replacement, parts of the message)
const BAD: &[(&str, &str, &[&str])] = &[
    ("v1alpha1", "v2", &["my.yaml:1:13: unknown apiVersion", "lab.isthmus.dev/v1alpha1"]),
    ("kind: Topology", "kind: Pod", &["my.yaml:2:7:", "not a topology"]),
    ("  exports:", "  exprots:", &["unknown field \"exprots\"", "  31 |   exprots:", "Did you mean \"exports\"?"]),
    ("      region: us-west", "      regoin: us-west", &["my.yaml:12:7: unknown field", "Did you mean \"region\"?"]),
    ("    - name: east", "    - name: west", &["my.yaml:14:7: cluster \"west\" is listed twice", "another name"]),
    (
        "network: net-east",
        "network: net-esat",
        &[
            "my.yaml:14:7: cluster \"east\" names network \"net-esat\"",
            "  14 |     - name: east\n     |       ^",
            "known networks: net-west, net-east. Did you mean \"net-east\"?",
        ],
    ),
    (
        "      delay: 20ms\n",
        "      podCIDR: 10.244.0.0/16,fd00:10:244::/56\n",
        &[
            "my.yaml:7:16: podCIDR fd00:10:244::/56, but no cluster of network \"net-east\" has IPv6",
            "ipFamilies: [IPv4, IPv6]",
        ],
    ),
    ("delay: 20ms", "podCIDR: 10.244.0.0/16,10.245.0.0/16", &["\"10.245.0.0/16\" is a second range of IPv4"]),
    ("delay: 20ms", "podCIDR: fd00:10:244::/64", &["is not a /56", "fd00:10:244::/56"]),
    ("delay: 20ms", "podCIDR: fd00:10:96::/56", &["overlaps the service range fd00:10:96::/112"]),
    ("delay: 20ms", "podCIDR: 203.0.0.0/16", &["overlaps the gateways' range 203.0.113.0/24"]),
    (
        "region: us-west\n",
        "ipFamilies: [IPv5]\n",
        &["my.yaml:12:20: unknown IP family \"IPv5\"", "families: IPv4, IPv6"],
    ),
    ("region: us-west\n", "ipFamilies: [IPv4, IPv4]\n", &["my.yaml:12:26: IP family IPv4 is listed twice"]),
    ("region: us-west\n", "ipFamilies: []\n", &["my.yaml:12:19: ipFamilies is empty"]),
    ("region: us-west\n", "ipFamilies: IPv6\n", &["my.yaml:12:19: ", "a list"]),
    (
        "region: us-west\n",
        "ipFamilies: [IPv6, IPv4]\n",
        &[
            "my.yaml:12:19: cluster \"west\" has gateway and API server at IPv6, which \"east\" does not have",
            "put a family first",
        ],
    ),
    (
        "region: us-west\n",
        "podCIDR: fd00:10:244::/56\n",
        &["my.yaml:12:16: podCIDR fd00:10:244::/56 is not of an IP family of cluster \"west\"", "[IPv4]"],
    ),
    (
        "role: remote",
        "role: primary",
        &["my.yaml:9:7: clusters \"west\" and \"east\" are primaries", "secretsOf: [east]"],
    ),
    ("role: primary", "role: remote", &["my.yaml:9:7: cluster \"west\" is remote, but there is no primary"]),
    ("role: remote", "role: remot", &["unknown role \"remot\"", "Did you mean \"remote\"?"]),
    ("role: remote", "role: remote\n      primary: wset", &["not a primary cluster", "Did you mean \"west\"?"]),
    ("role: primary", "role: primary\n      secretsOf: [west]", &["lists itself"]),
    ("role: primary", "role: primary\n      secretsOf: [south]", &["\"south\", which does not exist"]),
    ("role: remote", "role: remote\n      secretsOf: [west]", &["can hold no secrets"]),
    ("zone: us-west-1b", "zone: us-west-1c", &["has no zone \"us-west-1c\"", "Did you mean"]),
    ("us-west-1a, us-west-1b", "us-west-1a, us-west-1a", &["listed twice"]),
    ("version: v2", "version: v1", &["twice with the same version"]),
    ("cluster: east\n", "cluster: esat\n", &["unknown cluster \"esat\"", "Did you mean \"east\"?"]),
    ("kind: command", "kind: comand", &["unknown kind of workload", "Did you mean \"command\"?"]),
    ("      command: [sleep, '3600']\n", "", &["has no command"]),
    ("replicas: 2", "replicas: 900", &["900 replicas", "at most 64"]),
    ("replicas: 2", "replicas: many", &["my.yaml:21:17: expected a whole number", "docs/topology.md"]),
    ("replicas: 2", "replicas: -1", &["my.yaml:21:17: expected a whole number"]),
    ("replicas: 2", "replicas: 2\n      replicas: 3", &["field \"replicas\" appears twice", "remove one"]),
    ("replicas: 2", "replicas: [2]", &["my.yaml:21:"]),
    ("replicas: 2", "exported: maybe", &["my.yaml:21:17: expected true or false"]),
    ("      zones: [us-west-1a, us-west-1b]", "      zones: us-west-1a", &["my.yaml:13:14: ", "a list"]),
    ("    - name: west\n      role", "    - west\n    - role", &["my.yaml:9:7: ", "a mapping (name: value)"]),
    ("  exports:\n    - name: reviews", "  exports: reviews", &["a list"]),
    ("delay: 20ms", "delay: soon", &["my.yaml:7:14: \"soon\" is not a delay", "20ms"]),
    ("delay: 20ms", "delay: 20s", &["out of range"]),
    ("delay: 20ms", "loss: some", &["my.yaml:7:13: \"some\" is not a loss", "1%"]),
    ("delay: 20ms", "loss: 60%", &["out of range", "50%"]),
    (
        "  clusters:\n",
        "  links:\n    - between: [net-west, net-esat]\n      delay: 1ms\n  clusters:\n",
        &[
            "my.yaml:9:27: the link names \"net-esat\", which is no network and no cluster",
            "networks: net-east, net-west. Did you mean \"net-east\"?",
        ],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [net-west, west], delay: 1ms}]\n  clusters:\n",
        &["my.yaml:8:21: \"net-west\" and \"west\" are on the same network", "different networks"],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [west, west], delay: 1ms}]\n  clusters:\n",
        &["the link is between \"west\" and itself"],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [west], delay: 1ms}]\n  clusters:\n",
        &["my.yaml:8:21: a link is between two networks, not 1", "[net-west, net-east]"],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [west, east]}]\n  clusters:\n",
        &["my.yaml:8:11: the link has neither delay nor loss"],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [west, east], delay: 1ms}, {between: [net-east, net-west], loss: 1%}]\n  clusters:\n",
        &["my.yaml:8:58: a second link between clusters \"east\" and \"west\"", "one entry"],
    ),
    (
        "  clusters:\n",
        "  links: [{between: [west, east], delay: 1ms, jitter: 2ms}]\n  clusters:\n",
        &["my.yaml:8:55: jitter \"2ms\", but the link has a delay of 1ms", "at least as long"],
    ),
    ("  clusters:\n", "  links: [{between: [west, east], jitter: 2ms}]\n  clusters:\n", &["but the link has no delay"]),
    (
        "  clusters:\n",
        "  links: [{between: [west, east], delay: 1ms, jitter: x}]\n  clusters:\n",
        &["\"x\" is not a jitter"],
    ),
    ("  clusters:\n", "  links: [{between: [west, east], loss: 99%}]\n  clusters:\n", &["out of range", "50%"]),
    (
        "  clusters:\n",
        "  links: [{between: [west, east], latency: 1ms}]\n  clusters:\n",
        &["my.yaml:8:", "unknown field"],
    ),
    (
        "version: v2",
        "version: v2\n      controller: StatefulSet",
        &["my.yaml:25:19: workload \"reviews\" is a Deployment in cluster \"west\" already", "the same controller"],
    ),
    (
        "version: v2",
        "version: v2\n      controller: statefulset",
        &["my.yaml:25:19: unknown controller of a workload \"statefulset\"", "Did you mean \"StatefulSet\"?"],
    ),
    (
        "  networks:",
        "  issuers: [{host: https://auth.example.com}]\n  networks:",
        &["my.yaml:4:20: \"https://auth.example.com\" is not the host name of an issuer", "such as auth.example.com"],
    ),
    ("  networks:", "  issuers: [{host: auth}]\n  networks:", &["\"auth\" is not the host name", "one dot"]),
    ("  networks:", "  issuers: [{host: 10.0.0.1}]\n  networks:", &["\"10.0.0.1\" is not the host name"]),
    (
        "  networks:",
        "  issuers: [{host: auth.default.svc.cluster.local}]\n  networks:",
        &["has the name of a Service", "outside of cluster.local"],
    ),
    (
        "  networks:",
        "  issuers: [{host: a.example}, {host: a.example}]\n  networks:",
        &["my.yaml:4:32: issuer \"a.example\" is listed twice"],
    ),
    (
        "  networks:",
        "  issuers: [{host: a.example, algorithm: HS256}]\n  networks:",
        &["my.yaml:4:42: unknown algorithm of an issuer \"HS256\"", "RS256, ES256, EdDSA"],
    ),
    ("  networks:", "  mesh: {proxyContainer: envoy}\n  networks:", &["\"envoy\" is not a name", "istio-proxy"]),
    ("delay: 20ms", "podCIDR: 10.96.0.0/16", &["is the service range"]),
    ("delay: 20ms", "podCIDR: 10.0.0.0/8", &["is not a /16"]),
    ("delay: 20ms", "podCIDR: ten", &["not an IP range"]),
    (
        "    - name: reviews\n      clusters",
        "    - name: Reviews\n      clusters",
        &["\"Reviews\" is not a valid workload name"],
    ),
    (
        "kind: Topology\n",
        "kind: Topology\nmetadata: {name: ../evil}\n",
        &["my.yaml:3:18: \"../evil\" is not a valid lab name"],
    ),
    ("    - name: batch", "    - name: 9batch", &["\"9batch\" is not a valid workload name", "begins with a letter"]),
    (
        "replicas: 2",
        "ports: [{name: http_admin, port: 80}]",
        &["\"http_admin\" is not a valid port name", "at most 15"],
    ),
    (
        "exports:\n    - name: reviews",
        "exports:\n    - name: reveiws",
        &["which no workload has", "Did you mean \"reviews\"?"],
    ),
    ("exports:", "manifests:\n    - path: nowhere.yaml\n  exports:", &["manifest \"nowhere.yaml\" cannot be read"]),
    ("    - name: net-east", "    - name: net-west", &["listed twice"]),
    ("    - name: net-west\n", "    - name: net-west\n    - name: spare\n", &["no cluster is on it"]),
    ("spec:", "spec: [", &["my.yaml:"]),
];

#[test]
fn links_are_between_clusters_of_networks() {
    let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  links:\n    - {between: [shared, net-c], delay: 40ms, jitter: 5ms, loss: 2%}\n    - {between: [d, c], loss: 1%}\n  clusters:\n    - {name: a, role: primary, network: shared}\n    - {name: b, role: remote, network: shared}\n    - {name: c, role: remote}\n    - {name: d, role: remote}\n";
    let topology = parse(text).unwrap_or_else(|error| panic!("{error}"));
    let pairs: Vec<_> = topology.links.iter().map(|link| link.between.join(" ")).collect();
    assert_eq!(pairs, ["a c", "b c", "d c"]);
    let delay = Delay { mean: Duration::from_millis(40), jitter: Duration::from_millis(5) };
    assert_eq!((topology.links[0].delay, topology.links[0].loss_per_mille), (Some(delay), Some(20)));
    assert_eq!((topology.links[2].delay, topology.links[2].loss_per_mille), (None, Some(10)));
    let of_c: Vec<&str> = topology.links_of("c").map(|(_, other)| other.name.as_str()).collect();
    assert_eq!(of_c, ["a", "b", "d"]);
}

/// Two clusters of one network, from the good file.
fn shared(west: &str, east: &str, network: &str) -> Result<Topology, Box<Diagnostic>> {
    let text = GOOD
        .replace("    - name: net-east\n      delay: 20ms\n", network)
        .replace("network: net-west\n", &format!("network: net-west\n{west}"))
        .replace("network: net-east\n", &format!("network: net-west\n{east}"));
    parse(&text)
}

fn pod_ranges(topology: &Topology) -> Vec<Vec<String>> {
    topology.clusters.iter().map(|cluster| cluster.pod_cidrs.iter().map(ToString::to_string).collect()).collect()
}

#[test]
fn clusters_of_one_network_have_different_pod_ranges() {
    let topology = shared("", "", "").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pod_ranges(&topology), [["10.244.0.0/16"], ["10.245.0.0/16"]]);
    assert_eq!(topology.clusters_on("net-west").count(), 2);
    let both = "      ipFamilies: [IPv4, IPv6]\n";
    let topology = shared(both, both, "      podCIDR: 10.1.0.0/16\n").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pod_ranges(&topology), [["10.1.0.0/16", "fd00:10:244::/56"], ["10.2.0.0/16", "fd00:10:244:100::/56"]]);
    let topology = shared("", "      podCIDR: 10.9.0.0/16\n", "").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pod_ranges(&topology), [["10.244.0.0/16"], ["10.9.0.0/16"]]);

    let error = shared("", "      podCIDR: 10.244.0.0/16\n", "").expect_err("the same range").to_string();
    for part in
        ["my.yaml:15:16: pods of cluster \"east\"", "as have pods of \"west\"", "such as podCIDR: 10.245.0.0/16"]
    {
        assert!(error.contains(part), "wants {part:?} in {error}");
    }
    let error = shared("", "", "      podCIDR: 10.95.0.0/16\n").expect_err("services are next").to_string();
    assert!(error.contains("\"10.96.0.0/16\" is the service range"), "{error}");
    let error = shared("", "", "      podCIDR: 255.255.0.0/16\n").expect_err("nothing is next").to_string();
    assert!(error.contains("no range follows podCIDR 255.255.0.0/16 for cluster \"east\""), "{error}");
}

#[test]
fn clusters_have_addresses_of_their_families() {
    let six = "      ipFamilies: [IPv6]\n";
    let topology = shared(six, six, "").unwrap_or_else(|error| panic!("{error}"));
    let east = &topology.clusters[1];
    assert_eq!(pod_ranges(&topology), [["fd00:10:244::/56"], ["fd00:10:244:100::/56"]]);
    assert_eq!([east.uplink().to_string(), east.gateway().to_string()], ["2001:db8:113::2", "2001:db8:113::20"]);
    let both = "      ipFamilies: [IPv4, IPv6]\n";
    let topology = shared(both, "", "").unwrap_or_else(|error| panic!("{error}"));
    let west = &topology.clusters[0];
    assert_eq!(west.uplinks().len(), 2);
    assert_eq!((west.load_balancer_pool().len(), west.gateway().to_string().as_str()), (20, "203.0.113.10"));
}

/// Words of Rust and of the YAML parser, which mean nothing to the author of a file.
const INTERNAL: &[&str] = &["u16", "u32", "struct", "scalar", "sequence", "Policy", "Some(", "os error", "serde"];

#[test]
fn bad_files_are_explained() {
    for (from, to, expected) in BAD {
        assert!(GOOD.contains(from), "{from:?} is in the good file");
        let text = GOOD.replacen(from, to, 1);
        let Err(error) = parse(&text) else { panic!("{from:?} -> {to:?} was accepted") };
        let error = error.to_string();
        for part in *expected {
            assert!(error.contains(part), "{from:?} -> {to:?}\nwants {part:?}\nin {error}");
        }
        for internal in INTERNAL {
            assert!(!error.contains(internal), "{from:?} -> {to:?}\nshows {internal:?}\nin {error}");
        }
    }
}

#[test]
fn the_name_of_a_file_becomes_a_valid_name() {
    let long = format!("{}-and-more.yaml", "a".repeat(39));
    for (file, name) in [("My Mesh.yaml", "my-mesh"), ("..yaml", "lab"), ("ü.yaml", "lab"), (&*long, &long[..39])] {
        let topology = Topology::parse(Path::new(file), GOOD).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(topology.name, name, "{file}");
    }
}

#[test]
fn empty_or_foreign_text_is_explained() {
    for text in [
        "",
        "just words",
        "- a\n- b\n",
        "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: []\n",
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with("my.yaml") && INTERNAL.iter().all(|word| !error.contains(word)), "{error}");
    }
}

#[test]
fn unreadable_file_is_explained() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::write(folder.path().join("mesh.yaml"), GOOD).expect("written");
    let error = Topology::load(&folder.path().join("mesj.yaml")).expect_err("absent").to_string();
    assert!(
        error.contains("cannot be read") && error.contains("Did you mean") && error.contains("mesh.yaml"),
        "{error}"
    );
    std::fs::write(folder.path().join("bytes.yaml"), [0xff, 0xfe, 0x00]).expect("written");
    let error = Topology::load(&folder.path().join("bytes.yaml")).expect_err("not text").to_string();
    assert!(error.contains("UTF-8"), "{error}");
    assert!(Topology::load(folder.path()).expect_err("a folder").to_string().contains("cannot be read"));
}

#[test]
fn manifest_is_found_beside_the_topology() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::write(folder.path().join("extra.yaml"), "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")
        .expect("written");
    let text = GOOD.replace("  exports:", "  manifests:\n    - path: extra.yaml\n      clusters: [east]\n  exports:");
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, text).expect("written");
    let topology = Topology::load(&file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(topology.manifests[0].clusters, ["east"]);
    assert!(topology.manifests[0].path.is_file());
    assert_eq!(topology.manifests[0].objects.len(), 1);

    std::fs::write(folder.path().join("extra.yaml"), "kind: ConfigMap").expect("written");
    let error = Topology::load(&file).expect_err("a broken manifest").to_string();
    for part in ["mesh.yaml:32:13: manifest \"extra.yaml\" cannot be used: line 1", "no apiVersion", "correct "] {
        assert!(error.contains(part), "wants {part:?} in {error}");
    }
}
