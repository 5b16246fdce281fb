//! What leases do to resources: drained clusters are named in the mesh's settings, expired ones are withdrawn.

use super::scenes::two_clusters;
use super::*;
use crate::inventory::CONFIRM_EMPTY;
use crate::leases::lease::LeaseState;
use crate::leases::words::Word;

fn exported() -> World {
    let mut world = two_clusters();
    for (cluster, name) in [("west", "reviews"), ("east", "reviews"), ("east", "ratings")] {
        world.put(cluster, Object::Export(export(name)));
    }
    link(&mut world, Link::Connected);
    wait(&mut world, 2);
    world.compile();
    world
}

fn link(world: &mut World, link: Link) {
    let since = world.now;
    world.event(Event::Link { cluster: "east".into(), link, since });
}

/// Lets seconds pass, as the pipeline does.
fn wait(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.now += Duration::from_secs(1);
        world.inventory.tick(world.now);
    }
}

fn state(world: &World) -> LeaseState {
    world.inventory.leases().of("east").unwrap().state()
}

/// A proxy of west speaks of its path to east.
fn say(world: &mut World, pod: &str, account: &str, checks: u64, failing: bool) {
    let word = Word { cluster: "east".into(), checks, failing };
    world.inventory.hear(&"west".into(), &Key::new("default", pod), account, vec![word], world.now);
}

fn sources(world: &World, viewer: &str, name: &str) -> Vec<String> {
    world.endpoints(viewer, name).into_values().map(|endpoint| endpoint.cluster).collect()
}

