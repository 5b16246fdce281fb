//! Tests of links, remote secrets and outages, with fake API servers over TLS and real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Clusters, Config, LinkState, start};
use crate::clusters::queue::{Receiver, queues};
use crate::fake::Fake;
use crate::objects::event::{ClusterRole, Event, Link};
use crate::objects::{Kind, Object};

const PODS: &str = "/api/v1/pods";
const PATIENCE: Duration = Duration::from_secs(15);

/// The clusters of a controller in `west`, with their events.
struct Run {
    west: Arc<Fake>,
    clusters: Clusters,
    events: Receiver,
    queued: std::collections::VecDeque<Event>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Run {
    async fn new() -> Run {
        Run::with_grace(Duration::ZERO).await
    }

    async fn with_grace(removal_grace: Duration) -> Run {
        let west = Fake::start("own").await;
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), west.kubeconfig("west", "own")).unwrap();
        let (sender, events) = queues();
        let config = Config {
            cluster: "west".into(),
            network: "net-west".into(),
            root_namespace: "istio-system".into(),
            kubeconfig: Some(kubeconfig.path().to_owned()),
            heartbeat: Duration::from_millis(100),
            removal_grace,
        };
        let clusters = start(config, sender).await.unwrap();
        Run { west, clusters, events, queued: Default::default(), _kubeconfig: kubeconfig }
    }

    /// Waits for an event for which `wanted` returns a value; returns that value and the events before it.
    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> (T, Vec<Event>) {
        let mut before = Vec::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let event = tokio::time::timeout_at(deadline, self.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{what} did not happen; events: {before:?}"));
            if let Some(found) = wanted(&event) {
                return (found, before);
            }
            before.push(event);
        }
    }

    async fn next(&mut self) -> Event {
        if self.queued.is_empty() {
            let mut batch = Vec::new();
            self.events.receive(&mut batch).await;
            self.queued.extend(batch);
        }
        self.queued.pop_front().unwrap()
    }

    async fn until_connected(&mut self, name: &str) -> Vec<Event> {
        let wanted = |event: &Event| match event {
            Event::Link { cluster, link: Link::Connected, .. } if **cluster == *name => Some(()),
            _ => None,
        };
        self.until(&format!("{name} connected"), wanted).await.1
    }

    async fn until_pod(&mut self, name: &str) {
        let wanted = |event: &Event| match event {
            Event::Upsert { object: Object::Pod(pod), .. } if *pod.name == *name => Some(()),
            _ => None,
        };
        self.until(&format!("pod {name}"), wanted).await;
    }

    fn state(&self, cluster: &str) -> Option<LinkState> {
        self.clusters.statuses().into_iter().find(|s| *s.name == *cluster).map(|s| s.link)
    }

    /// Waits until a condition holds that no event reports.
    async fn eventually(&self, what: &str, holds: impl Fn(&Clusters) -> bool) {
        let start = Instant::now();
        while !holds(&self.clusters) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: {:?} {:?}",
                self.clusters.statuses(),
                self.clusters.problems()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn pod(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "status": {"phase": "Running", "podIP": "10.244.0.9"}})
}

fn pods_of(events: &[Event], name: &str) -> Vec<String> {
    let pods = events.iter().filter_map(|event| match event {
        Event::Upsert { cluster, object: Object::Pod(pod) } if **cluster == *name => Some(pod.name.to_string()),
        _ => None,
    });
    pods.collect()
}

