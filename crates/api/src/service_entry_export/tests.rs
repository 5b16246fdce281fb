use serde_json::json;

use super::*;

fn endpoint(cluster: &str, address: &str, locality: &str, ready: u32) -> GatewayEndpoint {
    let address = address.parse().expect("an address");
    GatewayEndpoint { cluster: cluster.into(), address, port: 15443, locality: locality.into(), ready }
}

fn reviews(cluster: &str, address: &str) -> ExportedService {
    ExportedService {
        namespace: "default".into(),
        name: "reviews".into(),
        hostname: "reviews.default.svc.cluster.local".into(),
        ports: vec![ExportedPort { number: 9080, name: "http".into(), protocol: "HTTP".into() }],
        identities: vec!["spiffe://cluster.local/ns/default/sa/reviews".into()],
        endpoints: vec![endpoint(cluster, address, "us-east/us-east-1a", 2)],
        subsets: Vec::new(),
    }
}

fn yaml(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{}", crate::yaml::to_string(object).expect("YAML"))).collect()
}

/// The whole of what is printed. Who changes it changes the objects of everyone who applies them.
#[test]
fn the_objects_of_a_service() {
    let mut service = reviews("east", "203.0.113.20");
    service.ports.push(ExportedPort { number: 9443, name: String::new(), protocol: String::new() });
    service.endpoints.push(endpoint("east", "203.0.113.20", "us-east/us-east-1b", 0));
    service.subsets = vec!["v2".into()];
    let found = yaml(&objects(&service, &ExportSettings::of_command(&service)));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service_entry_export.yaml");
    if std::env::var_os("ISTHMUS_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &found).expect("written");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, expected, "{path} differs; ISTHMUS_UPDATE_GOLDEN=1 writes it anew");
}

#[test]
fn the_objects_are_valid_without_warnings() {
    let mut service = reviews("east", "203.0.113.20");
    service.subsets = vec!["v1".into(), "v2".into()];
    for settings in [ExportSettings::of_command(&service), ExportSettings::of_controller(&service, "west")] {
        for object in objects(&service, &settings) {
            let kind = object["kind"].as_str().expect("a kind");
            let problems = crate::networking::validate(crate::networking::GROUP, kind, &object);
            assert!(problems.is_empty(), "{kind}: {problems:?}");
        }
    }
}

#[test]
fn another_host_keeps_the_server_name_of_the_service() {
    let service = reviews("east", "203.0.113.20");
    let settings = ExportSettings { host: "reviews.east.global".into(), ..ExportSettings::of_command(&service) };
    let [entry, rule] = objects(&service, &settings);
    assert_eq!((&entry["spec"]["hosts"][0], &rule["spec"]["host"]), (&json!(settings.host), &json!(settings.host)));
    let tls = &rule["spec"]["trafficPolicy"]["portLevelSettings"][0]["tls"];
    assert_eq!(tls["sni"], "outbound_.9080_._.reviews.default.svc.cluster.local");
    assert_eq!(tls["subjectAltNames"], json!(["spiffe://cluster.local/ns/default/sa/reviews"]));
}

#[test]
fn live_objects_have_weights_and_leave_out_localities_without_ready_pods() {
    let mut service = reviews("east", "203.0.113.20");
    service.endpoints.push(endpoint("east", "203.0.113.20", "us-east/us-east-1b", 0));
    let spec = |service: &ExportedService, live: bool| {
        let settings = match live {
            true => ExportSettings::of_controller(service, "west"),
            false => ExportSettings::of_command(service),
        };
        objects(service, &settings)[0]["spec"]["endpoints"].as_array().expect("endpoints").clone()
    };
    let live = spec(&service, true);
    assert_eq!((live.len(), &live[0]["weight"]), (1, &json!(2)));
    let printed = spec(&service, false);
    assert!(printed.len() == 2 && printed[0].get("weight").is_none(), "{printed:?}");
    // If no pod is ready, the gateway may still know one.
    service.endpoints.iter_mut().for_each(|endpoint| endpoint.ready = 0);
    assert_eq!(spec(&service, true).len(), 2);
}

#[test]
fn several_clusters_export_what_they_have_in_common() {
    let mut east = reviews("east", "203.0.113.20");
    east.subsets = vec!["v1".into(), "v2".into()];
    east.ports.push(ExportedPort { number: 80, name: "old".into(), protocol: "HTTP".into() });
    let mut central = reviews("central", "203.0.113.30");
    central.subsets = vec!["v2".into(), "v3".into()];
    central.identities = vec!["spiffe://cluster.local/ns/default/sa/other".into()];
    let merged = ExportedService::merged([east.clone(), central.clone()]).expect("a service");
    assert_eq!(Some(&merged.endpoints), ExportedService::merged([central, east]).map(|of| of.endpoints).as_ref());
    assert_eq!(merged.clusters().into_iter().collect::<Vec<_>>(), ["central", "east"]);
    assert_eq!((merged.ports.len(), &merged.subsets[..]), (1, &["v2".to_owned()][..]));
    assert_eq!(merged.identities.len(), 2);
    assert_eq!(ExportedService::merged([]), None);
}

#[test]
fn every_difference_is_named() {
    let service = reviews("east", "203.0.113.20");
    let [entry, rule] = objects(&service, &ExportSettings::of_command(&service));
    let drifts = |found: &Value| drift(&entry, Some(found)).iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut found = entry.clone();
    // What others add beside is no drift.
    found["metadata"]["labels"]["team"] = json!("a");
    found["metadata"]["resourceVersion"] = json!("7");
    found["status"] = json!({"conditions": []});
    found["spec"]["workloadSelector"] = Value::Null;
    assert_eq!(drifts(&found), Vec::<String>::new());
    found["spec"]["endpoints"][0]["address"] = json!("192.0.2.1");
    found["spec"]["exportTo"] = json!(["."]);
    found["metadata"]["labels"][MANAGED_BY] = Value::Null;
    found["spec"]["subjectAltNames"] = json!([]);
    assert_eq!(
        drifts(&found),
        [
            "ServiceEntry default/reviews-exported: metadata.labels[app.kubernetes.io/managed-by]: is absent, expected \"isthmus-export\"",
            "ServiceEntry default/reviews-exported: spec.endpoints[0].address: is \"192.0.2.1\", expected \"203.0.113.20\"",
            "ServiceEntry default/reviews-exported: spec.subjectAltNames[0]: is absent, expected \"spiffe://cluster.local/ns/default/sa/reviews\"",
            "ServiceEntry default/reviews-exported: spec.exportTo: is [\".\"], expected to be absent",
        ]
    );
    assert_eq!(
        drift(&rule, None).iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["DestinationRule default/reviews-exported: does not exist"]
    );
    // However much differs, the answer is short.
    found["spec"]["endpoints"] = json!(vec![json!({"address": "x".repeat(10_000)}); 10_000]);
    let many = drift(&entry, Some(&found));
    assert!(many.len() <= 50 && many.iter().all(|of| of.to_string().len() < 1_000));
}

#[test]
fn an_annotation_names_clusters() {
    let clusters = |text: &str| {
        let annotations = [(EXPORT_TO_CLUSTERS.to_owned(), text.to_owned())].into();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        target_clusters(&metadata, 3).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(clusters("west, central,"), ["central", "west"]);
    assert_eq!(clusters("a,b,c,d"), ["a", "b", "c"]);
    assert_eq!(clusters(&"x".repeat(1 << 16))[0].len(), MAX_CLUSTER_NAME);
    assert_eq!(clusters(" ,"), [""; 0]);
    assert_eq!(target_clusters(&ObjectMeta::default(), 3), BTreeSet::new());
}
