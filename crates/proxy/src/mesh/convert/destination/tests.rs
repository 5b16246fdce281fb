//! Tests of the conversion of policies.

use super::*;

fn converted(policy: message::TrafficPolicy) -> Result<TrafficPolicy> {
    traffic(&policy)
}

#[test]
fn an_empty_policy_is_the_default() {
    assert_eq!(converted(message::TrafficPolicy::default()), Ok(TrafficPolicy::default()));
    let empty = message::TrafficPolicy {
        connection_pool: Some(message::ConnectionPool::default()),
        load_balancer: Some(message::LoadBalancer::default()),
        tls: Some(message::ClientTls::default()),
        ..Default::default()
    };
    assert_eq!(converted(empty), Ok(TrafficPolicy::default()));
    let outlier = message::TrafficPolicy { outlier_detection: Some(Default::default()), ..Default::default() };
    assert_eq!(converted(outlier).unwrap().outlier_detection, Some(OutlierPolicy::default()), "Istio's defaults");
}

#[test]
fn algorithms_are_those_of_the_rule() {
    use message::LoadBalancerAlgorithm as Known;
    use message::consistent_hash::{Algorithm as Hash, Key};
    let simple = |algorithm: Known| message::LoadBalancer { algorithm: algorithm.into(), ..Default::default() };
    let hashed = |algorithm| message::LoadBalancer {
        algorithm: Known::Passthrough.into(),
        consistent_hash: Some(message::ConsistentHash { key: Some(Key::SourceIp(true)), algorithm }),
        ..Default::default()
    };
    for (balancer, algorithm, passthrough) in [
        (simple(Known::Unspecified), Algorithm::LeastRequest, false),
        (simple(Known::LeastRequest), Algorithm::LeastRequest, false),
        (simple(Known::RoundRobin), Algorithm::RoundRobin, false),
        (simple(Known::Random), Algorithm::Random, false),
        (simple(Known::Passthrough), Algorithm::LeastRequest, true),
        (hashed(None), Algorithm::RingHash { minimum_size: 1024 }, false),
        (hashed(Some(Hash::RingSize(0))), Algorithm::RingHash { minimum_size: 1024 }, false),
        (hashed(Some(Hash::RingSize(u64::MAX))), Algorithm::RingHash { minimum_size: u32::MAX }, false),
        (hashed(Some(Hash::MaglevSize(0))), Algorithm::Maglev { table_size: 65_537 }, false),
        (hashed(Some(Hash::MaglevSize(101))), Algorithm::Maglev { table_size: 101 }, false),
    ] {
        let found = balancing(&balancer).unwrap();
        assert_eq!((found.algorithm, found.passthrough), (algorithm, passthrough), "{balancer:?}");
    }
    let of_header = message::ConsistentHash { key: Some(Key::Header("not a name".into())), algorithm: None };
    let invalid = message::LoadBalancer { consistent_hash: Some(of_header), ..Default::default() };
    assert_eq!(balancing(&invalid).unwrap_err(), "\"not a name\" is not the name of a header");
}

#[test]
fn localities_keep_what_each_setting_means() {
    let failover = || vec![message::RegionFailover { from: "us".into(), to: "eu".into() }];
    let labels = || vec!["version".to_owned(), "stage=prod".to_owned()];
    for (disabled, failover, failover_priority, preference) in [
        (false, vec![], vec![], Preference::Distance),
        (false, failover(), vec![], Preference::Distance),
        (false, vec![], labels(), Preference::Priority),
        (false, failover(), labels(), Preference::PriorityThenDistance),
        (true, failover(), labels(), Preference::Off),
    ] {
        let message = message::LocalityPolicy { disabled, distribute: vec![], failover, failover_priority };
        assert_eq!(locality(&message).policy.preference, preference, "{message:?}");
    }
    let to = [("us/a".to_owned(), 80), ("eu".to_owned(), 2_000_000)].into();
    let distribute = vec![message::Distribute { from: "us/*".into(), to }];
    let found = locality(&message::LocalityPolicy { distribute, ..Default::default() }).policy.distribute;
    let weights: Vec<u32> = found[0].to.iter().map(|(_, weight)| *weight).collect();
    assert_eq!(weights, [100, 80], "bounded, or their sums would overflow");
}

#[test]
fn zero_is_unset_as_in_istio() {
    let zero = message::ConnectionPool {
        http1_max_pending_requests: Some(0),
        http2_max_requests: Some(0),
        max_retries: Some(0),
        ..Default::default()
    };
    assert_eq!(pool(&zero), ConnectionPool::default());
    let set = message::ConnectionPool {
        max_connections: 1,
        connect_timeout_ms: 2,
        tcp_keepalive: Some(message::TcpKeepalive { probes: 3, time_s: 4, interval_s: 0 }),
        max_connection_duration_ms: 5,
        tcp_idle_timeout_ms: Some(0),
        http1_max_pending_requests: Some(6),
        http2_max_requests: Some(7),
        max_requests_per_connection: 8,
        max_retries: Some(9),
        http_idle_timeout_ms: Some(10),
        h2_upgrade: Some(true),
        use_client_protocol: true,
        max_concurrent_streams: 11,
        http2_keepalive_interval_ms: 12,
        http2_keepalive_timeout_ms: 0,
    };
    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(
        pool(&set),
        ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(6),
            max_requests: Some(7),
            max_retries: Some(9),
            max_requests_per_connection: Some(8),
            connect_timeout: millis(2),
            keepalive: Some(Keepalive { probes: Some(3), time: Some(Duration::from_secs(4)), interval: None }),
            max_connection_duration: millis(5),
            tcp_idle_timeout: millis(0),
            http_idle_timeout: millis(10),
            h2_upgrade: Some(true),
            use_client_protocol: true,
            max_concurrent_streams: Some(11),
            http2_keepalive: Some((Duration::from_millis(12), Duration::from_secs(20))),
        }
    );
}

