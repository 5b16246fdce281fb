use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::inventory::Settings;
use crate::objects::event::{Cluster, Event, Link};
use crate::objects::{Export, FederationPolicy, Kind, Namespace, Object, Pod, Record, Service, Slice};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(240, 240, 1, 2);

/// West and east share a network, north has its own.
pub(in crate::multicluster) struct World(Inventory);

impl World {
    pub(in crate::multicluster) fn new() -> Self {
        let mut world = World(Inventory::new(Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        }));
        for (name, network) in [("west", "net-main"), ("east", "net-main"), ("north", "net-north")] {
            let own = name == "west";
            let info = Cluster { name: name.into(), own, network: network.into(), server: "".into(), joined: 0 };
            world.0.apply(Event::ClusterAdded(info), SystemTime::UNIX_EPOCH);
            for kind in Kind::ALL {
                let cluster = Text::from(name);
                world.0.apply(Event::Listing { cluster: cluster.clone(), kind }, SystemTime::UNIX_EPOCH);
                world.0.apply(Event::Listed { cluster, kind }, SystemTime::UNIX_EPOCH);
            }
            world.put::<Namespace>(name, json!({"metadata": {"name": "shop"}}));
        }
        world.0.take_changes(usize::MAX);
        world
    }

    fn put<T: Record>(&mut self, cluster: &str, object: Value) {
        let record: Object = T::extract(serde_json::from_value(object).unwrap()).unwrap().into();
        self.0.apply(Event::Upsert { cluster: cluster.into(), object: record }, SystemTime::UNIX_EPOCH);
    }

    pub(in crate::multicluster) fn service(&mut self, cluster: &str, spec: Value) {
        let mut all = json!({"clusterIP": "10.96.0.7", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "tcp", "port": 42, "protocol": "TCP"}, {"name": "udp", "port": 42, "protocol": "UDP"}]});
        all.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
        self.put::<Service>(cluster, json!({"metadata": {"name": "hello", "namespace": "shop"}, "spec": all}));
    }

    pub(in crate::multicluster) fn export(&mut self, cluster: &str, created: &str, spec: Value) {
        let metadata = json!({"name": "hello", "namespace": "shop", "uid": cluster, "creationTimestamp": created});
        self.put::<Export>(cluster, json!({"metadata": metadata, "spec": spec}));
    }

    /// One pod of the service in a cluster.
    pub(in crate::multicluster) fn pod(&mut self, cluster: &str, ip: &str) {
        let metadata = json!({"name": "hello-0", "namespace": "shop", "labels": {"app": "hello"}});
        let status = json!({"podIP": ip, "phase": "Running"});
        self.put::<Pod>(cluster, json!({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status}));
        let labels = json!({"kubernetes.io/service-name": "hello"});
        self.put::<Slice>(
            cluster,
            json!({
                "metadata": {"name": "hello-x", "namespace": "shop", "labels": labels}, "addressType": "IPv4",
                "ports": [{"name": "tcp", "port": 8042, "protocol": "TCP"}, {"name": "udp", "port": 42, "protocol": "UDP"}],
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "hostname": "hello-0", "zone": "z",
                               "targetRef": {"kind": "Pod", "name": "hello-0"}}],
            }),
        );
    }

    pub(in crate::multicluster) fn plan(&self) -> Plan {
        let mut plan = clusters(&self.0);
        for key in exported(&self.0) {
            add(&mut plan, &self.0, &key, Some(ADDRESS));
        }
        plan
    }
}

fn key() -> Key {
    Key::new("shop", "hello")
}

/// The conditions of an export as `Valid=True/Valid`.
fn conditions_of(plan: &Plan, cluster: &str) -> Vec<String> {
    let status = &plan.clusters[cluster].exports[&key()];
    status.conditions.iter().map(|of| format!("{}={}/{}", of.kind, of.status, of.reason)).collect()
}

