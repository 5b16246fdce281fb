use serde_json::json;

use super::*;
use crate::defaults;
use crate::kinds::{BUILTIN, by_kind};

fn kind(group: &str, name: &str) -> &'static ResourceKind {
    by_kind(group, if group == "autoscaling" { "v2" } else { "v1" }, name).expect("a built-in kind")
}

/// The errors of the object after defaulting, as `field: message`.
fn found(group: &str, name: &str, object: Value) -> Vec<String> {
    changed(group, name, object, None)
}

fn changed(group: &str, name: &str, object: Value, old: Option<Value>) -> Vec<String> {
    let kind = kind(group, name);
    let complete = |mut object: Value| {
        object["kind"] = json!(kind.kind);
        if object["metadata"].is_null() {
            object["metadata"] = json!({"name": "x"});
        }
        if kind.namespaced {
            object["metadata"]["namespace"] = json!("default");
        }
        defaults::apply(kind, &mut object);
        object
    };
    let old = old.map(complete);
    let causes = super::object(kind, &complete(object), old.as_ref());
    causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn pod_spec(extra: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "a", "image": "i"}]});
    json_patch::merge(&mut spec, &extra);
    json!({"spec": spec})
}

fn deployment(extra: Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}},
    });
    json_patch::merge(&mut spec, &extra);
    json!({"spec": spec})
}

#[test]
fn valid_objects_have_no_errors() {
    let none: [String; 0] = [];
    assert_eq!(found("", "Pod", pod_spec(json!({}))), none);
    assert_eq!(found("apps", "Deployment", deployment(json!({}))), none);
    assert_eq!(found("", "Service", json!({"spec": {"ports": [{"port": 80}]}})), none);
    assert_eq!(found("", "Service", json!({"spec": {"clusterIP": "None"}})), none);
    assert_eq!(found("", "Namespace", json!({})), none);
    assert_eq!(found("", "ConfigMap", json!({"data": {"a.yaml": "b"}})), none);
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    assert_eq!(found("discovery.k8s.io", "EndpointSlice", slice), none);
    let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    assert_eq!(found("rbac.authorization.k8s.io", "Role", role), none);
}

#[test]
fn names_follow_their_kind() {
    let name = |group: &str, kind: &str, name: &str| {
        found(group, kind, json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 1}]}}))
    };
    assert!(name("", "ConfigMap", "a.b-c").is_empty());
    assert_eq!(
        name("", "ConfigMap", "Upper"),
        [
            r#"metadata.name: Invalid value: "Upper": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]
    );
    assert!(name("", "Namespace", "a.b")[0].contains("a lowercase RFC 1123 label must consist of"));
    assert!(name("", "Service", "1a")[0].contains("a DNS-1035 label must consist of"));
    assert!(name("rbac.authorization.k8s.io", "Role", "system:node/x")[0].ends_with("may not contain '/'"));
    assert!(name("", "ConfigMap", &"a".repeat(254))[0].ends_with("must be no more than 253 bytes"));
    let nameless = found("", "ConfigMap", json!({"metadata": {"labels": {}}}));
    assert_eq!(nameless, ["metadata.name: Required value: name or generateName is required"]);
    assert!(found("", "ConfigMap", json!({"metadata": {"generateName": "web-"}})).is_empty());
}

#[test]
fn labels_and_owners() {
    let metadata = json!({"name": "x", "labels": {"a/b/c": "v", "ok": "not ok"}, "finalizers": ["example.com/done"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]});
    let found = found("", "ConfigMap", json!({"metadata": metadata}));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with(r#"metadata.labels: Invalid value: "a/b/c": a qualified name must consist of"#));
    assert!(found[1].starts_with(r#"metadata.labels: Invalid value: "not ok": a valid label must be an empty string"#));
    assert_eq!(found[2], r#"metadata.ownerReferences[0].uid: Invalid value: "": must not be empty"#);
}

#[test]
fn pods() {
    for (extra, expected) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
        (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
        (
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
            r#"spec.containers[1].name: Duplicate value: "a""#,
        ),
        (
            json!({"restartPolicy": "Sometimes"}),
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 70000}]}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "readinessProbe": {"periodSeconds": 1}}]}),
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}]}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "100m"}, "requests": {"cpu": "1"}}}]}),
            r#"spec.containers[0].resources.requests: Invalid value: "1": must be less than or equal to cpu limit of 100m"#,
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "env": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}]}),
            r#"spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#,
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
    ] {
        assert_eq!(found("", "Pod", pod_spec(extra)), [expected]);
    }
}

