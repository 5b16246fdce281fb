use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::kinds::by_kind;

const NOW: OffsetDateTime = datetime!(2025-03-01 12:00:00 UTC);

/// The cells of an object, including those of `-o wide`.
fn row(group: &str, kind: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["creationTimestamp"] = json!("2025-03-01T11:55:00Z");
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("x");
    }
    let version = if group == "autoscaling" { "v2" } else { "v1" };
    let kind = by_kind(group, version, kind).expect("a built-in kind");
    let table = render(kind, [&object], &[], IncludeObject::None, NOW);
    let cells = table["rows"][0]["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().expect("columns").len());
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn pod(extra: Value) -> Vec<String> {
    let mut object = json!({
        "spec": {"nodeName": "n1", "containers": [{"name": "app"}, {"name": "proxy"}]},
        "status": {"phase": "Running", "podIP": "10.244.0.3"},
    });
    json_patch::merge(&mut object, &extra);
    row("", "Pod", object)
}

fn running(ready: bool, restarts: i64) -> Value {
    json!({"ready": ready, "restartCount": restarts, "state": {"running": {}}})
}

#[test]
fn a_running_pod() {
    let cells = pod(json!({"status": {"containerStatuses": [running(true, 0), running(false, 0)]}}));
    assert_eq!(cells, ["x", "1/2", "Running", "0", "5m", "10.244.0.3", "n1", "<none>", "<none>"]);
}

#[test]
fn the_status_of_failing_pods() {
    let crashing = json!({
        "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2025-03-01T11:59:00Z"}},
    });
    let cells = pod(json!({"status": {"containerStatuses": [crashing, running(true, 0)]}}));
    assert_eq!(cells[1..4], ["1/2", "CrashLoopBackOff", "3 (60s ago)"]);

    let ended = |terminated: Value| json!({"restartCount": 0, "state": {"terminated": terminated}});
    for (terminated, expected) in [
        (json!({"exitCode": 1, "reason": "Error"}), "Error"),
        (json!({"exitCode": 7}), "ExitCode:7"),
        (json!({"exitCode": 0, "signal": 9}), "Signal:9"),
        (json!({"exitCode": 0, "reason": "Completed"}), "Completed"),
    ] {
        assert_eq!(pod(json!({"status": {"containerStatuses": [ended(terminated)]}}))[2], expected);
    }
    let both = json!([ended(json!({"exitCode": 0, "reason": "Completed"})), running(true, 0)]);
    assert_eq!(pod(json!({"status": {"containerStatuses": both}}))[2], "NotReady");

    assert_eq!(pod(json!({"metadata": {"deletionTimestamp": "2025-03-01T11:59:00Z"}}))[2], "Terminating");
    assert_eq!(pod(json!({"status": {"phase": "Failed", "reason": "Evicted"}}))[2], "Evicted");
    assert_eq!(pod(json!({"status": {"phase": "Pending"}}))[2], "Pending");
}

#[test]
fn init_containers_show_their_progress() {
    let spec = json!({"initContainers": [{"name": "a"}, {"name": "b"}]});
    let done = json!({"name": "a", "restartCount": 1, "state": {"terminated": {"exitCode": 0}}});
    for (second, expected) in [
        (json!({"name": "b", "state": {"waiting": {"reason": "PodInitializing"}}}), "Init:1/2"),
        (json!({"name": "b", "state": {"running": {}}}), "Init:1/2"),
        (json!({"name": "b", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}), "Init:Error"),
        (json!({"name": "b", "state": {"terminated": {"exitCode": 2}}}), "Init:ExitCode:2"),
        (json!({"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}), "Init:CrashLoopBackOff"),
    ] {
        let cells = pod(json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [done, second]}}));
        assert_eq!(cells[1..4], ["0/2", expected, "1"]);
    }
}

#[test]
fn sidecar_containers_count_as_containers() {
    let cells = pod(json!({
        "spec": {"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]},
        "status": {
            "initContainerStatuses": [{"name": "mesh", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}}],
            "containerStatuses": [running(true, 0), running(true, 1)],
        },
    }));
    assert_eq!(cells[1..4], ["3/3", "Running", "3"]);
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let status = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1});
    let object = json!({"spec": spec, "status": status});
    assert_eq!(row("apps", "Deployment", object.clone()), ["x", "2/3", "3", "1", "5m", "a,b", "i,j", "app=web"]);
    assert_eq!(row("apps", "ReplicaSet", object.clone()), ["x", "3", "3", "2", "5m", "a,b", "i,j", "app=web"]);
    assert_eq!(row("apps", "StatefulSet", object), ["x", "2/3", "5m", "a,b", "i,j"]);
    let job = json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "startTime": "2025-03-01T11:55:00Z",
        "completionTime": "2025-03-01T11:55:09Z", "conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(row("batch", "Job", job)[..5], ["x", "Complete", "1/1", "9s", "5m"]);
    let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true});
    let revision = json!({"metadata": {"ownerReferences": [owner]}, "revision": 3});
    assert_eq!(row("apps", "ControllerRevision", revision), ["x", "statefulset.apps/db", "3", "5m"]);
}