#[test]
fn an_export_is_imported_in_every_cluster_with_the_namespace() {
    let mut world = World::new();
    assert!(world.plan().clusters.values().all(|of| of.imports.is_empty()));
    world.service(
        "east",
        json!({"sessionAffinity": "ClientIP", "trafficDistribution": "PreferClose",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}),
    );
    world.pod("east", "10.245.0.1");
    world.export("east", "2026-01-01T00:00:00Z", json!({"exportedLabels": {"team": "books"}}));
    let plan = world.plan();
    assert_eq!(conditions_of(&plan, "east"), ["Valid=True/Valid", "Ready=True/Exported", "Conflict=False/NoConflicts"]);
    for (cluster, slices) in [("west", 1), ("east", 1), ("north", 0)] {
        let of = &plan.clusters[cluster];
        let import = &of.imports[&key()];
        let spec = serde_json::to_value(&import.spec).unwrap();
        let expected = json!({
            "type": "ClusterSetIP", "ips": ["240.240.1.2"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "tcp", "port": 42, "protocol": "TCP"}, {"name": "udp", "port": 42, "protocol": "UDP"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
            "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose",
        });
        assert_eq!(spec, expected, "{cluster}");
        assert_eq!(import.labels.get("team").map(String::as_str), Some("books"));
        assert_eq!((of.slices.len(), import.has_slices), (slices, slices > 0), "{cluster}");
        assert_eq!(import.ready.status, "True");
        let beyond = "others do not reach those of east (network net-main), which are behind gateways";
        assert_eq!(import.ready.message.contains(beyond), cluster == "north", "{}", import.ready.message);
    }
    let slice = plan.clusters["west"].slices.values().next().unwrap();
    let object = slice.slice.to_json(&Key::new("shop", &slice.name), &slice.content, Some("7"));
    assert_eq!(
        object["metadata"]["labels"],
        json!({"multicluster.kubernetes.io/service-name": "hello", "multicluster.kubernetes.io/source-cluster": "east",
               "endpointslice.kubernetes.io/managed-by": "isthmus.dev"})
    );
    assert_eq!(
        object["ports"],
        json!([{"name": "tcp", "protocol": "TCP", "port": 8042}, {"name": "udp", "protocol": "UDP", "port": 42}])
    );
    assert_eq!(object["endpoints"][0]["hostname"], "hello-0");
    assert_eq!(object["endpoints"][0]["addresses"], json!(["10.245.0.1"]));
}

#[test]
fn exports_of_no_service_of_an_external_name_and_of_what_is_never_exported() {
    let mut world = World::new();
    world.export("east", "2026-01-01T00:00:00Z", json!({}));
    let plan = world.plan();
    assert_eq!(
        conditions_of(&plan, "east"),
        ["Valid=False/NoService", "Ready=False/Failed", "Conflict=False/NoConflicts"]
    );
    world.service("east", json!({"type": "ExternalName", "externalName": "example.com"}));
    let plan = world.plan();
    assert_eq!(conditions_of(&plan, "east")[0], "Valid=False/InvalidServiceType");
    assert!(plan.clusters.values().all(|of| of.imports.is_empty()));
    world.service("east", json!({"internalTrafficPolicy": "Local"}));
    let plan = world.plan();
    assert_eq!(conditions_of(&plan, "east")[..2], ["Valid=True/Valid", "Ready=False/Failed"]);
    let import = &plan.clusters["west"].imports[&key()];
    assert_eq!((import.spec.internal_traffic_policy.as_deref(), import.ready.status), (Some("Local"), "False"));
    assert!(plan.clusters["west"].slices.is_empty(), "its endpoints serve their own node alone");

    let system = json!({"name": "dns", "namespace": "kube-system"});
    world.put::<Export>("east", json!({"metadata": system}));
    let plan = world.plan();
    let refused = &plan.clusters["east"].exports[&Key::new("kube-system", "dns")];
    assert!(refused.conditions[1].message.contains("never exported"), "{refused:?}");
}

#[test]
fn a_conflict_is_on_all_exports_and_a_port_that_lost_has_no_endpoints() {
    let mut world = World::new();
    world.service("east", json!({}));
    world.pod("east", "10.245.0.1");
    world.export("east", "2026-01-01T00:00:00Z", json!({}));
    world.service("west", json!({"ports": [{"name": "tcp", "port": 4242, "protocol": "TCP"}]}));
    world.pod("west", "10.244.0.1");
    world.export("west", "2026-01-01T00:00:01Z", json!({}));
    let plan = world.plan();
    for cluster in ["west", "east"] {
        assert_eq!(conditions_of(&plan, cluster)[2], "Conflict=True/PortConflict");
        let message = &plan.clusters[cluster].exports[&key()].conditions[2].message;
        assert!(message.contains("from oldest service export in \"east\". 1/2 clusters disagree."), "{message}");
    }
    let import = &plan.clusters["west"].imports[&key()];
    assert_eq!(import.spec.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [42, 42]);
    let of = |source: &str| {
        let mut slices = plan.clusters["west"].slices.values();
        slices.find(|slice| *slice.slice.source == *source).unwrap().slice.ports.len()
    };
    assert_eq!((of("east"), of("west")), (2, 0));

    // One that is headless is none of an import with an address.
    world.service("west", json!({"clusterIP": "None"}));
    let plan = world.plan();
    assert_eq!(conditions_of(&plan, "west")[2], "Conflict=True/TypeConflict");
    assert_eq!(plan.clusters["north"].imports[&key()].spec.r#type, "ClusterSetIP");
}

#[test]
fn headless_services_have_no_address_and_families_must_fit() {
    let mut world = World::new();
    world.service("east", json!({"clusterIP": "None"}));
    world.export("east", "2026-01-01T00:00:00Z", json!({}));
    let plan = world.plan();
    let import = &plan.clusters["west"].imports[&key()];
    assert_eq!((import.spec.r#type.as_str(), import.spec.ips.len()), ("Headless", 0));
    assert_eq!(import.spec.session_affinity, None);

    world.service(
        "east",
        json!({"clusterIP": "fd00::7", "clusterIPs": ["fd00::7", "10.96.0.7"], "ipFamilies": ["IPv6", "IPv4"]}),
    );
    let plan = world.plan();
    let spec = |cluster: &str| plan.clusters[cluster].imports[&key()].spec.clone();
    assert_eq!(spec("east").ips, ["2001:2::f0f0:102", "240.240.1.2"], "in the order of the service");
    assert_eq!(spec("east").ip_families, ["IPv6", "IPv4"]);
    assert_eq!(spec("west").ips, ["240.240.1.2"], "the cluster has no IPv6");
    world.service("east", json!({"clusterIP": "fd00::7", "clusterIPs": ["fd00::7"], "ipFamilies": ["IPv6"]}));
    let plan = world.plan();
    let ready = &plan.clusters["west"].imports[&key()].ready;
    assert_eq!((ready.status, ready.reason.as_str()), ("False", "IPFamilyNotSupported"));
}

#[test]
fn a_cluster_that_is_not_read_yet_is_unknown_and_one_with_a_controller_is_written_by_that() {
    let mut world = World::new();
    assert!(world.plan().unknown.is_empty());
    let info = Cluster { name: "south".into(), own: false, network: "".into(), server: "".into(), joined: 0 };
    world.0.apply(Event::ClusterAdded(info), SystemTime::UNIX_EPOCH);
    assert_eq!(world.plan().unknown, [Text::from("south")].into());
    let controller = json!({"metadata": {"name": "isthmus-controller", "namespace": "isthmus-system"},
        "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "isthmus-controller"}, "ports": []}});
    world.put::<Service>("north", controller.clone());
    world.put::<Service>("west", controller);
    let plan = world.plan();
    assert!(plan.clusters["north"].written_by_itself && !plan.clusters["west"].written_by_itself);
}

#[test]
fn slices_of_a_cluster_whose_lease_is_over_are_withdrawn_from_others_unless_they_are_the_last() {
    let mut world = World::new();
    for (cluster, ip) in [("west", "10.244.0.1"), ("east", "10.245.0.1")] {
        world.service(cluster, json!({}));
        world.pod(cluster, ip);
        world.export(cluster, "2026-01-01T00:00:00Z", json!({}));
    }
    let sources = |world: &World, cluster: &str| -> Vec<Text> {
        world.plan().clusters[cluster].slices.values().map(|of| of.slice.source.clone()).collect()
    };
    assert_eq!(sources(&world, "west"), ["east", "west"].map(Text::from));
    let mut now = SystemTime::UNIX_EPOCH;
    let mut link = |world: &mut World, link: Link| {
        world.0.apply(Event::Link { cluster: "east".into(), link, since: now }, now);
        for _ in 0..310 {
            now += Duration::from_secs(1);
            world.0.tick(now);
        }
    };
    link(&mut world, Link::Connected);
    link(&mut world, Link::Lost("refused".into()));
    assert!(world.0.leases().is_expired("east"));
    assert_eq!(sources(&world, "west"), [Text::from("west")]);
    assert_eq!(sources(&world, "east"), ["east", "west"].map(Text::from), "its own pods keep it");
    // A port that no other cluster has.
    world.service("west", json!({"ports": [{"name": "tcp", "port": 42, "protocol": "TCP"}]}));
    assert_eq!(sources(&world, "west"), ["east", "west"].map(Text::from));
    world.service("west", json!({}));
    link(&mut world, Link::Connected);
    assert_eq!(sources(&world, "west"), ["east", "west"].map(Text::from));
}

#[test]
fn a_federation_policy_decides_who_exports_and_who_imports() {
    let mut world = World::new();
    for (cluster, ip, created) in
        [("east", "10.245.0.1", "2026-01-01T00:00:00Z"), ("north", "10.246.0.1", "2026-01-01T00:00:05Z")]
    {
        world.service(cluster, json!({}));
        world.pod(cluster, ip);
        world.export(cluster, created, json!({}));
    }
    let policy = |spec: Value| json!({"metadata": {"name": "hello", "namespace": "shop"}, "spec": spec});
    let clusters = |world: &World, cluster: &str| -> Vec<String> {
        let plan = world.plan();
        let import = plan.clusters[cluster].imports.get(&key());
        import.map(|import| import.clusters.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    assert_eq!(clusters(&world, "west"), ["east", "north"]);

    // An export that is refused changes no import, and its condition says why.
    world.put::<FederationPolicy>("west", policy(json!({"exporters": {"clusters": ["north"]}})));
    assert_eq!(clusters(&world, "west"), ["north"]);
    let plan = world.plan();
    assert_eq!(conditions_of(&plan, "east")[..2], ["Valid=True/Valid", "Ready=False/Failed"]);
    let message = &plan.clusters["east"].exports[&key()].conditions[1].message;
    assert!(message.contains("FederationPolicy shop/hello"), "{message}");
    assert_eq!(conditions_of(&plan, "north")[1], "Ready=True/Exported");

    // A cluster that may not consume an export imports its own alone, or nothing.
    world.put::<FederationPolicy>("west", policy(json!({"consumers": {"clusters": ["north"]}})));
    assert_eq!(clusters(&world, "west"), Vec::<String>::new());
    assert_eq!(clusters(&world, "east"), ["east"]);
    assert_eq!(clusters(&world, "north"), ["east", "north"]);
    let plan = world.plan();
    assert!(plan.clusters["west"].slices.is_empty());
    let message = &plan.clusters["east"].exports[&key()].conditions[1].message;
    assert!(message.contains("imported by 2 clusters"), "{message}");
}
