//! Tests of streams: pushes, subscriptions, restarts, refused callers, and proxies that do not read or reject.

use super::*;

use wire::discovery::{PathReport, ProxyReport, Refusal, RefusedBy};
use wire::envoy::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use wire::envoy::{DeltaDiscoveryRequest, Node as WireNode};
use wire::name;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_pushed_only_to_proxies_that_subscribe_to_it() {
    let bench = Bench::start(Limits::default()).await;
    let (proxy, other) = (bench.frontend(), bench.frontend());
    bench.fill(mesh_of(300, 10)).await;
    assert_eq!(proxy.demand(Kind::Service, "@west/10.96.0.1").await, Outcome::Present);
    assert_eq!(proxy.count(Kind::Service), 1);
    let collection = name::endpoints(&host(0), "net-west");
    assert_eq!(proxy.demand(Kind::Endpoint, &collection).await, Outcome::Present);
    assert_eq!(proxy.count(Kind::Endpoint), 10);
    assert_eq!(other.demand(Kind::Service, &host(1)).await, Outcome::Present);
    let (before, others) = (proxy.changes(), other.changes());

    let began = Instant::now();
    bench.put(slice(0, 10, 1)).await;
    let name = name::endpoint(&host(0), "net-west", "west", "10.100.0.0");
    eventually("the endpoint is unready", || proxy.endpoint(&name).is_some_and(|endpoint| endpoint.health != 0)).await;
    println!("the change of one endpoint arrived after {:?}", began.elapsed());
    bench.put(slice(0, 9, 1)).await;
    eventually("the endpoint is removed", || proxy.count(Kind::Endpoint) == 9).await;
    assert_eq!(proxy.changes(), before + 1, "one message for one endpoint");
    assert_eq!(other.changes(), others, "no message without a subscription");
    bench.put(slice(0, 0, 0)).await;
    eventually("all endpoints are removed", || proxy.count(Kind::Endpoint) == 0).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_may_wait_for_one_resource() {
    let bench = Bench::start(Limits::default()).await;
    let proxy = bench.frontend();
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let subscriber = proxy.subscriber.clone();
            tokio::spawn(async move { subscriber.demand(Kind::Service, host(3), TIMEOUT).await })
        })
        .collect();
    // Before the lists of its own cluster are complete, the controller does not report a resource as absent.
    let early = proxy.subscriber.demand(Kind::Service, "nowhere", Duration::from_millis(300)).await;
    assert_eq!(early, Outcome::Unanswered);
    bench.fill(mesh_of(5, 1)).await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Outcome::Present);
    }
    assert_eq!(proxy.changes(), 1);
    assert_eq!(bench.shared.proxies.list()[0].progress().subscriptions[Kind::Service as usize], 2);

    // The client remembers for a while that a resource is absent, and answers at once. It forgets this when the resource
    // appears or is unused.
    assert_eq!(proxy.demand(Kind::Service, &host(7)).await, Outcome::Absent);
    let began = Instant::now();
    assert_eq!(proxy.demand(Kind::Service, &host(7)).await, Outcome::Absent);
    assert!(began.elapsed() < Duration::from_millis(100), "the client answers without a request");
    bench.put(service(7)).await;
    eventually("the service appears", || proxy.count(Kind::Service) == 2).await;
    assert_eq!(proxy.demand(Kind::Service, &host(7)).await, Outcome::Present);
    assert_eq!(proxy.demand(Kind::Service, &host(8)).await, Outcome::Absent);
    let subscribed = || bench.shared.proxies.list()[0].progress().subscriptions[Kind::Service as usize];
    eventually("the client unsubscribes from an absent and unused resource", || subscribed() == 2).await;
    // A subscription to a resource that exists lasts until the proxy unsubscribes.
    proxy.subscriber.unsubscribe(Kind::Service, host(7));
    eventually("the store removes the service", || proxy.count(Kind::Service) == 1).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_controller_pushes_only_differences() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(100, 10)).await;
    let proxy = bench.frontend();
    for index in 0..50 {
        proxy.subscriber.subscribe(Kind::Service, host(index));
        proxy.subscriber.subscribe(Kind::Endpoint, name::endpoints(&host(index), "net-west"));
    }
    eventually("all resources arrive", || (proxy.count(Kind::Service), proxy.count(Kind::Endpoint)) == (50, 500)).await;
    let before = proxy.changes();
    let mut link = proxy.subscriber.link();
    let address = bench.address;
    bench.stop().await;
    link.wait_for(|link| matches!(link, Link::Lost { .. })).await.unwrap();
    assert_eq!((proxy.count(Kind::Service), proxy.count(Kind::Endpoint)), (50, 500), "the proxy keeps its resources");
    assert_eq!(proxy.demand(Kind::Service, &host(7)).await, Outcome::Present, "a known resource needs no request");
    let new = proxy.subscriber.demand(Kind::Service, host(70), Duration::from_millis(100)).await;
    assert_eq!(new, Outcome::Unanswered);

    let bench = Bench::start_at(address, Limits::default()).await;
    link.wait_for(|link| matches!(link, Link::Connected { .. })).await.unwrap();
    let mut objects = mesh_of(100, 10);
    objects.retain(|object| *object != slice(4, 10, 0) && *object != service(5) && *object != slice(5, 10, 0));
    objects.push(slice(4, 10, 3));
    bench.fill(objects).await;
    eventually("the deleted service is removed", || {
        (proxy.count(Kind::Service), proxy.count(Kind::Endpoint)) == (50, 490)
    })
    .await;
    // Three endpoints are unready now, and the proxy requested one service during the outage.
    assert_eq!(proxy.changes(), before + 4);
    assert_eq!(proxy.demand(Kind::Service, &host(70)).await, Outcome::Present);
    assert_eq!(proxy.demand(Kind::Service, &host(5)).await, Outcome::Absent);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_report_a_dead_path_drain_a_lost_cluster_and_are_told() {
    let bench = Bench::start(Limits::default()).await;
    let mut objects = mesh_of(1, 1);
    let Some(Object::Pod(first)) = objects.last().cloned() else { panic!("the last object is a pod") };
    objects.push(Object::Pod(objects::Pod { name: "frontend-2".into(), node: "node-2".into(), ..first }));
    bench.fill(objects).await;
    let identity = identity_of(&mesh().west, "default", "frontend", &[]);
    let proxies = [bench.frontend(), bench.proxy(&identity, "sidecar~10.244.0.10~frontend-2.default~west")];
    for proxy in &proxies {
        assert_eq!(proxy.demand(Kind::MeshConfig, name::MESH).await, Outcome::Present);
    }
    let link = |link| Event::Link { cluster: "east".into(), link, since: std::time::SystemTime::now() };
    bench.send([link(event::Link::Lost("refused".into()))]).await;
    let say = |checks, failing| {
        let paths = vec![PathReport { cluster: "east".into(), checks, failing }];
        proxies.iter().for_each(|of| of.subscriber.report(ProxyReport { paths: paths.clone(), ..Default::default() }));
    };
    let drained =
        |proxy: &Proxy| match proxy.store.inner.lock().unwrap().bodies.get(&(Kind::MeshConfig, name::MESH.into())) {
            Some(Body::MeshConfig(mesh)) => {
                mesh.drained.iter().any(|of| of.cluster == "east" && of.viewers == ["west"])
            }
            other => panic!("{other:?}"),
        };
    say(1, true);
    // A lost link settles for some seconds first.
    let mut checks = 1;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        checks += 1;
        say(checks, true);
    }
    eventually("both proxies know that east is drained", || proxies.iter().all(drained)).await;
    say(checks + 1, false);
    eventually("it returns", || !proxies.iter().any(drained)).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_refusals_count_only_policies_that_the_proxy_holds() {
    let bench = Bench::start(Limits::default()).await;
    let mut objects = mesh_of(1, 1);
    let policy = |name: &str, spec: serde_json::Value| {
        let value = serde_json::json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let object = api::security::AuthorizationPolicy::from_value(&value);
        Object::AuthorizationPolicy(objects::Record::extract(object).unwrap())
    };
    objects.push(policy("deny-all", serde_json::json!({})));
    objects.push(policy("of-others", serde_json::json!({"selector": {"matchLabels": {"app": "other"}}})));
    bench.fill(objects).await;
    let proxy = bench.frontend();
    let workload = name::workload("west", "default", "frontend-1");
    assert_eq!(proxy.demand(Kind::Workload, &workload).await, Outcome::Present);
    let refusal = |by: RefusedBy, policy: &str, count| Refusal { by: by.into(), policy: policy.into(), count, last: 7 };
    let report = |count| ProxyReport {
        refusals: vec![
            refusal(RefusedBy::Policy, "default/deny-all", count),
            refusal(RefusedBy::Policy, "default/of-others", 1_000),
            refusal(RefusedBy::Policy, "bank/deny-all", 1_000),
            refusal(RefusedBy::NoPolicy, "", 2),
        ],
        ..ProxyReport::default()
    };
    proxy.subscriber.report(report(3));
    let counted = || -> Vec<(RefusedBy, String, u64)> {
        let proxies = bench.shared.proxies.list();
        let store = bench.shared.state.store();
        let refused = proxies.iter().flat_map(|proxy| proxy.refused(&store, "west"));
        refused.map(|of| (of.by, of.policy, of.count)).collect()
    };
    let expected =
        |count| [(RefusedBy::Policy, "default/deny-all".to_owned(), count), (RefusedBy::NoPolicy, String::new(), 2)];
    eventually("the report arrives", || counted() == expected(3)).await;
    // A new stream has the report as well.
    let before = bench.shared.proxies.list()[0].since;
    proxy.subscriber.reconnect();
    eventually("the report arrives again", || {
        bench.shared.proxies.list().iter().all(|proxy| proxy.since != before) && counted() == expected(3)
    })
    .await;
    // A policy that is gone does not count.
    let (kind, namespace, name) = (ObjectKind::AuthorizationPolicy, "default".into(), "deny-all".into());
    bench.send([Event::Delete { cluster: "west".into(), kind, namespace, name }]).await;
    eventually("the policy is gone", || counted() == expected(3)[1..]).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_does_not_read_does_not_delay_other_proxies() {
    let bench = Bench::start(Limits { response: Duration::from_millis(700), ..Limits::default() }).await;
    bench.fill(mesh_of(20, 20)).await;
    let identity = identity_of(&mesh().west, "default", "frontend", &[]);
    let (requests, outbox) = mpsc::channel(4);
    let stuck = "sidecar~10.244.0.8~stuck-1.default~west";
    let request = DeltaDiscoveryRequest {
        node: Some(WireNode { id: stuck.into(), cluster: "west".into() }),
        type_url: Kind::Endpoint.url().into(),
        resource_names_subscribe: (0..20).map(|index| name::endpoints(&host(index), "net-west")).collect(),
        ..Default::default()
    };
    requests.send(request).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(bench.connector(&identity).channel());
    let unread = client.delta_aggregated_resources(ReceiverStream::new(outbox)).await.unwrap();

    let proxy = bench.frontend();
    assert_eq!(proxy.demand(Kind::Endpoint, &name::endpoints(&host(0), "net-west")).await, Outcome::Present);
    for round in 1..15 {
        bench.put(slice(0, 20, round)).await;
        let last = name::endpoint(&host(0), "net-west", "west", &format!("10.100.0.{}", round - 1));
        let began = Instant::now();
        eventually("a change arrives", || proxy.endpoint(&last).is_some_and(|endpoint| endpoint.health != 0)).await;
        assert!(began.elapsed() < Duration::from_millis(600), "delayed by the proxy that does not read");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let sent = bench.shared.proxies.list().iter().find(|proxy| proxy.id == stuck).map(|proxy| proxy.progress().stats);
    assert!(sent.is_none_or(|stats| stats.responses.iter().sum::<u64>() <= 2), "sent more than its window: {sent:?}");
    eventually("the stuck stream ends and is counted", || bench.shared.state.metrics.ended("stuck") == 1).await;
    assert_eq!(bench.shared.proxies.len(), 1);
    drop((unread, requests));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_receives_only_resources_whose_audience_includes_it() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(2, 1)).await;
    let proxy = bench.frontend();
    assert_eq!(proxy.demand(Kind::Workload, "west/default/frontend-1").await, Outcome::Present);
    assert_eq!(proxy.demand(Kind::PeerAuthentication, "mesh").await, Outcome::Present);
    assert_eq!(proxy.demand(Kind::MeshConfig, "mesh").await, Outcome::Present);

    let thief = identity_of(&mesh().west, "default", "thief", &[]);
    let thief = bench.proxy(&thief, "sidecar~10.244.0.9~frontend-1.default~west");
    assert_eq!(thief.demand(Kind::Workload, "west/default/frontend-1").await, Outcome::Absent);
    let neighbour = identity_of(&mesh().west, "default", "frontend", &[]);
    let neighbour = bench.proxy(&neighbour, "sidecar~10.244.0.9~frontend-2.default~west");
    assert_eq!(neighbour.demand(Kind::Workload, "west/default/frontend-1").await, Outcome::Absent);

    // For another cluster, a service that is not exported is absent under each of its names.
    let east = identity_of(&mesh().east, "default", "frontend", &[]);
    let east = bench.proxy(&east, "eastwest~10.244.0.9~gw-1.default~east");
    for name in [host(0), "@west/10.96.0.1".into(), name::exported("net-west")] {
        assert_eq!(east.demand(Kind::Service, &name).await, Outcome::Absent, "{name}");
    }
    for network in ["net-west", "net-east", ""] {
        assert_eq!(east.demand(Kind::Endpoint, &name::endpoints(&host(0), network)).await, Outcome::Absent);
    }
    let export = objects::Export { namespace: "default".into(), name: "s0".into(), created: 1, ..Default::default() };
    bench.put(Object::Export(export)).await;
    eventually("the exported service arrives", || east.count(Kind::Service) == 1).await;
    assert_eq!(east.demand(Kind::Service, &host(0)).await, Outcome::Present);
    assert_eq!(east.demand(Kind::Service, &host(1)).await, Outcome::Absent);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_may_no_longer_consume_a_service_loses_it() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(2, 1)).await;
    let east = identity_of(&mesh().east, "default", "frontend", &[]);
    let east = bench.proxy(&east, "sidecar~10.244.0.9~frontend-1.default~east");
    assert_eq!(east.demand(Kind::Service, &host(0)).await, Outcome::Absent);
    let export = objects::Export { namespace: "default".into(), name: "s0".into(), created: 1, ..Default::default() };
    bench.put(Object::Export(export)).await;
    eventually("the exported service arrives", || east.count(Kind::Service) == 1).await;
    let object = serde_json::json!({"metadata": {"name": "s0", "namespace": "default"},
        "spec": {"selector": {"services": ["s0"]}, "consumers": {"clusters": ["central"]}}});
    let policy =
        <objects::FederationPolicy as objects::Record>::extract(serde_json::from_value(object).unwrap()).unwrap();
    bench.put(Object::FederationPolicy(policy)).await;
    eventually("the service is gone", || east.count(Kind::Service) == 0).await;
    assert_eq!(east.demand(Kind::Service, &host(0)).await, Outcome::Absent);
    let west = bench.frontend();
    assert_eq!(west.demand(Kind::Service, &host(0)).await, Outcome::Present, "the exporting cluster has it");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_wrong_node_id_or_certificate_is_refused_and_counted() {
    let bench = Bench::start(Limits { first_request: Duration::from_millis(200), ..Limits::default() }).await;
    bench.fill(mesh_of(1, 1)).await;
    eventually("ready", || bench.shared.state.ready()).await;
    let west = identity_of(&mesh().west, "default", "frontend", &[]);
    for (node, reason) in [
        ("sidecar~10.0.0.1~a.other~west", "wrong namespace"),
        ("sidecar~10.0.0.1~a.default~east", "wrong cluster"),
        ("sidecar~10.0.0.1~a.default", "bad node"),
        ("*", "bad node"),
        ("", "bad node"),
    ] {
        let status = open(&bench, &west, node).await.unwrap_err();
        println!("{node:?}: {status}");
        assert!(bench.shared.state.metrics.ended(reason) > 0, "{node:?} is counted as {reason}");
    }
    assert_eq!(bench.shared.state.metrics.ended("bad node"), 3);

    // A certificate of an unknown root is refused, and one of the mesh's root itself, which signs for no cluster.
    let foreign = Authority::self_signed_root("mesh", DAY).unwrap();
    let foreign = identity_of(&foreign, "default", "frontend", &[]);
    assert!(open(&bench, &foreign, "sidecar~10.0.0.1~a.default~west").await.is_err());
    let rooted = identity_of(&mesh().root, "default", "frontend", &[]);
    let status = open(&bench, &rooted, "sidecar~10.0.0.1~a.default~west").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");

    // A client without a certificate cannot open a stream.
    let config = identity::server_only_client(mesh().trust.roots(), identity::alpn::DISCOVERY).unwrap();
    let stream = tokio::net::TcpStream::connect(bench.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(SERVER).unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        std::future::ready(stream.take().ok_or_else(|| std::io::Error::other("only once")))
    });
    let channel = tonic::transport::Endpoint::from_static("http://x").connect_with_connector(connector).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let status = client.delta_aggregated_resources(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);

    // A stream without a first request ends after a time limit.
    let mut client = AggregatedDiscoveryServiceClient::new(bench.connector(&west).channel());
    let mut silent = client.delta_aggregated_resources(tokio_stream::pending()).await.unwrap().into_inner();
    assert_eq!(silent.message().await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    assert_eq!(bench.shared.proxies.len(), 0);
    bench.stop().await;
}

/// Opens a stream with this node id, and waits for the first response or error.
async fn open(bench: &Bench, identity: &Identity, node: &str) -> Result<(), Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(bench.connector(identity).channel());
    let request = DeltaDiscoveryRequest {
        node: Some(WireNode { id: node.into(), cluster: String::new() }),
        type_url: Kind::MeshConfig.url().into(),
        resource_names_subscribe: vec!["mesh".into()],
        ..Default::default()
    };
    let requests = futures_util::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut stream = client.delta_aggregated_resources(requests).await?.into_inner();
    stream.message().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_its_certificate_expires() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(1, 1)).await;
    let id = SpiffeId::new("cluster.local", "default", "frontend").unwrap();
    let short = mesh().west.credential(&id, &[], Duration::from_secs(2)).unwrap();
    let identity = Identity::new(short, mesh().trust.clone());
    let proxy = bench.proxy(&identity, "sidecar~10.244.0.9~frontend-1.default~west");
    assert_eq!(proxy.demand(Kind::Service, &host(0)).await, Outcome::Present);
    // The certificate is renewed in time, so the proxy connects again.
    identity.replace_credential(mesh().west.credential(&id, &[], DAY).unwrap());
    eventually("the stream ends", || bench.shared.state.metrics.ended("expired") == 1).await;
    eventually("the proxy connects again", || bench.shared.proxies.len() == 1).await;
    bench.put(service(1)).await;
    // Before the service is compiled, the controller would correctly report it as absent.
    eventually("the service is compiled", || bench.shared.state.store().get(Kind::Service, &host(1)).is_some()).await;
    assert_eq!(proxy.demand(Kind::Service, &host(1)).await, Outcome::Present);
    bench.stop().await;
}

