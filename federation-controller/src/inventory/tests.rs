use super::*;
use crate::objects::event::ClusterRole;
use crate::objects::{self, Record as _};

fn settings() -> Settings {
    let text = Text::from;
    Settings {
        cluster: text("west"),
        namespace: text("isthmus-system"),
        root_namespace: text("istio-system"),
        cluster_domain: text("cluster.local"),
        trust_domain: text("cluster.local"),
    }
}

#[test]
fn hostnames_of_services_read_back() {
    let settings = settings();
    let key = Key::new("default", "reviews");
    assert_eq!(settings.service_of(&settings.hostname(&key)), Some(key));
    for other in ["reviews.default", "a.b.c.svc.cluster.local", ".default.svc.cluster.local", "api.example.com", ""] {
        assert_eq!(settings.service_of(other), None, "{other}");
    }
}

#[test]
fn workloads_follow_their_streams() {
    let mut inventory = Inventory::new(settings());
    inventory.take_changes(10);
    let (cluster, pod) = (Text::from("west"), Key::new("default", "a-1"));
    let connected = || {
        let (published, _) = tokio::sync::oneshot::channel();
        Event::ProxyConnected { cluster: cluster.clone(), pod: pod.clone(), role: wire::name::Role::Sidecar, published }
    };
    let disconnected = || Event::ProxyDisconnected { cluster: cluster.clone(), pod: pod.clone() };
    let now = SystemTime::UNIX_EPOCH;
    inventory.apply(connected(), now);
    inventory.apply(connected(), now);
    let group = Group::Workload(cluster.clone(), pod.clone());
    assert!(inventory.take_change(&group));
    inventory.apply(disconnected(), now);
    assert!(inventory.is_connected(&cluster, &pod) && !inventory.has_changes());
    inventory.apply(disconnected(), now);
    assert!(!inventory.is_connected(&cluster, &pod) && inventory.take_change(&group));
    inventory.apply(disconnected(), now);
    assert!(!inventory.has_changes());
}

#[test]
fn a_kind_that_a_cluster_denies_is_waited_for_no_longer_keeps_its_objects_and_has_a_notice() {
    let mut inventory = Inventory::new(settings());
    let (now, east) = (SystemTime::UNIX_EPOCH, Text::from("east"));
    let info = |own, name: &Text| Cluster {
        name: name.clone(),
        own,
        network: Text::default(),
        server: Text::default(),
        joined: 0,
    };
    inventory.apply(Event::ClusterAdded(info(true, &"west".into())), now);
    inventory.apply(Event::ClusterAdded(info(false, &east)), now);
    let list = |inventory: &mut Inventory, kind| {
        inventory.apply(Event::Listing { cluster: east.clone(), kind }, now);
        inventory.apply(Event::Listed { cluster: east.clone(), kind }, now);
    };
    let policy = r#"{"metadata": {"name": "deny-all", "namespace": "shop"}, "spec": {}}"#;
    let policy = objects::AuthorizationPolicy::extract(serde_json::from_str(policy).unwrap()).unwrap();
    inventory.apply(Event::Listing { cluster: east.clone(), kind: Kind::AuthorizationPolicy }, now);
    inventory.apply(Event::Upsert { cluster: east.clone(), object: policy.into() }, now);
    for kind in Kind::watched_in(ClusterRole::Remote).filter(|kind| *kind != Kind::AuthorizationPolicy) {
        list(&mut inventory, kind);
    }
    let synced = |inventory: &Inventory| inventory.cluster("east").unwrap().synced();
    let noticed = |inventory: &Inventory| {
        let all = inventory.notices();
        all.iter().any(|line| {
            line.starts_with(
                "Cluster east: the controller is not permitted to read objects of kind AuthorizationPolicy there",
            ) && line.contains("403 Forbidden")
                && line.contains("`isthmus join`")
        })
    };
    assert!(!synced(&inventory) && !noticed(&inventory));

    let denied =
        Event::Denied { cluster: east.clone(), kind: Kind::AuthorizationPolicy, why: "403 Forbidden: no".into() };
    inventory.apply(denied, now);
    assert!(synced(&inventory) && noticed(&inventory), "{:?}", inventory.notices());
    assert!(inventory.denies("east", Kind::AuthorizationPolicy) && !inventory.denies("east", Kind::Pod));
    assert_eq!(inventory.cluster("east").unwrap().count(Kind::AuthorizationPolicy), 1);

    list(&mut inventory, Kind::AuthorizationPolicy);
    assert!(!noticed(&inventory), "the cluster permits it again: {:?}", inventory.notices());
}
