//! The conformance suite of the Multi-Cluster Services API, spec by spec, in labs of two clusters that share a network and a third
//! on a network of its own. The specs have the numbers of docs/multi-cluster-services.md.
//!
//! The suite's pods run in namespaces without injection. Ours do as well, with programs that every machine has.

mod dns;
mod fixture;
mod mesh;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Lab, User, eventually};
use fixture::{CLUSTERS, Fixture, hello};

/// The time that the suite gives an implementation.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what must not change is looked at. The suite looks for five seconds.
const STEADY: Duration = Duration::from_secs(2);

/// A spec: its number, its name and the check.
type Spec = (u8, &'static str, fn(&Fixture<'_>));

fn run(lab: &Lab, specs: &[Spec]) {
    let mut failed: Vec<u8> = Vec::new();
    for (number, name, check) in specs {
        let started = std::time::Instant::now();
        let fixture = Fixture::new(lab, *number);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&fixture)));
        let word = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("spec {number:>2} {word} in {:.1}s: {name}", started.elapsed().as_secs_f64());
        failed.extend(outcome.is_err().then_some(*number));
        fixture.remove();
    }
    assert!(failed.is_empty(), "specs {failed:?} failed");
}

#[test]
fn imports_and_conditions_are_those_of_the_public_suite() {
    let lab = Lab::up("shared-network.yaml", User::Own);
    run(&lab, API);
    lab.down();
}

#[test]
fn names_and_connections_are_those_of_the_public_suite() {
    let lab = Lab::up("shared-network.yaml", User::Own);
    run(&lab, NAMES);
    run(&lab, CONNECTIONS);
    lab.down();
}