fn drained(world: &World) -> Vec<(String, Vec<String>)> {
    match world.body(wire::Kind::MeshConfig, wire::name::MESH) {
        Some(Body::MeshConfig(mesh)) => mesh.drained.into_iter().map(|of| (of.cluster, of.viewers)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_expired_cluster_is_withdrawn_from_others_but_never_the_last_source() {
    let mut world = exported();
    let before = world.all_resources();
    link(&mut world, Link::Lost("refused".into()));
    wait(&mut world, 290);
    assert_eq!((state(&world), world.compile()), (LeaseState::Stale, 0), "everything stays while the lease runs");
    wait(&mut world, 15);
    assert_eq!(state(&world), LeaseState::Expired);
    world.compile();
    assert_eq!(sources(&world, "west", "reviews"), ["west"]);
    assert_eq!(sources(&world, "west", "ratings"), ["east"], "the last source of ratings");
    let own = sources(&world, "east", "reviews");
    assert!(own.contains(&"east".to_owned()) && own.contains(&"west".to_owned()), "its own proxies keep it: {own:?}");

    // The other source goes, and comes back.
    world.put("west", Object::Slice(slice("reviews", &[(1, false)])));
    world.compile();
    assert!(sources(&world, "west", "reviews").contains(&"east".to_owned()), "now it is the last source");
    world.put("west", Object::Slice(slice("reviews", &[(1, true)])));
    world.compile();
    assert_eq!(sources(&world, "west", "reviews"), ["west"]);

    link(&mut world, Link::Connected);
    wait(&mut world, 1);
    world.compile();
    assert_eq!(state(&world), LeaseState::Fresh);
    assert_eq!(world.all_resources(), before, "everything returns");
}

#[test]
fn a_source_of_a_port_that_no_other_has_is_not_withdrawn() {
    let mut world = exported();
    let mut with_admin = service("reviews", 1);
    let port = ServicePort { name: "admin".into(), number: 9090, protocol: Protocol::Http, ..Default::default() };
    with_admin.ports.push(port);
    let mut two_ports = slice("reviews", &[(1, true)]);
    two_ports.ports = [two_ports.ports[0].clone(), ("admin".into(), 8090)].into();
    world.put("east", Object::Service(with_admin));
    world.put("east", Object::Slice(two_ports));
    link(&mut world, Link::Lost("refused".into()));
    wait(&mut world, 310);
    world.compile();
    assert_eq!(state(&world), LeaseState::Expired);
    assert!(sources(&world, "west", "reviews").contains(&"east".to_owned()));
}

#[test]
fn a_quorum_of_the_pods_of_a_cluster_drains_another_for_them_and_their_word_returns_it() {
    let mut world = exported();
    for (ip, node) in [(2, "node-1"), (3, "node-2")] {
        world.put("west", Object::Pod(Pod { node: node.into(), ..pod("reviews", ip) }));
    }
    world.compile();
    link(&mut world, Link::Lost("refused".into()));
    wait(&mut world, 5);
    assert_eq!(state(&world), LeaseState::Stale);
    say(&mut world, "reviews-2", "reviews", 1, true);
    say(&mut world, "reviews-2", "reviews", 2, true);
    // Made-up pods, and pods of other accounts, have no word.
    say(&mut world, "reviews-99", "reviews", 1, true);
    say(&mut world, "reviews-3", "other", 1, true);
    wait(&mut world, 1);
    assert_eq!(state(&world), LeaseState::Stale, "one proxy alone");
    say(&mut world, "reviews-3", "reviews", 1, true);
    wait(&mut world, 1);
    assert_eq!(state(&world), LeaseState::Drained);
    world.compile();
    assert_eq!(drained(&world), [("east".to_owned(), vec!["west".to_owned()])]);
    assert_eq!(sources(&world, "west", "reviews"), ["east", "west"].map(str::to_owned), "nothing is removed");
    for pod in ["reviews-2", "reviews-3"] {
        say(&mut world, pod, "reviews", 3, false);
    }
    wait(&mut world, 1);
    world.compile();
    assert_eq!((state(&world), drained(&world)), (LeaseState::Stale, vec![]));
    // A cluster that leaves takes its drain with it.
    for pod in ["reviews-2", "reviews-3"] {
        say(&mut world, pod, "reviews", 4, true);
    }
    wait(&mut world, 1);
    world.event(Event::ClusterRemoved { cluster: "east".into() });
    wait(&mut world, 1);
    world.compile();
    assert_eq!(drained(&world), []);
}

#[test]
fn pods_that_answer_contradict_an_empty_list_of_pods_for_as_long_as_they_do() {
    let mut world = exported();
    let list = |world: &mut World| {
        for event in [
            Event::Listing { cluster: "east".into(), kind: Kind::Pod },
            Event::Listed { cluster: "east".into(), kind: Kind::Pod },
        ] {
            world.event(event);
        }
    };
    list(&mut world);
    for second in 0..40 {
        wait(&mut world, 1);
        say(&mut world, "reviews-1", "reviews", second + 1, false);
    }
    list(&mut world);
    wait(&mut world, 1);
    let unconfirmed = |world: &World| world.inventory.cluster("east").unwrap().doubtful();
    assert_eq!(unconfirmed(&world), [Kind::Pod]);
    world.compile();
    assert_eq!(sources(&world, "west", "ratings"), ["east"]);
    // The pods are gone: nobody reaches them any longer.
    wait(&mut world, CONFIRM_EMPTY.as_secs() + 1);
    assert_eq!(unconfirmed(&world), []);
    world.compile();
    assert!(sources(&world, "west", "ratings").is_empty());
}

#[test]
fn the_length_of_leases_is_a_setting_and_reaches_proxies_as_an_interval() {
    let mut world = exported();
    let interval = |world: &World| match world.body(wire::Kind::MeshConfig, wire::name::MESH) {
        Some(Body::MeshConfig(mesh)) => mesh.path_interval_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(interval(&world), 0);
    world.event(Event::Mesh(Mesh { lease_ms: 20_000, ..Mesh::default() }));
    world.compile();
    assert_eq!(interval(&world), 5_000);
    link(&mut world, Link::Lost("refused".into()));
    wait(&mut world, 24);
    assert_eq!(state(&world), LeaseState::Expired);
}