#[tokio::test]
async fn a_remote_secret_adds_a_cluster_and_its_deletion_removes_it() {
    let mut run = Run::new().await;
    run.until_connected("west").await;
    let east = Fake::start("reader").await;
    east.put(PODS, pod("ratings-1"));
    east.put("/api/v1/namespaces", json!({"metadata": {"name": "default"}}));
    run.west.put_secret("istio-remote-secret-east", &[("east", &east.kubeconfig("east", "reader"))]);
    let seen = run.until_connected("east").await;
    let first = seen.iter().find(|event| !matches!(event, Event::ClustersListed { .. })).unwrap();
    assert!(matches!(first, Event::ClusterAdded(c) if &*c.name == "east" && !c.own), "{first:?}");
    assert_eq!(pods_of(&seen, "east"), ["ratings-1"]);
    for kind in Kind::watched_in(ClusterRole::Remote) {
        let listed =
            seen.iter().any(|e| matches!(e, Event::Listed { cluster, kind: k } if &**cluster == "east" && *k == kind));
        assert!(listed, "{kind:?} was not listed");
    }
    assert!(run.clusters.namespaces("east").unwrap().borrow().contains("default"));
    assert!(run.clusters.client("east").is_some());

    east.put(PODS, pod("ratings-2"));
    run.until_pod("ratings-2").await;
    east.delete(PODS, "default", "ratings-2");
    let gone = |event: &Event| {
        matches!(event, Event::Delete { kind: Kind::Pod, name, .. } if &**name == "ratings-2").then_some(())
    };
    run.until("deletion", gone).await;

    run.west.delete("/api/v1/secrets", "istio-system", "istio-remote-secret-east");
    let removed =
        |event: &Event| matches!(event, Event::ClusterRemoved { cluster } if &**cluster == "east").then_some(());
    run.until("removal", removed).await;
    assert!(run.clusters.client("east").is_none());
    run.west.put_secret("istio-remote-secret-east", &[("east", &east.kubeconfig("east", "reader"))]);
    assert_eq!(pods_of(&run.until_connected("east").await, "east"), ["ratings-1"]);
}

#[tokio::test]
async fn one_api_server_under_two_names_counts_once() {
    let mut run = Run::new().await;
    let east = Fake::start("reader").await;
    east.put("/api/v1/namespaces", json!({"metadata": {"name": "kube-system", "uid": "6f1c"}}));
    east.put(PODS, pod("ratings-1"));
    run.west.put_secret("s1", &[("east", &east.kubeconfig("east", "reader"))]);
    run.until_connected("east").await;
    run.west.put_secret("s2", &[("twice", &east.kubeconfig("twice", "reader"))]);
    let excluded = |event: &Event| match event {
        Event::Link { cluster, link: Link::Excluded(why), .. } if &**cluster == "twice" => Some(why.clone()),
        _ => None,
    };
    let (why, before) = run.until("refusal", excluded).await;
    assert!(why.contains("cluster east") && why.contains("delete"), "{why}");
    assert_eq!(pods_of(&before, "twice"), [""; 0]);
    assert_eq!(run.state("east"), Some(LinkState::Connected));
    // Without the other name it is read.
    run.west.delete("/api/v1/secrets", "istio-system", "s1");
    assert_eq!(pods_of(&run.until_connected("twice").await, "twice"), ["ratings-1"]);
}

#[tokio::test]
async fn a_secret_that_is_deleted_and_created_again_within_the_grace_changes_nothing() {
    let mut run = Run::with_grace(PATIENCE * 4).await;
    run.until_connected("west").await;
    let east = Fake::start("reader").await;
    let kubeconfig = east.kubeconfig("east", "reader");
    run.west.put_secret("a", &[("east", &kubeconfig)]);
    run.until_connected("east").await;
    run.west.delete("/api/v1/secrets", "istio-system", "a");
    let leaving = |clusters: &Clusters| clusters.problems().iter().any(|of| of.why.contains("secret is deleted"));
    run.eventually("the removal is announced", leaving).await;
    assert_eq!(run.clusters.is_joined("east"), Some(true));
    run.west.put_secret("b", &[("east", &kubeconfig)]);
    run.eventually("the new secret is used", |clusters| {
        !leaving(clusters) && clusters.statuses().iter().any(|of| of.secret.as_deref() == Some("istio-system/b"))
    })
    .await;
    // The link is the same one: it lists nothing again.
    east.put(PODS, pod("ratings-9"));
    let found = |event: &Event| match event {
        Event::Upsert { object: Object::Pod(pod), .. } if &*pod.name == "ratings-9" => Some(()),
        _ => None,
    };
    let (_, before) = run.until("the next pod", found).await;
    let restarted = |event: &&Event| matches!(event, Event::Listing { .. } | Event::ClusterRemoved { .. });
    assert_eq!(before.iter().filter(restarted).count(), 0, "{before:?}");
}

