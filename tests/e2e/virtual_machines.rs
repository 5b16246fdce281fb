//! Workloads that are no pods: a process with a sidecar that joins the mesh by the token of its service account.
//!
//! The machine is the network namespace of a pod that the mesh does not know: without injection, outside of every Service, and
//! without its account. Its sidecar starts with the files of `isthmus workload entry configure`, as on a machine.

use std::time::Duration;

use crate::support::{Lab, Outcome, TestDirectory, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(30);
const FRONTEND: &str = "west/default/frontend";
const PLAIN: &str = "west/default/plain";
const MACHINE: &str = "west/default/machine";

const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: machines}
spec:
  networks: [{name: net-west}]
  clusters: [{name: west, role: primary, network: net-west}]
  workloads:
    - {name: frontend, cluster: west}
    - {name: plain, cluster: west, inject: false}
    - {name: machine, cluster: west, inject: false}
";

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: vms}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: legacy, namespace: vms}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: legacy, namespace: vms}
spec:
  metadata: {labels: {app: legacy}}
  template: {serviceAccount: legacy}
  probe: {periodSeconds: 1, failureThreshold: 1, httpGet: {path: /, port: 9080}}
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: vms}
spec: {selector: {app: legacy}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

const DENIED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: legacy, namespace: vms}
spec: {selector: {matchLabels: {app: legacy}}, action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}
";

/// The sidecar of the machine, which runs in the background of the machine's namespaces.
struct Sidecar {
    pid: String,
}

impl Sidecar {
    fn start(lab: &Lab, files: &str) -> Self {
        let program = program(lab);
        // Without the environment of the pod, whose namespaces stand for the machine's.
        let command = format!("env -i PATH=\"$PATH\" {program} sidecar --from {files} >>{files}/log 2>&1 & echo $!");
        let pid = lab.exec(MACHINE, &["sh", "-c", &command]).ok().trim().to_owned();
        Sidecar { pid }
    }

    fn stop(self, lab: &Lab) {
        lab.exec(MACHINE, &["kill", "-9", &self.pid]).ok();
    }
}

fn program(lab: &Lab) -> String {
    lab.directory.path("isthmus").display().to_string()
}

fn request(lab: &Lab, from: &str, url: &str) -> Outcome {
    lab.exec(from, &["curl", "-s", "--max-time", "5", "-w", "\n%{http_code}", url])
}

/// Requests a URL until the answer has a status.
#[track_caller]
fn answers(lab: &Lab, from: &str, url: &str, status: &str) -> String {
    let answer = eventually(SOON, || {
        let answer = request(lab, from, url);
        if answer.stdout.ends_with(&format!("\n{status}")) { Ok(answer.stdout) } else { Err(answer) }
    });
    answer.unwrap_or_else(|answer| panic!("{url} from {from} does not answer {status}: {answer:?}"))
}

fn entries(lab: &Lab) -> String {
    let query = ["-n", "vms", "get", "workloadentries", "-o", "jsonpath={.items[*].metadata.name}"];
    lab.kubectl("west", &query).ok().trim().to_owned()
}

#[test]
fn a_process_outside_kubernetes_is_a_workload_of_the_mesh_while_its_proxy_is_connected() {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("machines.yaml"), TOPOLOGY).expect("written");
    let lab = Lab::up_in(directory, "machines.yaml");
    lab.apply("west", OBJECTS);
    let files = lab.directory.path("legacy").display().to_string();
    let written = lab.isthmus(&["workload", "entry", "configure", "--name", "legacy", "-n", "vms", "-o", &files]);
    let written = written.ok();
    assert!(written.contains("vms/legacy"), "{written}");
    let token = std::fs::read_to_string(format!("{files}/istio-token")).expect("a token");
    for file in ["cluster.env", "istio-token", "root-cert.pem", "controller-issuer.pem"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(format!("{files}/{file}")).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
    lab.exec(MACHINE, &[&program(&lab), "sidecar", "--from", &files, "init"]).ok();
    let sidecar = Sidecar::start(&lab, &files);

    // Others call it by mutual TLS alone, and it knows who they are.
    let answer = answers(&lab, FRONTEND, "http://legacy.vms/", "200");
    assert!(answer.contains("spiffe://cluster.local/ns/default/sa/frontend"), "{answer}");
    let entry = entries(&lab);
    assert!(entry.starts_with("legacy-") && entry.ends_with("-net-west"), "{entry}");
    let object = lab.kubectl("west", &["-n", "vms", "get", "workloadentry", &entry, "-o", "yaml"]).ok();
    for part in
        ["istio.io/autoRegistrationGroup: legacy", "kind: WorkloadGroup", "type: Healthy", "serviceAccount: legacy"]
    {
        assert!(object.contains(part), "{object}");
    }
    let address = object.lines().find_map(|line| line.trim().strip_prefix("address: ")).expect("an address");
    let plaintext = request(&lab, PLAIN, &format!("http://{address}:9080/"));
    assert!(!plaintext.stdout.ends_with("200"), "strict mutual TLS: {plaintext:?}");
    // It calls services of the mesh, with the identity of its account.
    let answer = answers(&lab, MACHINE, "http://frontend.default:9080/", "200");
    assert!(answer.contains("spiffe://cluster.local/ns/vms/sa/legacy"), "{answer}");

    // Policies apply by its labels.
    lab.apply("west", DENIED);
    answers(&lab, FRONTEND, "http://legacy.vms/denied", "403");
    answers(&lab, FRONTEND, "http://legacy.vms/", "200");

    // Its entry goes some time after its proxy, and comes back with it.
    sidecar.stop(&lab);
    let gone = eventually(SOON, || if entries(&lab).is_empty() { Ok(()) } else { Err(entries(&lab)) });
    gone.expect("the entry is removed");
    answers(&lab, FRONTEND, "http://legacy.vms/", "503");
    let sidecar = Sidecar::start(&lab, &files);
    answers(&lab, FRONTEND, "http://legacy.vms/", "200");
    sidecar.stop(&lab);

    // A token of another account does not enter the group.
    let foreign = lab.directory.path("foreign").display().to_string();
    std::fs::create_dir(&foreign).expect("a directory");
    for file in ["cluster.env", "root-cert.pem", "controller-issuer.pem"] {
        std::fs::copy(format!("{files}/{file}"), format!("{foreign}/{file}")).expect(file);
    }
    let other = ["-n", "vms", "create", "token", "default", "--audience", "istio-ca"];
    let other = lab.kubectl("west", &other).ok();
    std::fs::write(format!("{foreign}/istio-token"), other.trim()).expect("written");
    let gone = eventually(SOON, || if entries(&lab).is_empty() { Ok(()) } else { Err(entries(&lab)) });
    gone.expect("the entry is removed");
    let sidecar = Sidecar::start(&lab, &foreign);
    let refused = eventually(SOON, || {
        let log = std::fs::read_to_string(format!("{foreign}/log")).unwrap_or_default();
        if log.contains("WorkloadGroup vms/legacy has legacy") { Ok(()) } else { Err(log) }
    });
    refused.expect("it is refused");
    assert_eq!(entries(&lab), "");
    sidecar.stop(&lab);
    let log = std::fs::read_to_string(format!("{files}/log")).expect("a log");
    assert!(!log.contains(token.trim()), "the token is not logged");
    lab.down();
}