#[test]
fn tls_modes_keep_what_applies_to_them() {
    let tls = |mode: message::ClientTlsMode| message::ClientTls {
        mode: mode.into(),
        sni: "example.org".into(),
        subject_alt_names: vec!["spiffe://cluster.local/ns/default/sa/reviews".into(), "example.org".into()],
        ..Default::default()
    };
    use message::ClientTlsMode as Mode;
    assert_eq!(super::tls(&tls(Mode::Auto)), Ok(ClientTls::Auto));
    assert_eq!(super::tls(&tls(Mode::Disable)), Ok(ClientTls::Disable));
    let Ok(ClientTls::Mesh { sni: Some(_), identities: Some(identities) }) = super::tls(&tls(Mode::IstioMutual)) else {
        panic!("mutual TLS of the mesh")
    };
    assert_eq!(identities.len(), 1, "only identities of the mesh");
    let bare = message::ClientTls { mode: Mode::IstioMutual.into(), ..Default::default() };
    assert_eq!(super::tls(&bare), Ok(ClientTls::Mesh { sni: None, identities: None }));
    let Ok(ClientTls::Originate(originated)) = super::tls(&tls(Mode::Simple)) else { panic!("TLS") };
    assert_eq!((originated.names.len(), originated.client.is_none()), (2, true));
    let Ok(ClientTls::Originate(mutual)) = super::tls(&tls(Mode::Mutual)) else { panic!("never plaintext") };
    assert_eq!(mutual.client, Some((Box::default(), Box::default())), "no certificate, so connections fail");
    assert!(super::tls(&message::ClientTls { mode: 77, ..Default::default() }).is_err());
}

#[test]
fn tunnels_name_a_host_and_a_port() {
    let tunnel = |host: &str, port| {
        super::tunnel(&message::Tunnel { post: false, target_host: host.into(), target_port: port })
            .map(|tunnel| tunnel.target.to_string())
    };
    assert_eq!(tunnel("example.org", 443).as_deref(), Ok("example.org:443"));
    assert_eq!(tunnel("fd00::1", 443).as_deref(), Ok("[fd00::1]:443"));
    assert!(tunnel("example.org\r\nx: y", 443).is_err() && tunnel("example.org", 0).is_err());
    let version = |version| super::proxy_protocol(&message::ProxyProtocol { version });
    assert_eq!((version(0), version(2)), (Ok(ProxyProtocol::V1), Ok(ProxyProtocol::V2)));
    assert!(version(3).is_err());
}

#[test]
fn the_first_variant_that_applies_to_the_pod_counts() {
    let variant = |labels: &[(&str, &str)], namespace: &str, connections| message::DestinationVariant {
        client: Some(message::ClientMatch {
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            namespace: namespace.into(),
        }),
        policy: Some(message::TrafficPolicy {
            connection_pool: Some(message::ConnectionPool { max_connections: connections, ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut last = variant(&[], "", 3);
    last.client = None;
    let message = message::DestinationPolicy {
        variants: vec![variant(&[("app", "shop")], "", 1), variant(&[], "prod", 2), last],
    };
    let variants = destination(&message).unwrap();
    let client = |labels: &[(&str, &str)], namespace: &str| Client {
        namespace: namespace.into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
    };
    let of = |labels: &[(&str, &str)], namespace| {
        variants.policy_for(&client(labels, namespace)).traffic(80, "").pool.max_connections.unwrap()
    };
    assert_eq!(of(&[("app", "shop"), ("x", "y")], "prod"), 1);
    assert_eq!(of(&[("app", "other")], "prod"), 2);
    assert_eq!(of(&[], "default"), 3);
    let none = DestinationVariants::default();
    assert_eq!(*none.policy_for(&Client::default()), DestinationPolicy::default());
}

#[test]
fn ports_and_subsets_have_policies_of_their_own() {
    let policy = |connections| message::TrafficPolicy {
        connection_pool: Some(message::ConnectionPool { max_connections: connections, ..Default::default() }),
        ..Default::default()
    };
    let variant = message::DestinationVariant {
        policy: Some(policy(1)),
        ports: [(80, policy(2)), (443, policy(3))].into(),
        subsets: vec![message::DestinationSubset {
            name: "v2".into(),
            labels: [("version".to_owned(), "v2".to_owned())].into(),
            policy: Some(policy(4)),
            ports: [(443, policy(5))].into(),
        }],
        ..Default::default()
    };
    let found = destination(&message::DestinationPolicy { variants: vec![variant.clone()] }).unwrap();
    let found = found.policy_for(&Client::default());
    for (port, subset, connections) in
        [(9080, "", 1), (80, "", 2), (443, "", 3), (80, "v2", 4), (443, "v2", 5), (80, "v3", 2)]
    {
        assert_eq!(found.traffic(port, subset).pool.max_connections, Some(connections), "{port} {subset}");
    }
    assert_eq!(found.subset("v2").map(|subset| subset.labels.len()), Some(1));
    let invalid = message::DestinationVariant { ports: [(0, policy(1))].into(), ..variant };
    assert!(destination(&message::DestinationPolicy { variants: vec![invalid] }).is_err());
}
