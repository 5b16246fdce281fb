//! Stock `kubectl` in a running lab: everyday commands, with the lab's controllers and node agent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, Outcome, User, eventually, kubectl_is_installed};

mod top;
mod workloads;

const SOON: Duration = Duration::from_secs(20);
const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: isthmus/testapp
        env: [{name: VERSION, value: v1}]
        ports: [{containerPort: 9080, name: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
";
const CLOCK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: clock}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: clock
    image: host
    command: [sh, -c, 'i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done']
";

/// kubectl with a cluster's kubeconfig, in a namespace of its own.
struct Kubectl<'a> {
    lab: &'a Lab,
    kubeconfig: String,
}

impl<'a> Kubectl<'a> {
    fn of(lab: &'a Lab) -> Self {
        let kubeconfig = lab.isthmus(&["lab", "kubeconfig", "west"]).ok().trim().to_owned();
        Self { lab, kubeconfig }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = self.lab.directory.program("kubectl".as_ref());
        command.args(["--kubeconfig", &self.kubeconfig, "--namespace", "shop"]).args(arguments.split_whitespace());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        println!("$ kubectl {arguments}");
        Outcome::from(self.command(arguments).output().expect("kubectl")).ok()
    }

    /// Runs a command that must be refused, and returns its output.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        println!("$ kubectl {arguments}");
        let outcome = Outcome::from(self.command(arguments).output().expect("kubectl"));
        assert_ne!(outcome.code, Some(0), "kubectl {arguments} was to fail\n{outcome:?}");
        outcome.stdout + &outcome.stderr
    }

    /// Runs a command with text as its standard input.
    #[track_caller]
    fn fed(&self, arguments: &str, input: &str) -> String {
        println!("$ kubectl {arguments} <<");
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        Outcome::from(child.wait_with_output().expect("kubectl")).ok()
    }

    fn object(&self, what: &str) -> Value {
        let text = self.run(&format!("get {what} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn rolled_out(&self) {
        let text = self.run("rollout status deployment/web --timeout=60s");
        assert!(text.contains("successfully rolled out"), "{text}");
    }

    /// Starts a kubectl that runs until it is dropped.
    fn start(&self, arguments: &str) -> Running {
        println!("$ kubectl {arguments} &");
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Running { child, lines }
    }
}

/// A kubectl that runs until it is dropped, and the lines that it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Returns the next line that contains `part`.
    #[track_caller]
    fn line_with(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line contains {part:?}: {error}; the lines are:\n{}", seen.join("\n")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn stock_kubectl_works() {
    kubectl_is_installed();
    for user in User::all() {
        kubectl_works_for(user);
    }
}

fn kubectl_works_for(user: User) {
    let lab = Lab::up("primary-remote.yaml", user);
    let kubectl = Kubectl::of(&lab);
    applies(&kubectl);
    gets(&kubectl);
    describes(&kubectl);
    edits_and_patches(&kubectl);
    labels_scales_and_waits(&kubectl);
    rolls_out(&kubectl);
    reads_logs(&kubectl);
    runs_programs(&kubectl);
    forwards_ports(&kubectl);
    top::shows_usage(&kubectl);
    checks_permissions(&kubectl);
    deletes(&kubectl);
    drop(kubectl);
    lab.down();
}

/// Checks the commands of kubectl that reach into pods.
pub(crate) fn check_streams(lab: &Lab) {
    let kubectl = Kubectl::of(lab);
    applies(&kubectl);
    reads_logs(&kubectl);
    runs_programs(&kubectl);
    forwards_ports(&kubectl);
}

fn file(kubectl: &Kubectl<'_>, name: &str, content: &str) -> String {
    let path: PathBuf = kubectl.lab.directory.path(name);
    std::fs::write(&path, content).expect("written");
    path.display().to_string()
}

fn applies(kubectl: &Kubectl<'_>) {
    kubectl.run("create namespace shop");
    let web = file(kubectl, "web.yaml", WEB);
    has(&kubectl.run(&format!("apply -f {web}")), &["deployment.apps/web created", "service/web created"]);
    kubectl.rolled_out();
    let again = kubectl.run(&format!("apply -f {web}"));
    has(&again, &["deployment.apps/web unchanged", "service/web unchanged"]);
    let changed = file(kubectl, "web-changed.yaml", &WEB.replace("value: v1", "value: v2"));
    has(&kubectl.run(&format!("diff -f {web}")), &[]);
    has(&kubectl.refused(&format!("diff -f {changed}")), &["+          value: v2"]);
    has(&kubectl.run(&format!("apply -f {changed}")), &["deployment.apps/web configured", "service/web unchanged"]);
    kubectl.rolled_out();

    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n";
    let settings_file = file(kubectl, "settings.yaml", settings);
    let applied = kubectl.run(&format!("apply --server-side -f {settings_file}"));
    has(&applied, &["configmap/settings serverside-applied"]);
    file(kubectl, "settings.yaml", &settings.replace("blue", "red"));
    let conflict = kubectl.refused(&format!("apply --server-side --field-manager=other -f {settings_file}"));
    has(&conflict, &["conflict with \"kubectl\"", ".data.colour", "--force-conflicts"]);
    kubectl.run(&format!("apply --server-side --field-manager=other --force-conflicts -f {settings_file}"));
    assert_eq!(kubectl.object("configmap settings")["data"]["colour"], "red");
}

fn gets(kubectl: &Kubectl<'_>) {
    let table = kubectl.run("get deployments,services");
    has(&table, &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "2/2", "CLUSTER-IP", "80/TCP"]);
    let wide = kubectl.run("get pods -o wide -l app=web");
    has(&wide, &["NODE", "west-us-west-1", "10.244.", "Running"]);
    let nodes = kubectl.run("get nodes -L topology.kubernetes.io/zone");
    has(&nodes, &["ZONE", "us-west-1a", "us-west-1b", "Ready"]);
    has(&kubectl.run("get service web -o yaml"), &["kind: Service", "targetPort: http", "clusterIP: 10.96."]);
    assert_eq!(kubectl.run("get pods -l app=other"), "");
    let running = kubectl.run("get pods --field-selector=status.phase=Running -o name");
    assert_eq!(running.lines().filter(|line| line.starts_with("pod/web-")).count(), 2, "{running}");
    has(&kubectl.run("get deployment web --subresource=scale"), &["DESIRED", "AVAILABLE"]);
    has(&kubectl.run("get events --field-selector=reason=ScalingReplicaSet"), &["Scaled up replica set web-"]);
    // At this verbosity kubectl prints its requests; the second one is the watch.
    let watch = kubectl.start("get pods -w -l run=seen -v=6");
    watch.line_with("watch=true");
    kubectl.run("run seen --image=isthmus/testapp --labels=run=seen");
    watch.line_with("Pending");
    watch.line_with("1/1");
    kubectl.run("delete pod seen --grace-period=1");
    watch.line_with("Terminating");
}

