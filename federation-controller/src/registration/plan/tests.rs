use std::time::SystemTime;

use serde_json::{Value, json};

use super::*;
use crate::inventory::Settings;
use crate::inventory::registered::MAX_OF_GROUP;
use crate::objects::event::{Cluster, Event};
use crate::objects::{Object, Record, WorkloadGroup};

const GRACE: Duration = Duration::from_secs(10);

struct World(Inventory);

impl World {
    fn new() -> Self {
        let mut inventory = Inventory::new(Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        });
        for (name, own) in [("west", true), ("east", false)] {
            let network = format!("net-{name}").into();
            let info = Cluster { name: name.into(), own, network, server: "".into(), joined: 0 };
            inventory.apply(Event::ClusterAdded(info), SystemTime::UNIX_EPOCH);
        }
        let mut world = World(inventory);
        world.put::<WorkloadGroup>(json!({"metadata": {"name": "db", "namespace": "shop"},
            "spec": {"template": {"serviceAccount": "db"}, "probe": {"tcpSocket": {"port": 5432}}}}));
        world.0.take_changes(usize::MAX);
        world
    }

    fn put<T: Record>(&mut self, object: Value) {
        let record: Object = T::extract(serde_json::from_value(object).unwrap()).unwrap().into();
        self.0.apply(Event::Upsert { cluster: "west".into(), object: record }, SystemTime::UNIX_EPOCH);
    }

    /// Has the entry of a name, of a group unless that is empty.
    fn put_entry(&mut self, name: &str, group: &str, healthy: bool) {
        let mut annotations = json!({});
        if !group.is_empty() {
            annotations = json!({GROUP: group, "proxy.istio.io/health-checks-enabled": "true"});
        }
        let status = if healthy { "True" } else { "False" };
        self.put::<WorkloadEntry>(json!({
            "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
            "spec": {"address": "10.0.0.1", "serviceAccount": "db"},
            "status": {"conditions": [{"type": "Healthy", "status": status}]},
        }));
    }
}

const GROUP: &str = "istio.io/autoRegistrationGroup";

fn member(ip: u8) -> Member {
    Member {
        cluster: "west".into(),
        entry: Key::new("shop", &format!("db-10.0.0.{ip}")),
        group: "db".into(),
        ip: [10, 0, 0, ip].into(),
        network: "".into(),
        account: "db".into(),
        health: ApplicationHealth::Unknown,
    }
}

#[test]
fn only_a_proxy_of_the_groups_account_at_its_own_address_is_admitted() {
    let mut world = World::new();
    assert_eq!(admit(&world.0, &member(1)), Ok(()));
    let named = |entry: &str, change: fn(&mut Member)| {
        let mut member = Member { entry: Key::new("shop", entry), ..member(1) };
        change(&mut member);
        member
    };
    for (wrong, reason) in [
        (named("db-10.0.0.1", |of| of.account = "other".into()), "has service account other"),
        (named("db-10.0.0.1", |of| of.cluster = "east".into()), "not the controller's own"),
        (named("db-10.0.0.2", |_| {}), "is not named db-10.0.0.1"),
        (named("x-10.0.0.1", |of| of.group = "x".into()), "WorkloadGroup shop/x does not exist"),
        (named("db-127.0.0.1", |of| of.ip = [127, 0, 0, 1].into()), "not an address"),
        (named("db-169.254.169.254", |of| of.ip = [169, 254, 169, 254].into()), "not an address"),
        (named("db-10.0.0.1-net-east", |of| of.network = "net-east".into()), "is that of another cluster"),
    ] {
        let found = admit(&world.0, &wrong).unwrap_err();
        assert!(found.contains(reason), "{found}");
    }
    let elsewhere = Member { entry: Key::new("bank", "db-10.0.0.1"), ..member(1) };
    assert!(admit(&world.0, &elsewhere).unwrap_err().contains("bank/db does not exist"));
    let of_network = named("db-10.0.0.1-vms", |of| of.network = "vms".into());
    assert_eq!(admit(&world.0, &of_network), Ok(()));
    world.put_entry("db-10.0.0.1", "", true);
    assert!(admit(&world.0, &member(1)).unwrap_err().contains("was not registered"), "a hand-written one stays");
    for ip in 0..MAX_OF_GROUP {
        world.put_entry(&format!("db-{ip}"), "db", true);
    }
    assert!(admit(&world.0, &member(2)).unwrap_err().contains("may not have more"));
    world.put_entry("db-10.0.0.2", "db", true);
    assert_eq!(admit(&world.0, &member(2)), Ok(()), "one that exists");
}

#[test]
fn an_entry_comes_with_its_proxy_and_goes_a_grace_period_after_it() {
    let (mut world, mut plan, start) = (World::new(), Plan::new(GRACE), Instant::now());
    let [Action::Register(entry)] = &*plan.next(&world.0, &[member(1)], start) else { panic!("not registered") };
    assert_eq!((&*entry.key.name, &*entry.account), ("db-10.0.0.1", "db"));
    assert_eq!(plan.next(&world.0, &[member(1)], start), [], "it is on its way");
    assert_eq!(plan.next(&world.0, &[member(1)], start + AGAIN).len(), 1, "it has not arrived");
    world.put_entry("db-10.0.0.1", "db", true);
    assert_eq!(plan.next(&world.0, &[member(1)], start), []);
    assert_eq!(plan.next(&world.0, &[], start), []);
    assert_eq!(plan.next(&world.0, &[member(1)], start + GRACE), [], "it has come back");
    let left = start + GRACE;
    assert_eq!(plan.next(&world.0, &[], left), []);
    assert_eq!(plan.next(&world.0, &[], left + GRACE), [Action::Remove(member(1).entry)]);
}

#[test]
fn a_controller_that_starts_waits_for_the_proxies_of_the_one_before() {
    let (mut world, mut plan, start) = (World::new(), Plan::new(GRACE), Instant::now());
    world.put_entry("db-10.0.0.1", "db", true);
    world.put_entry("by-hand", "", true);
    assert_eq!(plan.next(&world.0, &[], start), []);
    assert_eq!(plan.next(&world.0, &[], start + GRACE), []);
    assert_eq!(plan.next(&world.0, &[], start + FIRST), [Action::Remove(member(1).entry)]);
}

#[test]
fn health_is_written_when_it_differs() {
    let (mut world, mut plan, start) = (World::new(), Plan::new(GRACE), Instant::now());
    world.put_entry("db-10.0.0.1", "db", false);
    let with = |health| [Member { health, ..member(1) }];
    let write = |healthy| [Action::Health { key: member(1).entry, healthy }];
    assert_eq!(plan.next(&world.0, &with(ApplicationHealth::Unknown), start), []);
    assert_eq!(plan.next(&world.0, &with(ApplicationHealth::Healthy), start), write(true));
    world.put_entry("db-10.0.0.1", "db", true);
    assert_eq!(plan.next(&world.0, &with(ApplicationHealth::Healthy), start), []);
    assert_eq!(plan.next(&world.0, &with(ApplicationHealth::Unhealthy), start), [], "it has just been written");
    assert_eq!(plan.next(&world.0, &with(ApplicationHealth::Unhealthy), start + BETWEEN), write(false));
}
