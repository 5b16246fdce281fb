//! StatefulSets, DaemonSets, Jobs and CronJobs, as `kubectl` shows them.

use super::*;

const JOBS: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: count}
spec:
  completions: 2
  completionMode: Indexed
  template:
    metadata:
      labels: {sidecar.istio.io/inject: 'true'}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: before, image: host, command: [getent, hosts, reviews.default]}
      containers:
      - name: main
        image: host
        command: [sh, -c, 'curl -sf -o /dev/null http://reviews.default:9080/ && echo index $JOB_COMPLETION_INDEX on $(hostname)']
---
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: host, command: ['false']}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: '* * * * *'
  timeZone: Europe/Berlin
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: main, image: host, command: [echo, tick]}]
";

const PEERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: peer}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: peer}
spec:
  serviceName: peers
  replicas: 2
  selector: {matchLabels: {app: peer}}
  template:
    metadata: {labels: {app: peer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: isthmus/testapp, volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: isthmus/testapp}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: outside}
spec: {controller: example.com/ingress}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: elsewhere}
subsets: [{addresses: [{ip: 203.0.113.99}], ports: [{port: 80}]}]
";

#[test]
fn workloads_of_every_kind_run() {
    kubectl_is_installed();
    for user in User::of_long_checks() {
        let lab = Lab::up("primary-remote.yaml", user);
        let kubectl = Kubectl::of(&lab);
        kubectl.run("create namespace shop");
        let (jobs, peers) = (file(&kubectl, "jobs.yaml", JOBS), file(&kubectl, "peers.yaml", PEERS));
        has(&kubectl.run(&format!("apply -f {jobs}")), &["job.batch/count created", "cronjob.batch/tick created"]);
        kubectl.run(&format!("apply -f {peers}"));
        jobs_run_to_their_end(&kubectl);
        stateful_sets_have_stable_names(&kubectl);
        daemon_sets_run_on_each_node(&kubectl);
        endpoints_are_listed(&kubectl);
        cron_jobs_create_jobs(&kubectl);
        reports_what_has_no_effect(&kubectl);
        let reader = "run reader -i --rm --restart=Never --image=host --command -- cat";
        has(&kubectl.fed(reader, "read this\n"), &["read this"]);
        kubectl.run(&format!("delete -f {jobs} -f {peers} --timeout=60s"));
        eventually(SOON, || match kubectl.run("get pods -o name").as_str() {
            "" => Ok(()),
            pods => Err(pods.to_owned()),
        })
        .expect("no pods are left");
        drop(kubectl);
        lab.down();
    }
}

fn jobs_run_to_their_end(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("wait --for=condition=complete job/count --timeout=60s"), &["condition met"]);
    has(&kubectl.run("get job count"), &["COMPLETIONS", "Complete", "2/2"]);
    let output = kubectl.run("logs -l job-name=count -c main --tail=-1");
    has(&output, &["index 0 on count-0", "index 1 on count-1"]);
    let pods = kubectl.object("pods -l batch.kubernetes.io/job-name=count");
    for pod in pods["items"].as_array().expect("a list") {
        assert_eq!(pod["status"]["phase"], "Succeeded");
        has(&pod["spec"]["initContainers"].to_string(), &["isthmus-proxy"]);
    }
    has(&kubectl.run("describe job count"), &["Completed Indexes:", "0,1", "Job completed"]);
    has(&kubectl.run("wait --for=condition=failed job/broken --timeout=60s"), &["condition met"]);
    has(&kubectl.run("describe job broken"), &["BackoffLimitExceeded", "2 Failed"]);
}

fn stateful_sets_have_stable_names(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("rollout status statefulset/peer --timeout=60s"), &["roll out complete: 2 new pods"]);
    has(&kubectl.run("get statefulsets"), &["READY", "peer", "2/2"]);
    assert_eq!(kubectl.run("get pods -l app=peer -o name"), "pod/peer-0\npod/peer-1\n");
    assert_eq!(kubectl.run("exec peer-1 -- hostname").trim(), "peer-1");
    kubectl.run("exec peer-0 -- curl -sf -o /data/answer http://peer-1.peers:9080/");
    has(&kubectl.run("rollout restart statefulset/peer"), &["restarted"]);
    kubectl.run("rollout status statefulset/peer --timeout=60s");
    has(&kubectl.run("rollout history statefulset/peer"), &["REVISION", "1 ", "2 "]);
    has(&kubectl.run("rollout undo statefulset/peer"), &["rolled back"]);
    kubectl.run("rollout status statefulset/peer --timeout=60s");
    has(&kubectl.run("scale statefulset/peer --replicas=3"), &["scaled"]);
    kubectl.run("wait statefulset/peer --for=jsonpath={.status.readyReplicas}=3 --timeout=60s");
    kubectl.run("scale statefulset/peer --replicas=1");
    kubectl.run("wait pod/peer-1 --for=delete --timeout=60s");
}

fn daemon_sets_run_on_each_node(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("rollout status daemonset/agent --timeout=60s"), &["successfully rolled out"]);
    has(&kubectl.run("get daemonsets"), &["DESIRED", "UP-TO-DATE", "NODE SELECTOR"]);
    let pods = kubectl.run("get pods -l app=agent -o wide");
    has(&pods, &["west-us-west-1a", "west-us-west-1b"]);
    kubectl.run("rollout restart daemonset/agent");
    kubectl.run("rollout status daemonset/agent --timeout=60s");
    assert_eq!(kubectl.object("daemonset agent")["status"]["updatedNumberScheduled"], 2);
}

fn endpoints_are_listed(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("get endpoints peers"), &[":9080"]);
    let slices = kubectl.run("get endpointslices -l kubernetes.io/service-name=elsewhere");
    has(&slices, &["203.0.113.99"]);
    has(&kubectl.run("get ingressclasses"), &["CONTROLLER", "example.com/ingress"]);
}

fn cron_jobs_create_jobs(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("create job manual --from=cronjob/tick"), &["job.batch/manual created"]);
    kubectl.run("wait --for=condition=complete job/manual --timeout=60s");
    has(&kubectl.run("get cronjobs"), &["SCHEDULE", "LAST SCHEDULE", "tick", "* * * * *"]);
    let a_minute = Duration::from_secs(80);
    eventually(a_minute, || {
        let jobs = kubectl.run("get jobs");
        if jobs.contains("tick-") { Ok(()) } else { Err(jobs) }
    })
    .expect("the schedule is followed");
    kubectl.run("wait cronjob/tick --for=jsonpath={.status.lastSuccessfulTime} --timeout=60s");
    has(&kubectl.run("describe cronjob tick"), &["Created job tick-"]);
}

fn reports_what_has_no_effect(kubectl: &Kubectl<'_>) {
    kubectl.run("autoscale statefulset/peer --max=3");
    kubectl.run("debug peer-0 --image=host -- true");
    let expected = [
        "No effect in a lab: HorizontalPodAutoscaler objects",
        "No effect in a lab: spec.volumeClaimTemplates",
        "No effect in a lab: spec.timeZone",
        "No effect in a lab: spec.ephemeralContainers",
    ];
    eventually(SOON, || {
        let events = kubectl.run("get events --field-selector reason=NoEffectInLab");
        if expected.iter().all(|part| events.contains(part)) { Ok(()) } else { Err(events) }
    })
    .expect("Events report what has no effect");
    kubectl.run("delete hpa peer");
}
