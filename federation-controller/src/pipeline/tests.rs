//! Tests of compiling: tables of changes with their resources, and random histories of changes, whose resources equal
//! those of a full compilation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use wire::delta::{Body, Found as _};
use wire::discovery::{self, Health, Protocol, endpoint};

use super::*;
use crate::compile::resource::Viewer;
use crate::inventory::{Inventory, Settings};
use crate::objects::event::{Cluster, Event, Link, Mesh};
use crate::objects::*;
use crate::publish::Store;

mod federation;
mod gateways;
mod hostile;
mod leases;
mod machines;
mod policies;
mod rule_bounds;
mod rules;
mod scenes;
mod service_entries_export;
mod service_rules;
mod sidecars;

/// An inventory with the resources that are compiled from it.
struct World {
    inventory: Inventory,
    compiler: Compiler,
    store: Store,
    now: SystemTime,
}

fn settings() -> Settings {
    Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    }
}

impl World {
    fn new() -> Self {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut inventory = Inventory::new(settings());
        // Every pod of the tests has a connected proxy.
        for (cluster, name) in CLUSTERS.iter().flat_map(|cluster| NAMES.iter().map(move |name| (*cluster, name))) {
            for ip in 0..4 {
                let (published, _) = oneshot::channel();
                let pod = Key::new("default", &format!("{name}-{ip}"));
                inventory.apply(
                    Event::ProxyConnected { cluster: cluster.into(), pod, role: wire::name::Role::Sidecar, published },
                    now,
                );
            }
        }
        World { inventory, compiler: Compiler::default(), store: Store::default(), now }
    }

    fn cluster(&mut self, name: &str) {
        let network = format!("net-{name}").into();
        self.event(Event::ClusterAdded(Cluster {
            name: name.into(),
            own: name == "west",
            network,
            server: "".into(),
            joined: 0,
        }));
    }

    fn event(&mut self, event: Event) {
        self.inventory.apply(event, self.now);
    }

    fn put(&mut self, cluster: &str, object: Object) {
        self.event(Event::Upsert { cluster: cluster.into(), object });
    }

    fn delete(&mut self, cluster: &str, kind: Kind, namespace: &str, name: &str) {
        self.event(Event::Delete { cluster: cluster.into(), kind, namespace: namespace.into(), name: name.into() });
    }

    fn compile(&mut self) -> usize {
        let mut changed = 0;
        for group in self.inventory.take_changes(usize::MAX) {
            let mut compiled = self.compiler.compile(&self.inventory, &group);
            if group.has_notices() {
                self.inventory.set_rule_notices(&group, std::mem::take(&mut compiled.notices));
            }
            self.inventory.set_refused_exports(&group, std::mem::take(&mut compiled.refused_exports));
            changed += self.store.replace(group, compiled);
        }
        changed
    }

    fn conflicts(&self, name: &str) -> Vec<String> {
        self.facts(name, "default").conflicts.clone()
    }

    fn facts(&self, name: &str, namespace: &str) -> Arc<crate::compile::service::ServiceFacts> {
        let hostname = format!("{name}.{namespace}.svc.cluster.local");
        self.store.facts(&hostname).unwrap_or_else(|| panic!("no facts of {hostname}")).clone()
    }

    fn body(&self, kind: wire::Kind, name: &str) -> Option<Body> {
        Some(Body::decode(kind, kind.url(), self.store.get(kind, name)?.body()).unwrap())
    }

    fn service(&self, name: &str) -> Option<discovery::Service> {
        match self.body(wire::Kind::Service, &format!("{name}.default.svc.cluster.local"))? {
            Body::Service(service) => Some(service),
            other => panic!("{other:?}"),
        }
    }