#[test]
fn a_pods_spec_is_mostly_immutable() {
    let old = || pod_spec(json!({"terminationGracePeriodSeconds": 5}));
    let image = pod_spec(json!({"containers": [{"name": "a", "image": "other"}]}));
    assert!(changed("", "Pod", image, Some(pod_spec(json!({})))).is_empty());
    assert!(changed("", "Pod", pod_spec(json!({"nodeName": "n1"})), Some(old())).is_empty());
    let moved = changed("", "Pod", pod_spec(json!({"nodeName": "n2"})), Some(pod_spec(json!({"nodeName": "n1"}))));
    assert!(moved[0].starts_with("spec: Forbidden: pod updates may not change fields other than"), "{moved:?}");
    let renamed = pod_spec(json!({"containers": [{"name": "b", "image": "i"}]}));
    assert_eq!(changed("", "Pod", renamed, Some(old())).len(), 1);
}

#[test]
fn workloads_select_their_template() {
    let mismatch = deployment(json!({"selector": {"matchLabels": {"app": "other"}}}));
    assert_eq!(
        found("apps", "Deployment", mismatch),
        [
            r#"spec.template.metadata.labels: Invalid value: map[string]string{"app":"web"}: `selector` does not match template `labels`"#
        ]
    );
    let none = deployment(json!({"selector": null}));
    assert_eq!(found("apps", "Deployment", none), ["spec.selector: Required value"]);
    let moved = deployment(json!({
        "selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}},
    }));
    let found_now = changed("apps", "Deployment", moved, Some(deployment(json!({}))));
    assert_eq!(found_now, [r#"spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable"#]);
    let never = deployment(json!({"template": {"spec": {"restartPolicy": "Never"}}}));
    assert_eq!(
        found("apps", "Deployment", never),
        [r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#]
    );
    let stuck = deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}));
    assert_eq!(
        found("apps", "Deployment", stuck),
        ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
    );
    assert_eq!(
        found("apps", "Deployment", deployment(json!({"replicas": -1}))),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn a_stateful_set_may_mount_its_claims() {
    let mounts =
        json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]});
    let of = |claims: Value| deployment(json!({"template": {"spec": mounts}, "volumeClaimTemplates": claims}));
    let claimed = of(json!([{"metadata": {"name": "data"}, "spec": {}}]));
    assert_eq!(found("apps", "StatefulSet", claimed), Vec::<String>::new());
    let unknown = found("apps", "StatefulSet", of(json!([])));
    assert_eq!(unknown, [r#"spec.template.spec.containers[0].volumeMounts[0].name: Not found: "data""#]);
}

#[test]
fn jobs_and_schedules() {
    let job = |extra: Value| {
        let mut spec = json!({
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}},
        });
        json_patch::merge(&mut spec, &extra);
        json!({"spec": spec})
    };
    let none: [String; 0] = [];
    assert_eq!(found("batch", "Job", job(json!({}))), none);
    assert_eq!(
        found("batch", "Job", job(json!({"completionMode": "Indexed", "parallelism": 2}))),
        ["spec.completions: Required value: when completion mode is Indexed"]
    );
    let larger = job(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(
        changed("batch", "Job", larger.clone(), Some(job(json!({"completions": 2})))),
        ["spec.completions: Invalid value: 3: field is immutable"]
    );
    assert_eq!(changed("batch", "Job", larger, Some(job(json!({"completions": 3})))), none);
    let cron = |schedule: &str| json!({"spec": {"schedule": schedule, "jobTemplate": job(json!({}))}});
    assert_eq!(found("batch", "CronJob", cron("*/5 * * * *")), none);
    assert_eq!(
        found("batch", "CronJob", cron("0 25 * * *")),
        [r#"spec.schedule: Invalid value: "0 25 * * *": end of range (25) above maximum (23): 25"#]
    );
}

#[test]
fn an_ingress_class_names_its_controller() {
    let class = |controller: &str| json!({"spec": {"controller": controller}});
    assert_eq!(found("networking.k8s.io", "IngressClass", class("example.com/ingress")), Vec::<String>::new());
    assert_eq!(found("networking.k8s.io", "IngressClass", json!({"spec": {}})), ["spec.controller: Required value"]);
    assert_eq!(found("networking.k8s.io", "IngressClass", class("ingress")).len(), 1);
    let moved = changed("networking.k8s.io", "IngressClass", class("a.io/b"), Some(class("a.io/c")));
    assert_eq!(moved, [r#"spec.controller: Invalid value: "a.io/b": field is immutable"#]);
}

#[test]
fn services() {
    for (spec, expected) in [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]}), "spec.ports[1].name: Required value"),
        (
            json!({"type": "Magic", "ports": [{"port": 80}]}),
            r#"spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            r#"spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#,
        ),
    ] {
        let found = found("", "Service", json!({"spec": spec}));
        assert_eq!(found.first().map(String::as_str), Some(expected), "{found:?}");
    }
    let at = |ip: &str| json!({"spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    assert_eq!(
        changed("", "Service", at("10.96.0.2"), Some(at("10.96.0.1"))),
        [r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set"#]
    );
}

#[test]
fn data_and_bindings() {
    assert!(
        found("", "ConfigMap", json!({"data": {"a b": "c"}}))[0]
            .starts_with(r#"data[a b]: Invalid value: "a b": a valid config key"#)
    );
    let frozen = json!({"immutable": true, "data": {"a": "b"}});
    assert_eq!(
        changed("", "ConfigMap", json!({"immutable": true, "data": {"a": "c"}}), Some(frozen)),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        found("", "Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
        ["data[tls.key]: Required value"]
    );
    let role = |name: &str| json!({"roleRef": {"kind": "Role", "name": name}});
    assert_eq!(
        changed("rbac.authorization.k8s.io", "RoleBinding", role("a"), Some(role("b"))).len(),
        1,
        "a binding keeps its role"
    );
    let hooks = json!({"webhooks": [{"name": "a.b", "clientConfig": {}}]});
    let found_hooks = found("admissionregistration.k8s.io", "MutatingWebhookConfiguration", hooks);
    assert_eq!(found_hooks.len(), 4, "{found_hooks:?}");
    assert!(found_hooks[0].ends_with("should be a domain with at least three segments separated by dots"));
    let definition = json!({"metadata": {"name": "wrong"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets"}, "versions": [{"name": "v1", "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    assert_eq!(
        found("apiextensions.k8s.io", "CustomResourceDefinition", definition),
        [r#"metadata.name: Invalid value: "wrong": must be spec.names.plural+"."+spec.group"#]
    );
}

#[test]
fn unknown_fields_are_found_and_pruned() {
    let deployments = kind("apps", "Deployment");
    let mut object = deployment(
        json!({"replica": 1, "paused": null, "template": {"spec": {"containers": [{"name": "a", "img": "i"}]}}}),
    );
    object["metadata"] = json!({"name": "x", "labels": {"any": "thing"}, "annotation": {}});
    assert_eq!(
        unknown_fields(deployments, &object),
        [
            r#"unknown field "metadata.annotation""#,
            r#"unknown field "spec.replica""#,
            r#"unknown field "spec.template.spec.containers[0].img""#
        ]
    );
    prune(deployments, &mut object);
    assert!(unknown_fields(deployments, &object).is_empty());
    assert_eq!(object["metadata"], json!({"name": "x", "labels": {"any": "thing"}}));
    assert!(object["spec"].get("paused").is_none());
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["name"], "a");
}

#[test]
fn values_of_the_wrong_type() {
    let wrong = |group: &str, name: &str, object: Value| types(kind(group, name), &object).expect_err("does not fit");
    assert_eq!(
        wrong("apps", "Deployment", json!({"spec": {"replicas": "three"}})),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    assert_eq!(
        wrong("", "Pod", json!({"spec": {"containers": {}}})),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        wrong("", "ConfigMap", json!({"data": {"a": 1}})),
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
    );
    assert_eq!(wrong("", "Secret", json!({"data": {"a": "x y"}})), "illegal base64 data at input byte 1");
    assert!(types(kind("", "Secret"), &json!({"data": {"a": "eA==\n"}})).is_ok());
    assert!(
        types(kind("", "Service"), &json!({"spec": {"ports": [{"targetPort": "web"}, {"targetPort": 3}]}})).is_ok()
    );
    assert!(types(kind("", "Pod"), &json!({"metadata": {"creationTimestamp": null}})).is_ok());
    assert!(
        wrong("", "Pod", json!({"metadata": {"creationTimestamp": "today"}})).starts_with("parsing time \"today\"")
    );
}

#[test]
fn malformed_objects_do_not_panic() {
    for kind in BUILTIN.iter() {
        for object in [json!(null), json!([]), json!({"spec": 1, "metadata": "x", "webhooks": [1], "rules": {}})] {
            let _ = super::object(kind, &object, Some(&object));
            let _ = unknown_fields(kind, &object);
            let _ = types(kind, &object);
            prune(kind, &mut object.clone());
        }
    }
}