fn describes(kubectl: &Kubectl<'_>) {
    let pods = kubectl.run("describe pods -l app=web");
    has(&pods, &["Controlled By:  ReplicaSet/web-", "State:          Running", "VERSION:", "Scheduled", "Started"]);
    let deployment = kubectl.run("describe deployment web");
    has(&deployment, &["2 desired | 2 updated | 2 total | 2 available", "NewReplicaSet:", "ScalingReplicaSet"]);
    let service = kubectl.run("describe service web");
    has(&service, &["TargetPort:", "Endpoints:", ":9080"]);
    let node = kubectl.run("describe node west-us-west-1a");
    has(&node, &["topology.kubernetes.io/region=us-west", "KubeletReady", "Non-terminated Pods:", "HolderIdentity:"]);
}

fn edits_and_patches(kubectl: &Kubectl<'_>) {
    let editor = file(kubectl, "editor", "#!/bin/sh\nsed -i 's/replicas: 2/replicas: 3/' \"$1\"\n");
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let edited = kubectl.command("edit deployment web").env("KUBE_EDITOR", &editor).output().expect("kubectl");
    has(&Outcome::from(edited).ok(), &["deployment.apps/web edited"]);
    kubectl.rolled_out();
    assert_eq!(kubectl.object("deployment web")["status"]["readyReplicas"], 3);

    let patch = |kind: &str, patch: &str| {
        let mut command = kubectl.command("patch deployment web");
        command.args(["--type", kind, "-p", patch]);
        has(&Outcome::from(command.output().expect("kubectl")).ok(), &["deployment.apps/web patched"]);
    };
    let container =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"SERVICE","value":"web"}]}]}}}}"#;
    patch("strategic", container);
    patch("merge", r#"{"spec":{"replicas":2}}"#);
    patch("json", r#"[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"v3"}]"#);
    let deployment = kubectl.object("deployment web");
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().map(Vec::len), Some(2), "a strategic merge patch keeps what it does not name: {env}");
    assert_eq!(deployment["spec"]["replicas"], 2);
    has(&env.to_string(), &["\"v3\""]);
    kubectl.rolled_out();
}

