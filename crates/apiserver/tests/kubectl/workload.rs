//! `kubectl scale`, `rollout` and `wait`, with the test as the controller.

use serde_json::json;

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("workload::scales", scales),
    ("workload::rolls_out", rolls_out),
    ("workload::waits", waits),
    ("workload::exposes_and_runs", exposes_and_runs),
    ("workload::cordons_and_evicts", cordons_and_evicts),
];

fn scales() {
    let server = TestServer::start();
    server.kubectl("create deployment d --image=i");
    assert_eq!(server.kubectl("scale deployment d --replicas=5"), "deployment.apps/d scaled\n");
    assert_eq!(server.object("deployment d")["spec"]["replicas"], 5);
    let wrong = server.refused("scale deployment d --current-replicas=2 --replicas=3", "");
    assert!(wrong.contains("Expected replicas to be 2, was 5"), "{wrong}");
    server.kubectl("scale --replicas=0 deployment/d");
    let table = server.kubectl("get deployment d --no-headers");
    assert!(table.contains("0/0"), "{table}");
    let scale = server.kubectl("get --raw /apis/apps/v1/namespaces/default/deployments/d/scale");
    let scale: serde_json::Value = serde_json::from_str(&scale).expect("JSON");
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(0)), "{scale}");
    assert_eq!(scale["status"]["selector"], "app=d");
}

/// Sets the status of a complete rollout.
fn finish(server: &TestServer) {
    let object = server.object("deployment d");
    let (replicas, generation) = (object["spec"]["replicas"].clone(), object["metadata"]["generation"].clone());
    let status = json!({
        "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas,
        "conditions": [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
    });
    server.set_status("deployment/d", &status);
}

fn rolls_out() {
    let server = TestServer::start();
    server.kubectl("create deployment d --image=i --replicas=2");
    let status = server.spawn("rollout status deployment/d --timeout=50s");
    status.line_with("Waiting for deployment");
    finish(&server);
    assert_eq!(status.line_with("successfully"), "deployment \"d\" successfully rolled out");
    assert_eq!(status.end(), Some(0));
    assert_eq!(server.kubectl("rollout restart deployment/d"), "deployment.apps/d restarted\n");
    let object = server.object("deployment d");
    let annotations = &object["spec"]["template"]["metadata"]["annotations"];
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string(), "{object}");
    assert_eq!(object["metadata"]["generation"], 2);
    assert_eq!(server.kubectl("rollout pause deployment/d"), "deployment.apps/d paused\n");
    assert_eq!(server.kubectl("rollout resume deployment/d"), "deployment.apps/d resumed\n");
    let history = server.kubectl("rollout history deployment/d");
    assert!(history.contains("deployment.apps/d"), "{history}");
}

fn waits() {
    let server = TestServer::start();
    server.kubectl("create deployment d --image=i");
    let wait = server.spawn("wait deployment/d --for=condition=Available --timeout=50s -v=6");
    wait.watches();
    finish(&server);
    wait.line_with("deployment.apps/d condition met");
    let value = server.kubectl("wait deployment/d --for=jsonpath={.status.replicas}=1 --timeout=20s");
    assert_eq!(value, "deployment.apps/d condition met\n");
    let late = server.refused("wait deployment/d --for=condition=Progressing=False --timeout=1s", "");
    assert!(late.contains("timed out waiting for the condition on deployments/d"), "{late}");
    let gone = server.spawn("wait deployment/d --for=delete --timeout=50s -v=6");
    gone.watches();
    server.kubectl("delete deployment d");
    assert_eq!(gone.end(), Some(0));
}

fn exposes_and_runs() {
    let server = TestServer::with_account();
    server.kubectl("create deployment d --image=i --port=8080");
    assert_eq!(server.kubectl("expose deployment d --port=80 --target-port=8080"), "service/d exposed\n");
    let service = server.object("service d");
    assert_eq!(
        (&service["spec"]["selector"], &service["spec"]["ports"][0]["targetPort"]),
        (&json!({"app": "d"}), &json!(8080))
    );
    assert_eq!(server.kubectl("run once --image=i --restart=Never -- sh -c true"), "pod/once created\n");
    assert_eq!(server.object("pod once")["spec"]["restartPolicy"], "Never");
    assert_eq!(server.kubectl("create service loadbalancer lb --tcp=80:80"), "service/lb created\n");
    assert!(server.kubectl("get service lb").contains("<pending>"));
    server.set_status("service/lb", &json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}));
    assert!(server.kubectl("get service lb").contains("203.0.113.10"));
}

fn cordons_and_evicts() {
    let server = TestServer::with_account();
    server.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {}\n");
    server.set_status(
        "node/n1",
        &json!({"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.33.0"}}),
    );
    assert_eq!(server.kubectl("cordon n1"), "node/n1 cordoned\n");
    assert!(server.kubectl("get nodes").contains("Ready,SchedulingDisabled"));
    server.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {nodeName: n1, terminationGracePeriodSeconds: 0, containers: [{name: a, image: i}]}\n");
    let drained = server.run(&["drain", "n1", "--force", "--timeout=20s"], "", &[]);
    assert!(
        drained.stdout.contains("evicting pod default/web") || drained.stderr.contains("evicting pod default/web"),
        "{drained:?}"
    );
    assert_eq!(server.kubectl("uncordon n1"), "node/n1 uncordoned\n");
}