#[tokio::test]
async fn a_cluster_leaves_when_its_grace_is_over() {
    let mut run = Run::with_grace(Duration::from_millis(300)).await;
    run.until_connected("west").await;
    run.eventually("the secrets are read", |clusters| clusters.is_joined("east") == Some(false)).await;
    let east = Fake::start("reader").await;
    run.west.put_secret("a", &[("east", &east.kubeconfig("east", "reader"))]);
    run.until_connected("east").await;
    let deleted = Instant::now();
    run.west.delete("/api/v1/secrets", "istio-system", "a");
    let removed =
        |event: &Event| matches!(event, Event::ClusterRemoved { cluster } if &**cluster == "east").then_some(());
    run.until("removal", removed).await;
    assert!(deleted.elapsed() >= Duration::from_millis(300));
    assert_eq!((run.clusters.is_joined("east"), run.clusters.problems().len()), (Some(false), 0));
}

#[tokio::test]
async fn lists_are_repeated_when_the_pipeline_asks_for_it() {
    let mut run = Run::new().await;
    let east = Fake::start("reader").await;
    east.put(PODS, pod("ratings-1"));
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "reader"))]);
    run.until_connected("east").await;
    run.events.relist("east".into());
    let listed = |event: &Event| match event {
        Event::Listed { cluster, kind: Kind::Pod } if &**cluster == "east" => Some(()),
        _ => None,
    };
    let (_, before) = run.until("another list", listed).await;
    assert_eq!(pods_of(&before, "east"), ["ratings-1"]);
}

#[tokio::test]
async fn an_outage_removes_nothing_and_has_an_age() {
    let mut run = Run::new().await;
    let east = Fake::start("reader").await;
    east.put(PODS, pod("ratings-1"));
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "reader"))]);
    run.until_connected("east").await;
    east.stop().await;
    let lost = |event: &Event| match event {
        Event::Link { cluster, link: Link::Lost(why), .. } if &**cluster == "east" => Some(why.clone()),
        _ => None,
    };
    let (why, before) = run.until("loss", lost).await;
    assert!(why.contains("refused"), "{why}");
    assert!(!before.iter().any(|e| matches!(e, Event::Delete { .. } | Event::ClusterRemoved { .. })), "{before:?}");
    let status = run.clusters.statuses().into_iter().find(|s| &*s.name == "east").unwrap();
    assert!(status.last_contact.unwrap() < status.since);

    east.put(PODS, pod("ratings-2"));
    east.again().await;
    // Changes during the outage arrive without a new list.
    run.until_pod("ratings-2").await;
    run.eventually("connected again", |c| c.statuses().iter().all(|s| s.link == LinkState::Connected)).await;
}

#[tokio::test]
async fn changed_credentials_take_over_without_a_gap() {
    let mut run = Run::new().await;
    let east = Fake::start("old").await;
    east.allow(&["old", "new"]);
    east.put(PODS, pod("ratings-1"));
    east.put(PODS, pod("ratings-2"));
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "old"))]);
    run.until_connected("east").await;

    // Credentials that do not work do not end the link.
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "wrong"))]);
    run.eventually("refusal", |c| {
        let statuses = c.statuses();
        let east = statuses.iter().find(|s| &*s.name == "east").unwrap();
        matches!(&east.replacement, Some(LinkState::Refused { why }) if why.contains("401"))
    })
    .await;
    assert_eq!(run.state("east"), Some(LinkState::Connected));
    east.put(PODS, pod("ratings-3"));
    run.until_pod("ratings-3").await;

    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "new"))]);
    let added = |event: &Event| matches!(event, Event::ClusterAdded(c) if &*c.name == "east").then_some(());
    let (_, before) = run.until("the new link", added).await;
    assert!(!before.iter().any(|e| matches!(e, Event::ClusterRemoved { .. } | Event::Delete { .. })));
    let seen = run.until_connected("east").await;
    assert_eq!(pods_of(&seen, "east").len(), 3);
    // The old credentials are not used any longer.
    east.allow(&["new"]);
    east.put(PODS, pod("ratings-4"));
    run.until_pod("ratings-4").await;
    assert_eq!(run.state("east"), Some(LinkState::Connected));
}

