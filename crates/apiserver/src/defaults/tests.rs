use serde_json::json;

use super::*;
use crate::kinds::{BUILTIN, by_kind};

fn defaulted(group: &str, kind: &str, mut object: Value) -> Value {
    let version = if group == "autoscaling" { "v2" } else { "v1" };
    let kind = by_kind(group, version, kind).expect("a built-in kind");
    object["kind"] = json!(kind.kind);
    apply(kind, &mut object);
    let mut again = object.clone();
    apply(kind, &mut again);
    assert_eq!(again, object, "defaults are not stable");
    object
}

#[test]
fn pods() {
    let object = defaulted(
        "",
        "Pod",
        json!({
            "spec": {
                "serviceAccountName": "web",
                "containers": [{
                    "name": "a", "image": "example.com:5000/web",
                    "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 2, "timeoutSeconds": 0},
                    "resources": {"limits": {"cpu": "1"}},
                }, {"name": "b", "image": "web:1.2"}],
                "volumes": [
                    {"name": "none"}, {"name": "s", "secret": {"secretName": "x"}},
                    {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                ],
            },
        }),
    );
    let spec = &object["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["serviceAccount"], "web");
    let first = &spec["containers"][0];
    assert_eq!(first["imagePullPolicy"], "Always");
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(first["ports"][0]["protocol"], "TCP");
    assert_eq!(first["env"][0], json!({"name": "A", "value": "b"}));
    assert_eq!(first["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(
        first["readinessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 2, "timeoutSeconds": 1,
            "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(first["resources"]["requests"]["cpu"], "1");
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][2]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
}

#[test]
fn given_values_are_kept() {
    let given = json!({
        "replicas": 0, "revisionHistoryLimit": 2, "progressDeadlineSeconds": 60, "strategy": {"type": "Recreate"},
    });
    let object = defaulted("apps", "Deployment", json!({"spec": given}));
    for (field, value) in given.as_object().expect("an object") {
        assert_eq!(&object["spec"][field], value);
    }
}

#[test]
fn deployments_have_a_rolling_update() {
    let object =
        defaulted("apps", "Deployment", json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}));
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(object["spec"]["strategy"]["rollingUpdate"], json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
    assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(object["spec"]["template"]["spec"]["enableServiceLinks"], Value::Null);
    assert_eq!(object["status"], json!({}));
}

#[test]
fn services_by_type() {
    let plain = defaulted("", "Service", json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}));
    let spec = &plain["spec"];
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    assert_eq!(spec["ports"][1]["targetPort"], "web");
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["externalTrafficPolicy"], Value::Null);
    let balanced = defaulted("", "Service", json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9"}}));
    assert_eq!(balanced["spec"]["externalTrafficPolicy"], "Cluster");
    let alias = defaulted("", "Service", json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}));
    assert_eq!(alias["spec"]["internalTrafficPolicy"], Value::Null);
}

#[test]
fn string_data_is_merged_into_data() {
    let object = defaulted("", "Secret", json!({"stringData": {"a": "hello"}, "data": {"a": "eA==", "b": "eA=="}}));
    assert_eq!(object["type"], "Opaque");
    assert_eq!(object["data"], json!({"a": "aGVsbG8=", "b": "eA=="}));
    assert_eq!(object["stringData"], Value::Null);
}

#[test]
fn webhooks_and_definitions() {
    let hooks = json!({"webhooks": [{"clientConfig": {"service": {"name": "a"}}, "rules": [{"resources": ["pods"]}]}]});
    let object = defaulted("admissionregistration.k8s.io", "MutatingWebhookConfiguration", hooks);
    let hook = &object["webhooks"][0];
    assert_eq!(hook["failurePolicy"], "Fail");
    assert_eq!(hook["reinvocationPolicy"], "Never");
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    assert_eq!(hook["rules"][0]["scope"], "*");
    let definition = json!({"spec": {"names": {"kind": "ServiceExport", "plural": "serviceexports"}}});
    let object = defaulted("apiextensions.k8s.io", "CustomResourceDefinition", definition);
    assert_eq!(object["spec"]["names"]["singular"], "serviceexport");
    assert_eq!(object["spec"]["names"]["listKind"], "ServiceExportList");
    assert_eq!(object["spec"]["conversion"]["strategy"], "None");
}

#[test]
fn namespaces_have_a_name_label() {
    let object = defaulted("", "Namespace", json!({"metadata": {"name": "shop"}}));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    assert_eq!(object["status"]["phase"], "Active");
}

#[test]
fn malformed_objects_are_left_for_validation() {
    for kind in BUILTIN.iter() {
        for mut object in [json!(null), json!([]), json!({"spec": 1, "status": "x", "metadata": [], "webhooks": {}})] {
            apply(kind, &mut object);
        }
        let mut odd = json!({"spec": {"template": {"spec": {"containers": [1, {"ports": [2]}], "volumes": ["a"]}}, "ports": ["b"],
            "containers": [{"env": ["x", 1], "readinessProbe": []}], "initContainers": {"a": 1}}});
        apply(kind, &mut odd);
    }
}
