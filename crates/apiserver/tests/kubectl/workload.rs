//! `kubectl scale`, `rollout` and `wait`, with the test in the part of the controllers.

use serde_json::json;

use crate::Test;
use crate::bench::Bench;

pub(crate) const TESTS: &[Test] = &[
    ("workload::scales", scales),
    ("workload::rolls_out", rolls_out),
    ("workload::waits", waits),
    ("workload::exposes_and_runs", exposes_and_runs),
    ("workload::cordons_and_evicts", cordons_and_evicts),
];

fn scales() {
    let bench = Bench::start();
    bench.kubectl("create deployment d --image=i");
    assert_eq!(bench.kubectl("scale deployment d --replicas=5"), "deployment.apps/d scaled\n");
    assert_eq!(bench.object("deployment d")["spec"]["replicas"], 5);
    let wrong = bench.refused("scale deployment d --current-replicas=2 --replicas=3", "");
    assert!(wrong.contains("Expected replicas to be 2, was 5"), "{wrong}");
    bench.kubectl("scale --replicas=0 deployment/d");
    let table = bench.kubectl("get deployment d --no-headers");
    assert!(table.contains("0/0"), "{table}");
    let scale = bench.kubectl("get --raw /apis/apps/v1/namespaces/default/deployments/d/scale");
    let scale: serde_json::Value = serde_json::from_str(&scale).expect("JSON");
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(0)), "{scale}");
    assert_eq!(scale["status"]["selector"], "app=d");
}

/// Says that all replicas of the newest template are available.
fn finish(bench: &Bench) {
    let object = bench.object("deployment d");
    let (replicas, generation) = (object["spec"]["replicas"].clone(), object["metadata"]["generation"].clone());
    let status = json!({
        "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas,
        "conditions": [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
    });
    bench.set_status("deployment/d", &status);
}

fn rolls_out() {
    let bench = Bench::start();
    bench.kubectl("create deployment d --image=i --replicas=2");
    let status = bench.spawn("rollout status deployment/d --timeout=50s");
    status.line_with("Waiting for deployment");
    finish(&bench);
    assert_eq!(status.line_with("successfully"), "deployment \"d\" successfully rolled out");
    assert_eq!(status.end(), Some(0));
    assert_eq!(bench.kubectl("rollout restart deployment/d"), "deployment.apps/d restarted\n");
    let object = bench.object("deployment d");
    let annotations = &object["spec"]["template"]["metadata"]["annotations"];
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string(), "{object}");
    assert_eq!(object["metadata"]["generation"], 2);
    assert_eq!(bench.kubectl("rollout pause deployment/d"), "deployment.apps/d paused\n");
    assert_eq!(bench.kubectl("rollout resume deployment/d"), "deployment.apps/d resumed\n");
    let history = bench.kubectl("rollout history deployment/d");
    assert!(history.contains("deployment.apps/d"), "{history}");
}

fn waits() {
    let bench = Bench::start();
    bench.kubectl("create deployment d --image=i");
    let wait = bench.spawn("wait deployment/d --for=condition=Available --timeout=50s -v=6");
    wait.watches();
    finish(&bench);
    wait.line_with("deployment.apps/d condition met");
    let value = bench.kubectl("wait deployment/d --for=jsonpath={.status.replicas}=1 --timeout=20s");
    assert_eq!(value, "deployment.apps/d condition met\n");
    let late = bench.refused("wait deployment/d --for=condition=Progressing=False --timeout=1s", "");
    assert!(late.contains("timed out waiting for the condition on deployments/d"), "{late}");
    let gone = bench.spawn("wait deployment/d --for=delete --timeout=50s -v=6");
    gone.watches();
    bench.kubectl("delete deployment d");
    assert_eq!(gone.end(), Some(0));
}

fn exposes_and_runs() {
    let bench = Bench::with_account();
    bench.kubectl("create deployment d --image=i --port=8080");
    assert_eq!(bench.kubectl("expose deployment d --port=80 --target-port=8080"), "service/d exposed\n");
    let service = bench.object("service d");
    assert_eq!(
        (&service["spec"]["selector"], &service["spec"]["ports"][0]["targetPort"]),
        (&json!({"app": "d"}), &json!(8080))
    );
    assert_eq!(bench.kubectl("run once --image=i --restart=Never -- sh -c true"), "pod/once created\n");
    assert_eq!(bench.object("pod once")["spec"]["restartPolicy"], "Never");
    assert_eq!(bench.kubectl("create service loadbalancer lb --tcp=80:80"), "service/lb created\n");
    assert!(bench.kubectl("get service lb").contains("<pending>"));
    bench.set_status("service/lb", &json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}));
    assert!(bench.kubectl("get service lb").contains("203.0.113.10"));
}

fn cordons_and_evicts() {
    let bench = Bench::with_account();
    bench.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {}\n");
    bench.set_status(
        "node/n1",
        &json!({"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.33.0"}}),
    );
    assert_eq!(bench.kubectl("cordon n1"), "node/n1 cordoned\n");
    assert!(bench.kubectl("get nodes").contains("Ready,SchedulingDisabled"));
    bench.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {nodeName: n1, terminationGracePeriodSeconds: 0, containers: [{name: a, image: i}]}\n");
    let drained = bench.run(&["drain", "n1", "--force", "--timeout=20s"], "", &[]);
    assert!(
        drained.stdout.contains("evicting pod default/web") || drained.stderr.contains("evicting pod default/web"),
        "{drained:?}"
    );
    assert_eq!(bench.kubectl("uncordon n1"), "node/n1 uncordoned\n");
}