    /// Returns a service as the proxies of a cluster see it.
    fn view_of(&self, cluster: &str, name: &str) -> Option<discovery::Service> {
        let viewer = viewer(cluster);
        let view = self.store.view(&viewer);
        let hostname = format!("{name}.default.svc.cluster.local");
        let body = wire::delta::Source::get(&view, wire::Kind::Service, &hostname)?.body();
        match Body::decode(wire::Kind::Service, wire::Kind::Service.url(), body).unwrap() {
            Body::Service(service) => Some(service),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the endpoints of a service that a proxy of the cluster receives, by name without the hostname.
    fn endpoints(&self, cluster: &str, name: &str) -> BTreeMap<String, discovery::Endpoint> {
        let hostname = format!("{name}.default.svc.cluster.local");
        let collection = format!("{hostname}@net-{cluster}");
        let viewer = viewer(cluster);
        let view = self.store.view(&viewer);
        let members = wire::delta::Source::members(&view, wire::Kind::Endpoint, &collection);
        let decode = |found: crate::publish::Found<'_>| match self.body(wire::Kind::Endpoint, &found.name()) {
            Some(Body::Endpoint(endpoint)) => (found.name()[hostname.len()..].to_string(), endpoint),
            other => panic!("{other:?}"),
        };
        members.map(decode).collect()
    }

    fn all_facts(&self) -> Vec<(String, crate::compile::service::ServiceFacts)> {
        let names: BTreeSet<String> = self.store.all(wire::Kind::Service).map(|of| of.name().to_string()).collect();
        let facts = |name: String| self.store.facts(&name).map(|facts| (name.clone(), (**facts).clone()));
        names.into_iter().filter_map(facts).collect()
    }

    fn rule_notices(&self) -> BTreeSet<crate::inventory::RuleNotice> {
        self.inventory.rule_notices().cloned().collect()
    }

    fn refused_exports(&self) -> BTreeSet<crate::inventory::RefusedExport> {
        self.inventory.refused_exports().cloned().collect()
    }

    /// Returns the version, keys and audience of each resource.
    fn all_resources(&self) -> BTreeMap<(wire::Kind, String), BTreeSet<String>> {
        let mut all: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for kind in wire::Kind::ALL {
            for found in self.store.all(kind) {
                let description = format!("{:x} {:?} {:?}", found.version(), found.keys(), found.audience());
                all.entry((kind, found.name().to_string())).or_default().insert(description);
            }
        }
        all
    }

    /// Returns a new world in which the same objects are compiled together.
    fn recomputed(&self) -> World {
        let mut other = World::new();
        other.event(Event::Mesh(self.inventory.mesh().clone()));
        other.inventory.restore_keys(self.inventory.all_keys().clone());
        for cluster in self.inventory.clusters() {
            other.event(Event::ClusterAdded(cluster.info.clone()));
            cluster.objects().for_each(|object| other.put(&cluster.info.name, object));
        }
        other.compile();
        other
    }
}

fn viewer(cluster: &str) -> Viewer {
    Viewer { cluster: cluster.into(), ..Default::default() }
}

fn service(name: &str, ip: u8) -> Service {
    Service {
        namespace: "default".into(),
        name: name.into(),
        created: 100,
        cluster_ips: [[10, 96, 0, ip].into()].into(),
        ports: vec![ServicePort { name: "http".into(), number: 9080, protocol: Protocol::Http, ..Default::default() }],
        selects: true,
        ..Default::default()
    }
}

fn slice(service: &str, pods: &[(u8, bool)]) -> Slice {
    let endpoint = |(ip, ready): &(u8, bool)| SliceEndpoint {
        ip: [10, 244, 0, *ip].into(),
        ready: *ready,
        terminating: false,
        serving: true,
        pod: Some(format!("{service}-{ip}").into()),
        named: false,
        spot: Spot { node: Some("node-1".into()), zone: None, ..Default::default() }.into(),
    };
    Slice {
        namespace: "default".into(),
        name: format!("{service}-x").into(),
        service: service.into(),
        ports: [("http".into(), 8080)].into(),
        endpoints: pods.iter().map(endpoint).collect(),
        ..Slice::default()
    }
}

fn pod(service: &str, ip: u8) -> Pod {
    let labels = [("app", service), ("version", "v1"), ("security.istio.io/tlsMode", "istio")];
    Pod {
        name: format!("{service}-{ip}").into(),
        node: "node-1".into(),
        template: Arc::new(Template {
            namespace: "default".into(),
            service_account: service.into(),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            workload: service.into(),
            topology: None,
        }),
        terminating: false,
    }
}

/// Returns the pod with these labels instead of its own.
fn labelled(mut pod: Pod, labels: Labels) -> Pod {
    Arc::make_mut(&mut pod.template).labels = labels;
    pod
}

fn node(name: &str, zone: &str) -> Node {
    Node {
        name: name.into(),
        region: zone[..zone.len() - 2].into(),
        zone: zone.into(),
        subzone: "".into(),
        ..Default::default()
    }
}

fn export(name: &str) -> Export {
    Export { namespace: "default".into(), name: name.into(), created: 1, ..Export::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Service {
        cluster: u8,
        name: u8,
        variant: u8,
    },
    Slice {
        cluster: u8,
        name: u8,
        pods: Vec<(u8, bool)>,
    },
    Pod {
        cluster: u8,
        name: u8,
        ip: u8,
        variant: u8,
    },
    Node {
        cluster: u8,
        zone: u8,
    },
    Export {
        cluster: u8,
        name: u8,
    },
    Gateway {
        cluster: u8,
        host: u8,
    },
    Delete {
        cluster: u8,
        kind: u8,
        name: u8,
        ip: u8,
    },
    Namespace {
        cluster: u8,
        network: u8,
    },
    Relist {
        cluster: u8,
        kind: u8,
    },
    RemoveCluster {
        cluster: u8,
    },
    AddCluster {
        cluster: u8,
    },
    /// Adds a cluster whose remote secret has no network annotation: the label of its root namespace applies.
    AddClusterWithoutNetwork {
        cluster: u8,
    },
    ExportAll(bool),
    /// A VirtualService of the primary cluster.
    Routes {
        name: u8,
        host: u8,
        destination: u8,
        variant: u8,
    },
    /// A DestinationRule of the primary cluster.
    Policy {
        name: u8,
        host: u8,
        variant: u8,
    },
    DeleteRule {
        kind: bool,
        name: u8,
        namespace: u8,
    },
    ExportTo(bool),
    /// A rule of SMI or Linkerd, or a Service with annotations, of the primary cluster.
    ServiceRule {
        kind: u8,
        name: u8,
        other: u8,
        namespace: u8,
        variant: u8,
    },
    DeleteServiceRule {
        kind: u8,
        name: u8,
        namespace: u8,
        variant: u8,
    },
    /// A security policy of any cluster, or a Sidecar of the primary one.
    Security {
        cluster: u8,
        kind: u8,
        name: u8,
        namespace: u8,
        variant: u8,
    },
    DeleteSecurity {
        cluster: u8,
        kind: u8,
        name: u8,
        namespace: u8,
    },
    /// A FederationPolicy of any cluster.
    Federation {
        cluster: u8,
        name: u8,
        namespace: u8,
        variant: u8,
    },
    DeleteFederation {
        name: u8,
        namespace: u8,
    },
    Aliases(bool),
    Keys {
        source: bool,
        fetched: bool,
    },
    Compile,
}

const CLUSTERS: [&str; 3] = ["west", "east", "south"];
const NAMES: [&str; 3] = ["reviews", "ratings", "details"];
const NAMESPACES: [&str; 3] = ["default", "shop", "istio-system"];
const HOSTS: [&str; 6] = [
    "reviews.default.svc.cluster.local",
    "ratings.default.svc.cluster.local",
    "details.default.svc.cluster.local",
    "*.default.svc.cluster.local",
    "*.local",
    "absent.example",
];

fn step() -> impl Strategy<Value = Step> {
    let cluster = || 0..3u8;
    let name = || 0..3u8;
    prop_oneof![
        3 => (cluster(), name(), 0..5u8).prop_map(|(cluster, name, variant)| Step::Service { cluster, name, variant }),
        4 => (cluster(), name(), proptest::collection::vec((0..4u8, any::<bool>()), 0..4))
            .prop_map(|(cluster, name, pods)| Step::Slice { cluster, name, pods }),
        4 => (cluster(), name(), 0..4u8, 0..4u8).prop_map(|(cluster, name, ip, variant)| Step::Pod { cluster, name, ip, variant }),
        1 => (cluster(), 0..3u8).prop_map(|(cluster, zone)| Step::Node { cluster, zone }),
        2 => (cluster(), name()).prop_map(|(cluster, name)| Step::Export { cluster, name }),
        1 => (cluster(), 0..4u8).prop_map(|(cluster, host)| Step::Gateway { cluster, host }),
        3 => (cluster(), 0..7u8, name(), 0..4u8).prop_map(|(cluster, kind, name, ip)| Step::Delete { cluster, kind, name, ip }),
        1 => (cluster(), 0..3u8).prop_map(|(cluster, network)| Step::Namespace { cluster, network }),
        1 => (cluster(), 0..7u8).prop_map(|(cluster, kind)| Step::Relist { cluster, kind }),
        1 => cluster().prop_map(|cluster| Step::RemoveCluster { cluster }),
        2 => cluster().prop_map(|cluster| Step::AddCluster { cluster }),
        2 => cluster().prop_map(|cluster| Step::AddClusterWithoutNetwork { cluster }),
        1 => any::<bool>().prop_map(Step::ExportAll),
        4 => (name(), 0..6u8, name(), 0..12u8)
            .prop_map(|(name, host, destination, variant)| Step::Routes { name, host, destination, variant }),
        4 => (name(), 0..6u8, 0..12u8).prop_map(|(name, host, variant)| Step::Policy { name, host, variant }),
        2 => (any::<bool>(), name(), 0..3u8)
            .prop_map(|(kind, name, namespace)| Step::DeleteRule { kind, name, namespace }),
        1 => any::<bool>().prop_map(Step::ExportTo),
        5 => (0..4u8, name(), name(), 0..3u8, 0..12u8).prop_map(|(kind, name, other, namespace, variant)| {
            Step::ServiceRule { kind, name, other, namespace, variant }
        }),
        2 => (0..4u8, name(), 0..3u8, 0..2u8).prop_map(|(kind, name, namespace, variant)| {
            Step::DeleteServiceRule { kind, name, namespace, variant }
        }),
        6 => (cluster(), 0..4u8, name(), 0..3u8, 0..12u8).prop_map(|(cluster, kind, name, namespace, variant)| {
            Step::Security { cluster, kind, name, namespace, variant }
        }),
        2 => (cluster(), 0..4u8, name(), 0..3u8)
            .prop_map(|(cluster, kind, name, namespace)| Step::DeleteSecurity { cluster, kind, name, namespace }),
        3 => (cluster(), name(), 0..3u8, 0..8u8)
            .prop_map(|(cluster, name, namespace, variant)| Step::Federation { cluster, name, namespace, variant }),
        2 => (name(), 0..3u8).prop_map(|(name, namespace)| Step::DeleteFederation { name, namespace }),
        1 => any::<bool>().prop_map(Step::Aliases),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(source, fetched)| Step::Keys { source, fetched }),
        4 => Just(Step::Compile),
    ]
}

fn run(world: &mut World, step: Step) {
    let of = |index: u8| CLUSTERS[index as usize];
    match step {
        Step::Service { cluster, name, variant } => {
            let mut service = service(NAMES[name as usize], name + 1);
            service.created = i64::from(variant);
            match variant {
                1 => service.cluster_ips = Box::default(),
                2 => service.ports[0].protocol = Protocol::Tcp,
                4 => service.export_to = ["shop".into(), ["~", ".", "*"][usize::from(name)].into()].into(),
                3 => {
                    (service.network, service.external_ips) = (
                        Some(["net-x", "net-z", "net-east"][usize::from(name)].into()),
                        [[203, 0, 113, 1].into()].into(),
                    )
                }
                _ => {}
            }
            if variant == 3 {
                service.ports.push(ServicePort {
                    name: "tls".into(),
                    number: 15443,
                    protocol: Protocol::Tls,
                    ..Default::default()
                });
            }
            world.put(of(cluster), Object::Service(service));
        }
        Step::Slice { cluster, name, pods } => {
            world.put(of(cluster), Object::Slice(slice(NAMES[name as usize], &pods)))
        }
        Step::Pod { cluster, name, ip, variant } => {
            let mut pod = pod(NAMES[name as usize], ip);
            match variant {
                1 => pod = labelled(pod, [("app".into(), NAMES[name as usize].into())].into()),
                2 => {
                    let network = ("topology.istio.io/network".into(), ["net-y", "net-z"][usize::from(ip % 2)].into());
                    let labels =
                        pod.labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain([network]).collect();
                    pod = labelled(pod, labels);
                }
                3 => pod.terminating = true,
                _ => {}
            }
            world.put(of(cluster), Object::Pod(pod));
        }
        Step::Node { cluster, zone } => {
            world.put(of(cluster), Object::Node(node("node-1", ["us-a-1", "us-b-1", "eu-a-1"][zone as usize])))
        }
        Step::Export { cluster, name } => world.put(of(cluster), Object::Export(export(NAMES[name as usize]))),
        Step::Gateway { cluster, host } => {
            let hosts = ["*.local", "default/reviews.default.svc.cluster.local", "other/*", "./*"];
            world.put(
                of(cluster),
                Object::Gateway(Gateway::exporting(
                    "istio-system",
                    "gw",
                    [("app".into(), "details".into())].into(),
                    &[hosts[host as usize]],
                )),
            );
        }
        Step::Delete { cluster, kind, name, ip } => {
            let service = NAMES[name as usize];
            let kind = Kind::ALL[kind as usize];
            let (namespace, name) = match kind {
                Kind::Namespace => ("", "istio-system".to_string()),
                Kind::Node => ("", "node-1".to_string()),
                Kind::Service | Kind::Export => ("default", service.to_string()),
                Kind::Slice => ("default", format!("{service}-x")),
                Kind::Pod => ("default", format!("{service}-{ip}")),
                _ => ("istio-system", "gw".to_string()),
            };
            world.delete(of(cluster), kind, namespace, &name);
        }
        Step::Namespace { cluster, network } => {
            let network = ["net-west", "net-z", ""][network as usize];
            let network = (!network.is_empty()).then(|| network.into());
            world.put(of(cluster), Object::Namespace(Namespace { name: "istio-system".into(), network }));
        }
        Step::Relist { cluster, kind } => {
            let (cluster, kind): (Text, _) = (of(cluster).into(), Kind::ALL[kind as usize]);
            world.event(Event::Listing { cluster: cluster.clone(), kind });
            run(world, Step::Export { cluster: 0, name: 0 });
            world.event(Event::Listed { cluster, kind });
        }
        Step::RemoveCluster { cluster } => world.event(Event::ClusterRemoved { cluster: of(cluster).into() }),
        Step::AddCluster { cluster } => world.cluster(of(cluster)),
        Step::AddClusterWithoutNetwork { cluster } => {
            let name: Text = of(cluster).into();
            let own = &*name == "west";
            world.event(Event::ClusterAdded(Cluster { name, own, network: "".into(), server: "".into(), joined: 0 }));
        }
        Step::ExportAll(export_all) => {
            world.event(Event::Mesh(Mesh { export_all, ..world.inventory.mesh().clone() }));
        }
        Step::Routes { name, host, destination, variant } => {
            let route = rules::routes(
                NAMES[usize::from(name)],
                HOSTS[usize::from(host)],
                NAMES[usize::from(destination)],
                variant,
            );
            world.put("west", Object::VirtualService(route));
        }
        Step::Policy { name, host, variant } => {
            let policy = rules::policy(NAMES[usize::from(name)], HOSTS[usize::from(host)], variant);
            world.put("west", Object::DestinationRule(policy));
        }
        Step::DeleteRule { kind, name, namespace } => {
            let kind = if kind { Kind::VirtualService } else { Kind::DestinationRule };
            world.delete("west", kind, NAMESPACES[usize::from(namespace)], NAMES[usize::from(name)]);
        }
        Step::ExportTo(own) => {
            let export_to = if own { vec![".".into()] } else { Vec::new() };
            let mesh = world.inventory.mesh().clone();
            let default_policy = (own && mesh.export_all).then(|| rules::policy("mesh", "*", 9).spec.unwrap());
            world.event(Event::Mesh(Mesh {
                default_policy,
                service_export_to: export_to.clone(),
                virtual_service_export_to: export_to.clone(),
                destination_rule_export_to: export_to,
                ..mesh
            }));
        }
        Step::ServiceRule { kind, name, other, namespace, variant } => {
            let [name, other, namespace] = [name, other, namespace].map(usize::from);
            world.put("west", service_rules::random(kind, name, other, namespace, variant));
        }
        Step::DeleteServiceRule { kind, name, namespace, variant } => {
            let (kind, namespace, name) = service_rules::random_key(kind, name.into(), namespace.into(), variant);
            world.delete("west", kind, namespace, &name);
        }
        Step::Security { cluster, kind, name, namespace, variant } => {
            let name = NAMES[usize::from(name)];
            let object = match kind {
                0 => Object::AuthorizationPolicy(policies::authorization(name, namespace, variant)),
                1 => Object::PeerAuthentication(policies::modes(name, namespace, variant)),
                3 => return world.put("west", Object::Sidecar(sidecars::random(name, namespace, variant))),
                _ => Object::RequestAuthentication(policies::tokens(name, namespace, variant)),
            };
            world.put(of(cluster), object);
        }
        Step::DeleteSecurity { cluster, kind, name, namespace } => {
            let kinds =
                [Kind::AuthorizationPolicy, Kind::PeerAuthentication, Kind::RequestAuthentication, Kind::Sidecar];
            let (namespace, name) = (NAMESPACES[usize::from(namespace)], NAMES[usize::from(name)]);
            world.delete(of(cluster), kinds[usize::from(kind)], namespace, name);
        }
        Step::Federation { cluster, name, namespace, variant } => {
            let policy = federation::random(NAMES[usize::from(name)], NAMESPACES[usize::from(namespace)], variant);
            world.put(of(cluster), Object::FederationPolicy(policy));
        }
        Step::DeleteFederation { name, namespace } => {
            let (namespace, name) = (NAMESPACES[usize::from(namespace)], NAMES[usize::from(name)]);
            world.delete("west", Kind::FederationPolicy, namespace, name);
        }
        Step::Aliases(some) => {
            let trust_domain_aliases = if some { vec!["old.example".to_owned()] } else { Vec::new() };
            world.event(Event::Mesh(Mesh { trust_domain_aliases, ..world.inventory.mesh().clone() }));
        }
        Step::Keys { source, fetched } => {
            let source = match source {
                true => KeySource::Issuer("https://a.example".into()),
                false => KeySource::Url("https://a.example/keys".into()),
            };
            let fetched = if fetched { Ok("{\"keys\": []}".into()) } else { Err("away".into()) };
            world.event(Event::Keys { source, fetched });
        }
        Step::Compile => drop(world.compile()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn incremental_compilation_equals_a_full_compilation(steps in proptest::collection::vec(step(), 0..150)) {
        let mut world = World::new();
        world.cluster("west");
        world.cluster("east");
        for step in steps {
            run(&mut world, step);
        }
        world.compile();
        let expected = world.recomputed();
        let (found, expected_all) = (world.all_resources(), expected.all_resources());
        let differing: Vec<_> = found.keys().chain(expected_all.keys()).filter(|key| found.get(key) != expected_all.get(key)).collect();
        let bodies: Vec<_> = differing.iter().map(|key| (key, world.body(key.0, &key.1), expected.body(key.0, &key.1))).collect();
        prop_assert!(differing.is_empty(), "{:#?}", bodies);
        prop_assert_eq!(world.all_facts(), expected.all_facts());
        prop_assert_eq!(world.rule_notices(), expected.rule_notices());
        prop_assert_eq!(world.refused_exports(), expected.refused_exports());
        // A proxy receives at most one resource of a name.
        for (kind, name) in found.keys() {
            for cluster in CLUSTERS {
                for namespace in NAMESPACES {
                    let viewer = Viewer { namespace: namespace.into(), ..viewer(cluster) };
                    let named = world.store.named(*kind, name);
                    prop_assert!(named.iter().filter(|of| of.audience().includes(&viewer, name)).count() <= 1);
                }
            }
        }
        // Compiling everything again changes nothing.
        for _ in 0..2 {
            let mesh = world.inventory.mesh().clone();
            world.event(Event::Mesh(Mesh { export_all: !mesh.export_all, ..mesh }));
        }
        prop_assert_eq!(world.compile(), 0);
    }
}