#[test]
fn an_ingress_class_shows_its_parameters() {
    let class = |parameters: Value| json!({"spec": {"controller": "a.io/b", "parameters": parameters}});
    let parameters = json!({"apiGroup": "k8s.a.io", "kind": "Gateway", "name": "g"});
    assert_eq!(
        row("networking.k8s.io", "IngressClass", class(parameters)),
        ["x", "a.io/b", "Gateway.k8s.a.io/g", "5m"]
    );
    assert_eq!(row("networking.k8s.io", "IngressClass", class(Value::Null)), ["x", "a.io/b", "<none>", "5m"]);
}

#[test]
fn classes_show_what_they_are_for() {
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let storage = json!({"metadata": {"annotations": annotations}, "provisioner": "a.io/p", "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate"});
    assert_eq!(
        row("storage.k8s.io", "StorageClass", storage),
        ["x (default)", "a.io/p", "Delete", "Immediate", "false", "5m"]
    );
    let priority = json!({"value": 7, "preemptionPolicy": "Never"});
    assert_eq!(row("scheduling.k8s.io", "PriorityClass", priority), ["x", "7", "false", "5m", "Never"]);
    assert_eq!(row("node.k8s.io", "RuntimeClass", json!({"handler": "runc"})), ["x", "runc", "5m"]);
}

#[test]
fn a_scale_has_a_table_of_its_own() {
    let scale = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}, "status": {"replicas": 2}});
    let table = super::of_scale(&scale, super::IncludeObject::None, OffsetDateTime::now_utc());
    let headings: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(headings, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["d", 3, 2, "<unknown>"]));
}

#[test]
fn services_show_their_addresses() {
    let port = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    let plain = json!({"spec": {"clusterIP": "10.96.0.7", "ports": port, "selector": {"app": "web"}}});
    assert_eq!(
        row("", "Service", plain),
        ["x", "ClusterIP", "10.96.0.7", "<none>", "80/TCP,53:30053/UDP", "5m", "app=web"]
    );
    let mut balanced = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.8"}});
    assert_eq!(row("", "Service", balanced.clone())[3..5], ["<pending>", "<none>"]);
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"hostname": "lb.example"}]}});
    assert_eq!(row("", "Service", balanced)[3], "203.0.113.10,lb.example");
    let alias = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    assert_eq!(row("", "Service", alias)[1..4], ["ExternalName", "<none>", "example.com"]);
}

#[test]
fn at_most_three_endpoints_are_shown() {
    let slice = json!({
        "addressType": "IPv4", "ports": [{"port": 80}, {}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}],
    });
    let cells = row("discovery.k8s.io", "EndpointSlice", slice);
    assert_eq!(cells, ["x", "IPv4", "80,*", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...", "5m"]);
    assert_eq!(row("discovery.k8s.io", "EndpointSlice", json!({"addressType": "IPv4"}))[2..4], ["<unset>", "<unset>"]);
    let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "::1"}], "ports": [{"port": 80}]}]});
    assert_eq!(row("", "Endpoints", endpoints)[1], "10.0.0.1:80,[::1]:80");
}

#[test]
fn nodes() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "linux"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Linux"},
        },
    });
    assert_eq!(
        row("", "Node", node),
        [
            "x",
            "Ready,SchedulingDisabled",
            "control-plane",
            "5m",
            "v1.33.0",
            "10.0.0.1",
            "<none>",
            "Linux",
            "<unknown>",
            "<unknown>"
        ]
    );
}

