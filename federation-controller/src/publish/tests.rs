//! Tests of the store: changes, collections, audiences and the log of changes.

use super::table::LOG;
use super::*;
use crate::compile::resource::Resource;
use wire::delta::Found as _;

fn resource(name: &str, body: &'static [u8], keys: &[&str], audience: Audience) -> Resource {
    let keys = keys.iter().map(|key| Arc::from(*key)).collect();
    Resource { kind: Kind::Service, name: name.into(), keys, audience, body: Bytes::from_static(body) }
}

fn viewer(cluster: &str, workload: &str) -> Viewer {
    Viewer {
        cluster: cluster.into(),
        namespace: "default".into(),
        workload: workload.into(),
        account: "a".into(),
        router: false,
    }
}

fn group(name: &str) -> Group {
    Group::Network(name.into())
}

#[test]
fn publishing_equal_resources_changes_nothing() {
    let mut store = Store::default();
    let resources = || vec![resource("a", b"1", &["k"], Audience::All)];
    assert_eq!(store.replace(group("g"), resources()), 1);
    let (changes, view) = (store.changes(), store.view(&viewer("west", "")).end(Kind::Service));
    assert_eq!(store.replace(group("g"), resources()), 0);
    assert_eq!((store.changes(), store.view(&viewer("west", "")).end(Kind::Service)), (changes, view));
    // Other keys or another audience are a change, also when the body is equal.
    assert_eq!(store.replace(group("g"), vec![resource("a", b"1", &["l"], Audience::All)]), 1);
    // Removed for one audience, and added for another.
    assert_eq!(store.replace(group("g"), vec![resource("a", b"1", &["l"], Audience::Workload("a".into()))]), 2);
    assert_eq!(store.replace(group("g"), Vec::new()), 1);
    assert_eq!(store.size(Kind::Service), (0, 0));
    assert_eq!(store.tables[Kind::Service as usize].keyed("l").len(), 0);
    assert!(store.groups.is_empty());
}

#[test]
fn each_proxy_receives_the_resource_of_a_name_for_its_audience() {
    let mut store = Store::default();
    let west = || Audience::Clusters(["west".into()].into());
    let others = || Audience::OtherClusters(["west".into()].into());
    let both = vec![resource("a", b"own", &["k"], west()), resource("a", b"shared", &["k"], others())];
    assert_eq!(store.replace(group("g"), both), 2);
    let body = |store: &Store, cluster: &str| {
        let viewer = viewer(cluster, "");
        let view = store.view(&viewer);
        assert!(view.members(Kind::Service, "k").count() <= 1 && view.members(Kind::Service, "a").count() <= 1);
        view.get(Kind::Service, "a").map(|found| found.body())
    };
    assert_eq!(body(&store, "west").as_deref(), Some(&b"own"[..]));
    assert_eq!(body(&store, "east").as_deref(), Some(&b"shared"[..]));
    assert_eq!(store.get(Kind::Service, "a").map(|found| found.body()).as_deref(), Some(&b"shared"[..]));
    assert_eq!(store.replace(group("g"), vec![resource("a", b"own", &["k"], west())]), 1);
    assert_eq!((body(&store, "west").as_deref(), body(&store, "east")), (Some(&b"own"[..]), None));
    assert_eq!(store.replace(group("g"), Vec::new()), 1);
    assert_eq!(body(&store, "west"), None);
}

#[test]
fn replacing_a_group_removes_its_previous_resources() {
    let mut store = Store::default();
    store.replace(
        group("g"),
        vec![resource("a", b"1", &["k"], Audience::All), resource("b", b"1", &["k"], Audience::All)],
    );
    store.replace(
        group("g"),
        vec![resource("b", b"1", &["k"], Audience::All), resource("c", b"1", &["k"], Audience::All)],
    );
    let viewer = viewer("west", "");
    let view = store.view(&viewer);
    let members: Vec<_> = view.members(Kind::Service, "k").map(|found| found.name().to_string()).collect();
    assert_eq!(members, ["b", "c"]);
    assert_eq!(store.size(Kind::Service), (2, 2));
}

#[test]
fn a_viewer_sees_only_resources_whose_audience_includes_it() {
    let mut store = Store::default();
    let west = Audience::Clusters(["west".into()].into());
    store.replace(
        group("g"),
        vec![
            resource("for-all", b"1", &["k"], Audience::All),
            resource("for-west", b"1", &["k"], west),
            resource("west/default/a", b"1", &[], Audience::Workload("a".into())),
        ],
    );
    let seen = |cluster, workload| {
        let viewer = viewer(cluster, workload);
        let view = store.view(&viewer);
        let own = view.get(Kind::Service, "west/default/a").is_some();
        (view.members(Kind::Service, "k").count(), own)
    };
    assert_eq!(seen("west", "west/default/a"), (2, true));
    assert_eq!(seen("west", "west/default/b"), (2, false));
    assert_eq!(seen("east", "east/default/a"), (1, false));
    let other = Viewer { account: "b".into(), ..viewer("west", "west/default/a") };
    assert!(store.view(&other).get(Kind::Service, "west/default/a").is_none(), "the service account differs");
}

#[test]
fn a_stream_behind_the_bounded_log_compares_everything() {
    let mut store = Store::default();
    for i in 0..LOG + 10 {
        store.replace(group("g"), vec![resource("a", if i % 2 == 0 { b"1" } else { b"2" }, &[], Audience::All)]);
    }
    let viewer = viewer("west", "");
    let view = store.view(&viewer);
    assert_eq!(view.end(Kind::Service), (LOG + 10) as u64);
    assert_eq!(view.changed(Kind::Service, 0), None);
    assert_eq!(view.changed(Kind::Service, 10).map(|names| names.len()), Some(LOG));
    assert_eq!(view.changed(Kind::Service, view.end(Kind::Service)), Some(Vec::new()));
    assert!(store.set_ready(HashSet::from(["east".into()])));
    assert!(!store.set_ready(HashSet::from(["east".into()])));
    let end = (LOG + 10) as u64;
    let view = store.view(&viewer);
    assert_eq!(view.changed(Kind::Service, end), None, "readiness has changed");
    assert_eq!(view.changed(Kind::Service, view.end(Kind::Service)), Some(Vec::new()));
    assert!(!view.certain(Kind::Endpoint, "a@n/east/1") && view.certain(Kind::Endpoint, "a@n/west/1"));
    assert!(!view.certain(Kind::Endpoint, "a@n") && !view.certain(Kind::Service, "a"));
}