#[tokio::test]
async fn invalid_secrets_are_reported_and_do_not_affect_others() {
    let mut run = Run::new().await;
    let east = Fake::start("reader").await;
    let gone = Fake::start("reader").await;
    gone.stop().await;
    let good = east.kubeconfig("east", "reader");
    run.west.put_secret("a-good", &[("east", &good)]);
    run.until_connected("east").await;
    run.west.put_secret(
        "b-bad",
        &[
            ("west", &good),
            ("broken", "{{{"),
            ("empty", ""),
            ("east", &gone.kubeconfig("east", "reader")),
            ("unreachable", &gone.kubeconfig("unreachable", "reader")),
            ("refusing", &east.kubeconfig("refusing", "wrong")),
        ],
    );
    run.west.put_secret("c-none", &[]);
    run.eventually("states", |c| {
        let state = |name: &str| c.statuses().iter().find(|s| &*s.name == name).map(|s| s.link.word());
        state("unreachable") == Some("unreachable")
            && state("refusing") == Some("refused")
            && state("east") == Some("connected")
            && c.problems().iter().filter(|p| !p.in_force).count() == 5
    })
    .await;
    let problems: Vec<_> = run.clusters.problems().into_iter().filter(|p| !p.in_force).collect();
    let why = |secret: &str, cluster: &str| {
        let found = problems.iter().find(|p| p.secret == format!("istio-system/{secret}") && p.cluster == cluster);
        found.unwrap_or_else(|| panic!("no problem with {secret} {cluster}: {problems:?}")).why.clone()
    };
    assert!(why("b-bad", "west").contains("own cluster"));
    assert!(why("b-bad", "broken").contains("parsed"));
    assert!(why("b-bad", "empty").contains("empty"));
    assert!(why("b-bad", "east").contains("already contains"));
    assert!(why("c-none", "").contains("no entry"));
    assert!(run.clusters.client("broken").is_none());

    // The unreachable cluster connects once its server is back.
    gone.again().await;
    run.until_connected("unreachable").await;
    // When the secret in use is deleted, the next one is used, and the cluster is not removed in between.
    run.west.delete("/api/v1/secrets", "istio-system", "a-good");
    let added = |event: &Event| match event {
        Event::ClusterAdded(c) if &*c.name == "east" => Some(true),
        Event::ClusterRemoved { cluster } if &**cluster == "east" => Some(false),
        _ => None,
    };
    assert!(run.until("the next secret", added).await.0);
}

#[tokio::test]
async fn a_missing_crd_or_a_denied_optional_kind_does_not_affect_the_link() {
    let mut run = Run::new().await;
    let east = Fake::start("reader").await;
    east.miss("/apis/multicluster.x-k8s.io/v1alpha1/serviceexports");
    east.forbid("/apis/networking.istio.io/v1beta1/gateways");
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", "reader"))]);
    let denied = |event: &Event| match event {
        Event::Denied { cluster, kind: Kind::Gateway, why } if &**cluster == "east" => Some(why.clone()),
        _ => None,
    };
    let why = run.until("the denial of gateways", denied).await.0;
    assert!(why.contains("403"), "{why}");
    run.until_connected("east").await;
    let north = Fake::start("reader").await;
    north.forbid(PODS);
    run.west.put_secret("n", &[("north", &north.kubeconfig("north", "reader"))]);
    run.eventually("refusal", |c| {
        let statuses = c.statuses();
        let north = statuses.iter().find(|s| &*s.name == "north");
        north.is_some_and(
            |n| matches!(&n.link, LinkState::Refused { why } if why.contains("Pod") && why.contains("403")),
        )
    })
    .await;
}