const API: &[Spec] = &[
    (1, "a ServiceImport exists as long as at least one cluster exports", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        it.import("west");
        it.service("east", |_| {});
        it.export("east", json!({}));
        eventually(PATIENCE, || {
            let clusters = it.import("west")["status"]["clusters"].clone();
            if clusters.as_array().is_some_and(|all| all.len() == 2) { Ok(()) } else { Err(clusters) }
        })
        .expect("both clusters export");
        it.unexport("west");
        it.steady("the import stays", || it.imported("west"));
        it.unexport("east");
        it.gone();
    }),
    (2, "only exported labels and annotations are on the import", |it| {
        it.service("west", |of| of["metadata"]["labels"] = json!({"own": "label"}));
        it.export("west", json!({"exportedLabels": {"dummy-label": "true"}, "exportedAnnotations": {"dummy": "yes"}}));
        let metadata = it.import("east")["metadata"].clone();
        assert_eq!(
            (&metadata["labels"]["dummy-label"], &metadata["annotations"]["dummy"]),
            (&json!("true"), &json!("yes"))
        );
        assert_eq!(metadata["labels"]["own"], Value::Null);
    }),
    (3, "conflicting labels and annotations: the first export wins, both have the condition", |it| {
        it.service("west", |_| {});
        it.export("west", json!({"exportedLabels": {"dummy-label": "true"}, "exportedAnnotations": {"dummy": "yes"}}));
        it.second("east", |_| {}, json!({"exportedLabels": {"dummy-label2": "true"}}));
        it.conflict("LabelsConflict,AnnotationsConflict");
        let labels = it.import("west")["metadata"]["labels"].clone();
        assert_eq!((&labels["dummy-label"], &labels["dummy-label2"]), (&json!("true"), &Value::Null));
    }),
    (4, "an exported ClusterIP service is imported in each cluster, until it is not exported", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        it.condition("west", "Valid", "True/Valid");
        it.condition("west", "Ready", "True/Exported");
        CLUSTERS.iter().for_each(|cluster| assert_eq!(it.import(cluster)["spec"]["type"], "ClusterSetIP"));
        it.unexport("west");
        it.gone();
    }),
    (5, "the import has the session affinity and its configuration", |it| {
        it.service("west", |of| {
            of["spec"]["sessionAffinity"] = json!("ClientIP");
            of["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10}});
        });
        it.export("west", json!({}));
        let spec = it.import("east")["spec"].clone();
        assert_eq!(spec["sessionAffinity"], "ClientIP");
        assert_eq!(spec["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10}}));
    }),
    (6, "the import has the internal traffic policy", |it| {
        it.service("west", |of| of["spec"]["internalTrafficPolicy"] = json!("Cluster"));
        it.export("west", json!({}));
        assert_eq!(it.import("east")["spec"]["internalTrafficPolicy"], "Cluster");
    }),
    (7, "the import has the traffic distribution", |it| {
        it.service("west", |of| of["spec"]["trafficDistribution"] = json!("PreferClose"));
        it.export("west", json!({}));
        assert_eq!(it.import("east")["spec"]["trafficDistribution"], "PreferClose");
    }),
    (8, "the import has a clusterset address of each family", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        let spec = it.import("east")["spec"].clone();
        let of_service = it.lab.kubectl("west", &["-n", &it.namespace, "get", "service", "hello", "-o", "json"]).json();
        assert_eq!(spec["ipFamilies"], of_service["spec"]["ipFamilies"]);
        let ips = spec["ips"].as_array().expect("addresses");
        assert_eq!(ips.len(), spec["ipFamilies"].as_array().expect("families").len());
        assert!(ips.iter().all(|ip| ip.as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok())), "{ips:?}");
        assert_eq!(it.import("west")["spec"]["ips"], spec["ips"]);
    }),
    (9, "the import has the ports", |it| {
        it.service("west", |of| of["spec"]["ports"][0]["appProtocol"] = json!("http"));
        it.export("west", json!({}));
        assert_eq!(
            it.import("east")["spec"]["ports"],
            json!([{"name": "tcp", "port": 42, "protocol": "TCP", "appProtocol": "http"},
                   {"name": "udp", "port": 42, "protocol": "UDP"}])
        );
    }),
    (10, "the import has the union of the ports, and both exports have the condition", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        let add = |of: &mut Value| {
            let ports = of["spec"]["ports"].as_array_mut().expect("ports");
            ports[1] = json!({"name": "stcp", "port": 142, "protocol": "SCTP"});
        };
        it.second("east", add, json!({}));
        it.conflict("PortConflict");
        assert_eq!(it.ports("west"), ["tcp/42", "udp/42", "stcp/142"]);
    }),
    (11, "of ports that clash, the first export's is used, and both have the condition", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        it.second("east", |of| of["spec"]["ports"] = json!([{"name": "tcp", "port": 43}]), json!({}));
        it.conflict("PortConflict");
        assert_eq!(it.ports("east"), ["tcp/42", "udp/42"]);
        let message = it.export_of("west")["status"]["conditions"].to_string();
        assert!(message.contains("1/2 clusters disagree."), "{message}");
        // What a user sees.
        let wide =
            it.lab.kubectl("west", &["-n", &it.namespace, "get", "serviceexport,serviceimport", "-o", "wide"]).ok();
        println!("{wide}");
        assert!(wide.contains("CONFLICT") && wide.contains("PortConflict") && wide.contains("ClusterSetIP"), "{wide}");
    }),
    (12, "an exported headless service is imported as headless, until it is not exported", |it| {
        it.service("west", |of| of["spec"]["clusterIP"] = json!("None"));
        it.export("west", json!({}));
        CLUSTERS.iter().for_each(|cluster| assert_eq!(it.import(cluster)["spec"]["type"], "Headless"));
        it.unexport("west");
        it.gone();
    }),
    (13, "a headless import has no address", |it| {
        it.service("west", |of| of["spec"]["clusterIP"] = json!("None"));
        it.export("west", json!({}));
        it.import("west");
        it.steady("no address", || it.import("west")["spec"]["ips"].is_null());
    }),
    (14, "an export of an ExternalName service is invalid, and not imported", |it| {
        it.service("west", |of| of["spec"] = json!({"type": "ExternalName", "externalName": "example.com"}));
        it.export("west", json!({}));
        it.condition("west", "Valid", "False/InvalidServiceType");
        it.steady("no import", || !it.imported("west") && !it.imported("east"));
    }),
    (15, "a ClusterIP service and a later headless one: the condition on both, and ClusterSetIP everywhere", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        it.second("east", |of| of["spec"]["clusterIP"] = json!("None"), json!({}));
        it.conflict("TypeConflict");
        CLUSTERS.iter().for_each(|cluster| assert_eq!(it.import(cluster)["spec"]["type"], "ClusterSetIP"));
    }),
    (16, "each cluster has an EndpointSlice with the labels, until the service is not exported", |it| {
        it.deploy("west", 1);
        it.service("west", |_| {});
        it.export("west", json!({}));
        for cluster in CLUSTERS {
            let slices = it.slices(cluster, 1);
            let labels = &slices[0]["metadata"]["labels"];
            assert_eq!(labels["multicluster.kubernetes.io/service-name"], "hello");
            assert_eq!(labels["multicluster.kubernetes.io/source-cluster"], "west");
            let by = labels["endpointslice.kubernetes.io/managed-by"].as_str().expect("a controller");
            assert_ne!(by, "endpointslice-controller.k8s.io");
        }
        it.unexport("west");
        CLUSTERS.iter().for_each(|cluster| drop(it.slices(cluster, 0)));
    }),
];