fn labels_scales_and_waits(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("label service web tier=launcher"), &["service/web labeled"]);
    has(&kubectl.refused("label service web tier=back"), &["--overwrite"]);
    kubectl.run("label service web tier=back --overwrite");
    has(&kubectl.run("get services -l tier=back -o name"), &["service/web"]);
    has(&kubectl.run("annotate service web note=hello"), &["service/web annotated"]);
    assert_eq!(kubectl.object("service web")["metadata"]["annotations"]["note"], "hello");
    kubectl.run("annotate service web note-");

    has(&kubectl.run("scale deployment/web --replicas=3"), &["deployment.apps/web scaled"]);
    kubectl.run("wait deployment/web --for=jsonpath={.status.availableReplicas}=3 --timeout=30s");
    has(&kubectl.run("wait deployment/web --for=condition=Available --timeout=30s"), &["condition met"]);
    kubectl.run("wait pod -l app=web --for=condition=Ready --timeout=30s");
    kubectl.run("scale deployment/web --replicas=2");
    eventually(SOON, || {
        let endpoints = kubectl.object("endpointslices -l kubernetes.io/service-name=web");
        let count = endpoints["items"][0]["endpoints"].as_array().map(Vec::len);
        if count == Some(2) { Ok(()) } else { Err(endpoints.to_string()) }
    })
    .expect("the slice follows the pods");
}

fn rolls_out(kubectl: &Kubectl<'_>) {
    let version = || {
        let deployment = kubectl.object("deployment web");
        deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().map(str::to_owned)
    };
    let before = version().expect("a revision");
    has(&kubectl.run("rollout restart deployment/web"), &["deployment.apps/web restarted"]);
    kubectl.rolled_out();
    assert_ne!(version().as_ref(), Some(&before), "a restart is a revision");
    kubectl.run("set env deployment/web VERSION=broken");
    kubectl.rolled_out();
    let history = kubectl.run("rollout history deployment/web");
    has(&history, &["REVISION", "CHANGE-CAUSE", &before]);
    has(&kubectl.run(&format!("rollout history deployment/web --revision={before}")), &["Pod Template:", "v3"]);
    has(&kubectl.run("rollout undo deployment/web"), &["rolled back"]);
    kubectl.rolled_out();
    let env = &kubectl.object("deployment web")["spec"]["template"]["spec"]["containers"][0]["env"];
    assert!(!env.to_string().contains("broken"), "{env}");
    has(&kubectl.run(&format!("rollout undo deployment/web --to-revision={before}")), &["rolled back"]);
    kubectl.rolled_out();
    has(&kubectl.run("get replicasets -l app=web"), &["DESIRED"]);
}