#[tokio::test]
async fn mesh_settings_are_followed_and_invalid_ones_change_nothing() {
    let mut run = Run::new().await;
    let put = |text: &str| {
        let map = json!({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": text}});
        run.west.put("/api/v1/configmaps", map);
    };
    put("accessLogFile: /dev/stdout\n");
    let mesh = |event: &Event| match event {
        Event::Mesh(mesh) => Some(mesh.clone()),
        _ => None,
    };
    let west = Arc::clone(&run.west);
    assert_eq!(&*run.until("settings", mesh).await.0.access_log_file, "/dev/stdout");
    let put = |text: &str| {
        let map = json!({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": text}});
        west.put("/api/v1/configmaps", map);
    };
    put("accessLogFile: [\n");
    put("connectTimeout: tomorrow\n");
    let notices = |event: &Event| match event {
        Event::MeshNotices(notices) if notices.lines.iter().any(|line| line.contains("connectTimeout")) => {
            Some(notices.clone())
        }
        _ => None,
    };
    let invalid = run.until("a notice of the invalid setting", notices).await.0;
    assert!(invalid.lines[0].contains("the last valid settings stay in effect"), "{invalid:?}");
    put("accessLogFile: /dev/stderr\nfederation: {exportAll: true}\n");
    let next = run.until("settings", mesh).await.0;
    assert_eq!((&*next.access_log_file, next.export_all), ("/dev/stderr", true));
}

#[tokio::test]
async fn names_of_objects_without_effect_are_read() {
    let mut run = Run::new().await;
    let west = Arc::clone(&run.west);
    const TELEMETRIES: &str = "/apis/telemetry.istio.io/v1/telemetries";
    let telemetries = |event: &Event| match event {
        Event::WithoutEffect { kind, objects } if kind.kind == "Telemetry" => {
            Some(objects.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        _ => None,
    };
    west.put(TELEMETRIES, json!({"metadata": {"name": "external", "namespace": "shop"}, "spec": {}}));
    assert_eq!(run.until("the object", telemetries).await.0, ["shop/external"]);
    west.delete(TELEMETRIES, "shop", "external");
    assert!(run.until("no object", telemetries).await.0.is_empty());
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let mut run = Run::new().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let jwt = |iat: u64| {
        let sub = "system:serviceaccount:isthmus-system:isthmus-reader";
        let claims = json!({"sub": sub, "iat": iat, "exp": iat + 3600});
        format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    let (old, new) = (jwt(now - 3000), jwt(now));
    let east = Fake::start(&old).await;
    east.allow(&[&old, &new]);
    east.make_token(&new);
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", &old))]);
    let added = |event: &Event| matches!(event, Event::ClusterAdded(c) if &*c.name == "east").then_some(());
    run.until("the link with the old token", added).await;
    let (_, before) = run.until("the link with the new token", added).await;
    assert!(!before.iter().any(|e| matches!(e, Event::ClusterRemoved { .. } | Event::Delete { .. })));
    let secret = run.west.get("/api/v1/secrets", "istio-system", "s").unwrap();
    let text = STANDARD.decode(secret["data"]["east"].as_str().unwrap()).unwrap();
    let read = |text: &str| -> serde_json::Value { api::yaml::from_str(text).unwrap() };
    assert_eq!(read(std::str::from_utf8(&text).unwrap()), read(&east.kubeconfig("east", &new)));
    east.allow(&[&new]);
    east.put(PODS, pod("ratings-1"));
    run.until_pod("ratings-1").await;
}

#[tokio::test]
async fn an_answer_that_is_no_token_does_not_reach_the_remote_secret() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let run = Run::new().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims =
        json!({"sub": "system:serviceaccount:isthmus-system:isthmus-reader", "iat": now - 3000, "exp": now + 600});
    let token = format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let east = Fake::start(&token).await;
    east.make_token(&format!("{token}\n    client-certificate: /etc/shadow"));
    run.west.put_secret("s", &[("east", &east.kubeconfig("east", &token))]);
    let before = run.west.get("/api/v1/secrets", "istio-system", "s");
    let why = |clusters: &Clusters| clusters.problems().into_iter().map(|problem| problem.why).collect::<String>();
    run.eventually("the renewal is refused", |clusters| why(clusters).contains("cannot be renewed")).await;
    let why = why(&run.clusters);
    assert!(why.contains("not a bearer token") && !why.contains("shadow"), "{why}");
    assert_eq!(run.west.get("/api/v1/secrets", "istio-system", "s"), before);
}