#[test]
fn events_of_either_form() {
    let core = json!({
        "involvedObject": {"kind": "Pod", "name": "web"}, "reason": "Started", "message": "Started container app\n", "type": "Normal",
        "source": {"component": "node-agent", "host": "n1"}, "count": 4,
        "firstTimestamp": "2025-03-01T11:50:00Z", "lastTimestamp": "2025-03-01T11:59:30Z",
    });
    let expected = [
        "30s (x4 over 10m)",
        "Normal",
        "Started",
        "pod/web",
        "",
        "node-agent, n1",
        "Started container app",
        "10m",
        "4",
        "x",
    ];
    assert_eq!(row("", "Event", core), expected);
    let newer = json!({"regarding": {"kind": "Pod", "name": "web"}, "note": "hello", "eventTime": "2025-03-01T11:59:30.000000Z",
        "reportingController": "c", "type": "Normal", "reason": "R"});
    assert_eq!(row("events.k8s.io", "Event", newer)[..7], ["30s", "Normal", "R", "pod/web", "", "c", "hello"]);
}

#[test]
fn bindings_and_the_rest() {
    let binding = json!({
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "a"}, {"kind": "User", "name": "u"}],
    });
    assert_eq!(
        row("rbac.authorization.k8s.io", "RoleBinding", binding),
        ["x", "ClusterRole/view", "5m", "u", "", "default/a"]
    );
    assert_eq!(row("rbac.authorization.k8s.io", "Role", json!({})), ["x", "2025-03-01T11:55:00Z"]);
    assert_eq!(row("", "Secret", json!({"type": "Opaque", "data": {"a": "", "b": ""}})), ["x", "Opaque", "2", "5m"]);
    assert_eq!(row("", "ConfigMap", json!({"data": {"a": ""}, "binaryData": {"b": ""}})), ["x", "2", "5m"]);
    assert_eq!(row("", "Namespace", json!({"status": {"phase": "Active"}})), ["x", "Active", "5m"]);
    assert_eq!(row("coordination.k8s.io", "Lease", json!({"spec": {"holderIdentity": "me"}})), ["x", "me", "5m"]);
    let claim = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
    let expected = ["x", "Bound", "v", "1Gi", "RWO", "", "<unset>", "5m", "<unset>"];
    assert_eq!(row("", "PersistentVolumeClaim", claim), expected);
    let budget = json!({"spec": {"minAvailable": 1}});
    assert_eq!(row("policy", "PodDisruptionBudget", budget), ["x", "1", "N/A", "0", "5m"]);
}

#[test]
fn every_kind_renders_empty_objects() {
    for kind in crate::kinds::BUILTIN.iter() {
        let table = render(kind, [&json!({}), &json!({"spec": 3, "status": []})], &[], IncludeObject::Metadata, NOW);
        assert_eq!(table["rows"].as_array().expect("rows").len(), 2, "{}", kind.kind);
    }
}

#[test]
fn custom_columns_follow_their_paths() {
    let kind = ResourceKind {
        group: "example.com".into(),
        kind: "Widget".into(),
        ..by_kind("", "v1", "Pod").expect("pod").clone()
    };
    let column = |name: &str, type_: &str, path: &str| PrinterColumn {
        name: name.into(),
        type_: type_.into(),
        json_path: path.into(),
        ..PrinterColumn::default()
    };
    let columns = [
        column("Hosts", "string", ".spec.hosts"),
        column("First", "string", ".spec.hosts[0]"),
        column("Each", "string", ".spec.hosts[*]"),
        column("Ready", "string", r#".status.conditions[?(@.type=="Ready")].status"#),
        column("Label", "string", r".metadata.labels['example\.com/tier']"),
        column("Count", "integer", ".spec.count"),
        column("Age", "date", ".metadata.creationTimestamp"),
        column("Absent", "string", ".spec.absent"),
        column("Wrong", "integer", ".spec.hosts"),
        column("Broken", "string", ".spec.[?("),
    ];
    let object = json!({
        "metadata": {"name": "w", "labels": {"example.com/tier": "front"}, "creationTimestamp": "2025-03-01T10:00:00Z"},
        "spec": {"hosts": ["a", "b"], "count": 4},
        "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
    });
    let table = render(&kind, [&object], &columns, IncludeObject::Object, NOW);
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["w", r#"["a","b"]"#, "a", "a b", "True", "front", 4, "120m", null, null, null])
    );
    assert_eq!(table["rows"][0]["object"], object);
    assert_eq!(table["columnDefinitions"][6]["type"], "integer");
    let plain = render(&kind, [&object], &[], IncludeObject::Metadata, NOW);
    assert_eq!(plain["rows"][0]["cells"], json!(["w", "120m"]));
    assert_eq!(plain["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[test]
fn ages_have_two_units_at_most() {
    for (seconds, expected) in [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
    ] {
        assert_eq!(age::human(time::Duration::seconds(seconds)), expected, "{seconds}");
    }
}