const NAMES: &[Spec] = &[
    (17, "the name of a ClusterIP service in clusterset.local is its clusterset address", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        for cluster in CLUSTERS {
            let ip = it.import(cluster)["spec"]["ips"][0].as_str().expect("an address").to_owned();
            it.request_pod(cluster);
            it.resolves(cluster, &it.name(), &[&ip]);
        }
    }),
    (18, "a ClusterIP service has one SRV record", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        for cluster in CLUSTERS {
            it.import(cluster);
            it.request_pod(cluster);
            it.answers(cluster, &it.name(), dns::SRV, 1, &["hello", "clusterset", "local"]);
            it.answers(cluster, &format!("_udp._udp.{}", it.name()), dns::SRV, 1, &["hello"]);
        }
    }),
    (19, "the name in cluster.local is the local service alone", |it| {
        it.service("west", |_| {});
        it.export("west", json!({}));
        let local = it.lab.kubectl("west", &["-n", &it.namespace, "get", "service", "hello", "-o", "json"]).json();
        it.import("east");
        it.request_pod("west");
        it.request_pod("east");
        let name = format!("hello.{}.svc.cluster.local", it.namespace);
        it.resolves("west", &name, &[local["spec"]["clusterIP"].as_str().expect("an address")]);
        it.resolves("east", &name, &[]);
    }),
    (20, "the name of a headless service is the addresses of its ready pods", |it| {
        it.deploy("west", 2);
        it.service("west", |of| of["spec"]["clusterIP"] = json!("None"));
        it.export("west", json!({}));
        let ips = it.pod_ips("west", 2);
        for cluster in CLUSTERS {
            it.request_pod(cluster);
            it.resolves(cluster, &it.name(), &ips.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }),
    (21, "a pod of a StatefulSet has a name with its cluster", |it| {
        it.deploy_stateful("west", 2);
        it.service("west", |of| of["spec"]["clusterIP"] = json!("None"));
        it.export("west", json!({}));
        for cluster in CLUSTERS {
            it.request_pod(cluster);
            let slices = eventually(PATIENCE, || {
                let slices = it.slices(cluster, 1);
                let ready = slices[0]["endpoints"].as_array().is_some_and(|all| all.len() == 2);
                if ready { Ok(slices) } else { Err(slices) }
            })
            .expect("two endpoints");
            for endpoint in slices[0]["endpoints"].as_array().expect("endpoints") {
                let host = endpoint["hostname"].as_str().expect("a host name");
                let ip = endpoint["addresses"][0].as_str().expect("an address");
                it.resolves(cluster, &format!("{host}.west.{}", it.name()), &[ip]);
            }
        }
    }),
    (22, "a headless service has an SRV record for each pod", |it| {
        it.deploy("west", 2);
        it.service("west", |of| {
            of["spec"]["clusterIP"] = json!("None");
            of["spec"]["ports"] = json!([{"name": "tcp", "port": 8042}]);
        });
        it.export("west", json!({}));
        let ips = it.pod_ips("west", 2);
        for cluster in CLUSTERS {
            it.request_pod(cluster);
            let hosts: Vec<String> = ips.iter().map(|ip| ip.replace('.', "-")).collect();
            it.answers(cluster, &it.name(), dns::SRV, 2, &hosts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }),
];

const CONNECTIONS: &[Spec] = &[
    (23, "a service that is not exported is not reached", |it| {
        it.deploy("west", 1);
        it.service("west", |_| {});
        for cluster in CLUSTERS {
            it.request_pod(cluster);
            (0..5).for_each(|_| assert!(it.call(cluster, 42).is_err()));
        }
    }),
    (24, "an exported service is reached by its name from every cluster", |it| {
        it.deploy("west", 1);
        it.service("west", |_| {});
        it.export("west", json!({}));
        CLUSTERS.iter().for_each(|cluster| it.reaches(cluster, 42, "west"));
    }),
    (25, "only the exporting cluster serves", |it| {
        for cluster in CLUSTERS {
            it.deploy(cluster, 1);
            it.service(cluster, |_| {});
        }
        it.export("west", json!({}));
        CLUSTERS.iter().for_each(|cluster| it.reaches(cluster, 42, "west"));
    }),
    (26, "one port name with two numbers: the port leads to the cluster that has it", |it| {
        for cluster in CLUSTERS {
            it.deploy(cluster, 1);
        }
        it.service("west", |_| {});
        it.export("west", json!({}));
        let other = json!([{"name": "tcp", "port": 4242, "targetPort": 8042}]);
        it.second("east", |of| of["spec"]["ports"] = other.clone(), json!({}));
        it.conflict("PortConflict");
        CLUSTERS.iter().for_each(|cluster| it.reaches(cluster, 42, "west"));
    }),
    (27, "two port names: each port leads to the cluster that has it", |it| {
        for cluster in CLUSTERS {
            it.deploy(cluster, 1);
        }
        it.service("west", |_| {});
        it.export("west", json!({}));
        let other = json!([{"name": "tcp2", "port": 4242, "targetPort": 8042}]);
        it.second("east", |of| of["spec"]["ports"] = other.clone(), json!({}));
        it.conflict("PortConflict");
        for cluster in CLUSTERS {
            it.reaches(cluster, 42, "west");
            it.reaches(cluster, 4242, "east");
        }
    }),
];

#[test]
fn the_specs_are_those_of_the_documentation() {
    let numbers: Vec<u8> = API.iter().chain(NAMES).chain(CONNECTIONS).map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=27).collect::<Vec<u8>>());
    let documentation = include_str!("../../docs/multi-cluster-services.md");
    for (number, name, _) in API.iter().chain(NAMES).chain(CONNECTIONS) {
        assert!(documentation.contains(&format!("| {number} | {name} |")), "{number}: {name}");
    }
    assert!(hello().is_object());
}