/// The PeerAuthentication of the mesh, with a mode.
fn mode_of_mesh(mode: &str) -> Object {
    use crate::objects::Record as _;
    let object = serde_json::json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": mode}},
    });
    let policy = objects::PeerAuthentication::extract(api::security::PeerAuthentication::from_value(&object)).unwrap();
    Object::PeerAuthentication(policy)
}

/// Waits for more than so many changes, and returns the number of changes with which the inventory is published.
async fn published_after(bench: &Bench, changes: u64) -> u64 {
    loop {
        match bench.shared.state.read_published(|_| ()).await.1 {
            published if published > changes => return published,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_current_once_it_has_acknowledged_every_policy_of_its_workload() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(1, 1)).await;
    let proxy = bench.frontend();
    let current = || bench.shared.proxies.list().iter().map(|proxy| proxy.current()).max().unwrap_or(0);
    assert_eq!(proxy.demand(Kind::Workload, "west/default/frontend-1").await, Outcome::Present);
    assert_eq!(current(), 0, "it has not subscribed to the mode of the mesh");
    assert_eq!(proxy.demand(Kind::PeerAuthentication, "mesh").await, Outcome::Present);
    let before = published_after(&bench, 0).await;
    eventually("the proxy is current", || current() >= before).await;

    // The workload has another policy, to which the proxy subscribes after it has acknowledged the workload.
    bench.put(mode_of_mesh("STRICT")).await;
    let with_policy = published_after(&bench, before).await;
    eventually("the workload arrives", || proxy.changes() >= 3).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(current() < with_policy, "it does not have the policy");
    assert_eq!(proxy.demand(Kind::PeerAuthentication, "west/istio-system/default").await, Outcome::Present);
    eventually("the proxy is current", || current() >= with_policy).await;

    // A proxy that rejects a version keeps the last one.
    proxy.store.inner.lock().unwrap().reject = true;
    bench.put(mode_of_mesh("PERMISSIVE")).await;
    let rejected = published_after(&bench, with_policy).await;
    eventually("the policy is rejected", || bench.shared.state.metrics.nacks() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(current() < rejected);
    proxy.store.inner.lock().unwrap().reject = false;
    bench.put(mode_of_mesh("DISABLE")).await;
    let last = published_after(&bench, rejected).await;
    eventually("the proxy is current", || current() >= last).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_resource_is_counted_and_not_pushed_again() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(1, 1)).await;
    let proxy = bench.frontend();
    assert_eq!(proxy.demand(Kind::Service, &host(0)).await, Outcome::Present);
    proxy.store.inner.lock().unwrap().reject = true;
    let Object::Service(mut changed) = service(0) else { unreachable!() };
    changed.ports[0].protocol = Protocol::Tcp;
    bench.put(Object::Service(changed)).await;
    eventually("the resource is rejected", || bench.shared.state.metrics.nacks() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((bench.shared.state.metrics.nacks(), proxy.changes()), (1, 2));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshakes_do_not_affect_other_connections() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(1, 1)).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        // Some clients send nothing, some send no TLS, and some disconnect at once.
        idle.push(tokio::net::TcpStream::connect(bench.address).await.unwrap());
        let mut plaintext = tokio::net::TcpStream::connect(bench.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut plaintext, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        idle.push(plaintext);
        drop(tokio::net::TcpStream::connect(bench.address).await.unwrap());
    }
    let proxy = bench.frontend();
    assert_eq!(proxy.demand(Kind::Service, &host(0)).await, Outcome::Present);
    drop(idle);
    bench.stop().await;
}

/// Opens a stream that subscribes to `names` names of `length` bytes, and waits for the first response or error.
async fn subscribe(
    bench: &Bench,
    identity: &Identity,
    names: usize,
    length: usize,
) -> Result<(tonic::Streaming<DeltaDiscoveryResponse>, mpsc::Sender<DeltaDiscoveryRequest>), Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(bench.connector(identity).channel());
    client = client.max_decoding_message_size(64 << 20);
    let request = DeltaDiscoveryRequest {
        node: Some(WireNode { id: "sidecar~10.244.0.9~frontend-1.default~west".into(), cluster: String::new() }),
        type_url: Kind::Service.url().into(),
        resource_names_subscribe: (0..names).map(|name| format!("{name:0length$}")).collect(),
        ..Default::default()
    };
    // Dropping the sender ends the stream.
    let (sender, requests) = mpsc::channel(1);
    let _ = sender.send(request).await;
    let mut stream = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    stream.message().await?;
    Ok((stream, sender))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_identity_has_a_bounded_number_of_streams_and_names() {
    let bench = Bench::start(Limits::default()).await;
    bench.fill(mesh_of(1, 1)).await;
    eventually("ready", || bench.shared.state.ready()).await;
    let west = identity_of(&mesh().west, "default", "frontend", &[]);
    // The account has one pod: 8 + 4 streams, and 33 MiB.
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(subscribe(&bench, &west, 1, 1).await.unwrap());
    }
    let status = subscribe(&bench, &west, 1, 1).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("has 12 discovery streams"), "{status}");
    assert_eq!(bench.shared.state.metrics.ended("too many streams"), 1);
    let other = identity_of(&mesh().west, "default", "other", &[]);
    subscribe(&bench, &other, 1, 1).await.expect("another identity is not affected");
    drop(streams);
    eventually("the streams end", || bench.shared.proxies.is_empty()).await;

    let first = subscribe(&bench, &west, 100_000, 60).await.unwrap();
    let status = subscribe(&bench, &west, 100_000, 60).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("subscribe to fewer names"), "{status}");
    assert_eq!(bench.shared.state.metrics.ended("too many names"), 1);
    drop(first);

    // A connection without a stream counts as well: 16 + 8 for the pod.
    let mut idle = Vec::new();
    let failed = || bench.shared.state.metrics.registry().total(&crate::ca::serve::FAILED_HANDSHAKES, |_| true);
    for _ in 0..40 {
        let socket = tokio::net::TcpStream::connect(bench.address).await.unwrap();
        let config = west.controller_config(identity::alpn::DISCOVERY).unwrap();
        let name = rustls_pki_types::ServerName::try_from(SERVER).unwrap();
        idle.push(tokio_rustls::TlsConnector::from(config).connect(name, socket).await);
    }
    eventually("connections are refused", || failed() >= 40 - 24).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxies_of_a_removed_cluster_keep_what_they_have_and_are_refused_from_then_on() {
    let bench = Bench::start(Limits::default()).await;
    let frontend = frontend_pod();
    bench.fill(mesh_of(2, 2)).await;
    for object in [service(0), slice(0, 3, 0), frontend] {
        bench.send([Event::Upsert { cluster: "east".into(), object }]).await;
    }
    eventually("ready", || bench.shared.state.ready()).await;
    let east = identity_of(&mesh().east, "default", "frontend", &[]);
    let easts = bench.proxy(&east, "sidecar~10.244.0.9~frontend-1.default~east");
    let wests = bench.frontend();
    for proxy in [&easts, &wests] {
        assert_eq!(proxy.demand(Kind::Service, &host(0)).await, Outcome::Present);
    }
    eventually("the workload arrives", || bench.shared.proxies.len() == 2).await;
    let (before, changes) = (easts.count(Kind::Service), easts.changes());
    assert_eq!(before, 1);

    bench.events.remove("east".into()).await.unwrap();
    let metrics = &bench.shared.state.metrics;
    eventually("the stream ends", || metrics.ended("cluster removed") == 1).await;
    eventually("the proxy is refused", || metrics.ended("unknown cluster") >= 2).await;
    assert_eq!((easts.count(Kind::Service), easts.changes()), (before, changes), "nothing is removed");
    assert_eq!(wests.demand(Kind::Service, &host(1)).await, Outcome::Present, "the others are served");
    let status = open(&bench, &east, "sidecar~10.244.0.9~frontend-1.default~east").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains("no remote secret"), "{status}");
    bench.stop().await;
}