fn reads_logs(kubectl: &Kubectl<'_>) {
    has(&kubectl.run("logs deployment/web"), &["listens on"]);
    let clock = file(kubectl, "clock.yaml", CLOCK);
    kubectl.run(&format!("apply -f {clock}"));
    kubectl.run("wait pod/clock --for=condition=Ready --timeout=30s");
    let follow = kubectl.start("logs -f clock");
    has(&follow.line_with("tick"), &["tick 0"]);
    follow.line_with("tick 12");
    drop(follow);
    assert_eq!(kubectl.run("logs clock --tail=2").lines().count(), 2);
    let stamped = kubectl.run("logs clock --tail=1 --timestamps");
    assert!(stamped.starts_with("20") && stamped.contains("Z tick"), "{stamped}");
    has(&kubectl.refused("logs clock -c missing"), &["container missing is not valid for pod clock"]);
    has(&kubectl.refused("logs missing"), &["pods \"missing\" not found"]);
}

fn runs_programs(kubectl: &Kubectl<'_>) {
    let mut command = kubectl.command("exec deployment/web --");
    let outcome = command.args(["sh", "-c", "echo out; echo err >&2; exit 7"]).output().expect("kubectl");
    let outcome = Outcome::from(outcome);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(7), "out\n"), "{}", outcome.stderr);
    has(&outcome.stderr, &["err\n", "exit code 7"]);
    let large = "0123456789abcdef\n".repeat(20_000);
    assert!(kubectl.fed("exec -i deployment/web -- cat", &large) == large, "what went in did not come out");
    has(&kubectl.run("exec clock -- hostname"), &["clock"]);
    has(&kubectl.refused("exec clock -- no-such-program"), &["no-such-program"]);
}

fn forwards_ports(kubectl: &Kubectl<'_>) {
    let forward = kubectl.start("port-forward service/web :80");
    let line = forward.line_with("Forwarding from 127.0.0.1:");
    let port = line.split(':').nth(1).and_then(|rest| rest.split(' ').next()).and_then(|port| port.parse::<u16>().ok());
    let port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
    for path in ["/", "/status/404"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the forwarded port");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let code = if path == "/" { "200" } else { "404" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
}

fn checks_permissions(kubectl: &Kubectl<'_>) {
    let token = kubectl.run("create token default --duration=10m");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let config = kubectl.run("config view --raw -o json");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    let cluster = &config["clusters"][0];
    let with_token = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster["cluster"]}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let path = file(kubectl, "token.kubeconfig", &with_token.to_string());
    let as_token = Kubectl { lab: kubectl.lab, kubeconfig: path };
    has(&as_token.run("auth whoami"), &["system:serviceaccount:shop:default"]);
    has(&as_token.refused("get pods"), &["Forbidden", "system:serviceaccount:shop:default"]);

    let reader = "--as=system:serviceaccount:isthmus-system:isthmus-reader";
    for resource in ["services", "pods", "endpointslices.discovery.k8s.io", "nodes"] {
        assert_eq!(kubectl.run(&format!("auth can-i get {resource} -A {reader}")).trim(), "yes", "{resource}");
    }
    for refused in ["get secrets", "create pods", "delete services", "create serviceaccounts/token", "patch nodes"] {
        let answer = kubectl.refused(&format!("auth can-i {refused} {reader}"));
        assert!(answer.lines().any(|line| line == "no"), "{refused}: {answer}");
    }
    has(&kubectl.refused(&format!("get secrets -n istio-system {reader}")), &["Forbidden"]);
}

fn deletes(kubectl: &Kubectl<'_>) {
    let web = kubectl.lab.directory.path("web.yaml").display().to_string();
    let deleted = kubectl.run(&format!("delete -f {web}"));
    has(&deleted, &["deployment.apps \"web\" deleted", "service \"web\" deleted"]);
    kubectl.run("wait pod -l app=web --for=delete --timeout=30s");
    assert_eq!(kubectl.run("get replicasets,endpointslices"), "", "what they owned goes with them");
    kubectl.run("delete namespace shop --timeout=60s");
    has(&kubectl.refused("get namespace shop"), &["not found"]);
    assert_eq!(kubectl.run("get pods"), "");
}
