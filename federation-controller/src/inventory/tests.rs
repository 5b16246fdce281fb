use super::*;

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
        Event::ProxyConnected { cluster: cluster.clone(), pod: pod.clone(), published }
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
