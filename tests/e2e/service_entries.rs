//! ServiceEntries: applications reach their hosts by name, at addresses that the mesh allocates or at their own.

use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(20);
const FRONTEND: &str = "west/default/frontend";
const IN_EAST: &str = "east/default/caller";

/// `plain` has no sidecar: as a server outside of the mesh.
const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: entries}
spec:
  networks: [{name: net-west}, {name: net-east}]
  clusters:
    - {name: west, role: primary, network: net-west}
    - {name: east, role: remote, network: net-east}
  workloads:
    - {name: frontend, cluster: west}
    - {name: plain, cluster: west, inject: false}
    # Its Service has another port.
    - {name: unlisted, cluster: west, inject: false, ports: [{name: tcp, port: 7, targetPort: 7}]}
    - {name: vm, cluster: west}
    - {name: caller, cluster: east}
    - {name: plain-east, cluster: east, inject: false}
";

fn lab() -> Lab {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("entries.yaml"), TOPOLOGY).expect("written");
    Lab::up_in(directory, "entries.yaml")
}

/// Returns the address of a workload's pod.
fn pod_ip(lab: &Lab, cluster: &str, app: &str) -> String {
    let query = ["get", "pods", "-l", &format!("app={app}"), "-o", "jsonpath={.items[0].status.podIP}"];
    lab.kubectl(cluster, &query).ok().trim().to_owned()
}

/// Requests a URL by curl in a pod, until the workload of this name answers.
fn answers(lab: &Lab, from: &str, url: &str, expected: &str) {
    let answer = eventually(SOON, || {
        let answer = lab.exec(from, &["curl", "-sS", "--max-time", "5", url]);
        let parsed = serde_json::from_str::<serde_json::Value>(&answer.stdout).unwrap_or_default();
        let pod = parsed["pod"].as_str().unwrap_or_default();
        if pod.strip_prefix(expected).is_some_and(|rest| rest.starts_with('-')) { Ok(()) } else { Err(answer) }
    });
    answer.unwrap_or_else(|answer| panic!("{url} from {from}: {answer:?}"));
}

/// Returns the status of a request by curl; 0 if there is none.
fn status(lab: &Lab, from: &str, arguments: &[&str]) -> String {
    let curl = ["curl", "-s", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"];
    lab.exec(from, &[&curl[..], arguments].concat()).stdout
}

fn entry(name: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn hosts_below_a_wildcard_are_resolved_and_have_routes_of_their_own() {
    let lab = lab();
    // The cluster's name server has the names of pods: `10-244-0-7.default.pod.cluster.local`.
    let host = format!("{}.default.pod.cluster.local", pod_ip(&lab, "west", "plain").replace('.', "-"));
    let wildcard = "{hosts: ['*.default.pod.cluster.local'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]}";
    lab.apply("west", &entry("wildcard", wildcard));
    // Nobody listens on port 80 of the pod.
    answers(&lab, FRONTEND, &format!("http://{host}/"), "plain");
    let elsewhere = ["--resolve", &*format!("{host}:80:192.0.2.1"), &*format!("http://{host}/")];
    assert_eq!(status(&lab, FRONTEND, &elsewhere), "200", "by the host of the request");
    assert_eq!(
        status(&lab, FRONTEND, &["http://127-0-0-1.default.pod.cluster.local/"]),
        "503",
        "an address of this pod"
    );
    lab.apply(
        "west",
        &format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: below}}\nspec:\n  hosts: ['{host}']\n  http:\n  - {{match: [{{uri: {{prefix: /teapot}}}}], directResponse: {{status: 418}}}}\n  - {{route: [{{destination: {{host: '{host}'}}}}]}}\n"),
    );
    let routed = eventually(SOON, || match &*status(&lab, FRONTEND, &[&format!("http://{host}/teapot")]) {
        "418" => Ok(()),
        other => Err(other.to_owned()),
    });
    routed.expect("the route");
    answers(&lab, FRONTEND, &format!("http://{host}/"), "plain");
    lab.down();
}

#[test]
fn hosts_of_entries_are_reached_by_name() {
    let lab = lab();
    let (plain, in_east) = (pod_ip(&lab, "west", "plain"), pod_ip(&lab, "east", "plain-east"));
    let http = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]";
    let manifest = [
        entry(
            "static",
            &format!("{{hosts: [static.example.com], resolution: STATIC, {http}, endpoints: [{{address: {plain}}}]}}"),
        ),
        entry(
            "own-address",
            &format!(
                "{{hosts: [own.example.com], addresses: [198.18.7.7], resolution: STATIC, {http}, endpoints: [{{address: {plain}}}]}}"
            ),
        ),
        // The cluster's own name server resolves the name.
        entry(
            "dns",
            "{hosts: [dns.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}], endpoints: [{address: plain.default.svc.cluster.local}]}",
        ),
        entry(
            "none",
            &format!(
                "{{hosts: [none.example.com], addresses: ['{plain}'], ports: [{{number: 9080, name: http, protocol: HTTP}}]}}"
            ),
        ),
        entry(
            "for-east",
            &format!("{{hosts: [east.example.com], resolution: STATIC, {http}, endpoints: [{{address: {in_east}}}]}}"),
        ),
        entry(
            "unknown",
            "{hosts: [unknown.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
        ),
        entry(
            "hidden",
            &format!(
                "{{hosts: [hidden.example.com], exportTo: [elsewhere], resolution: STATIC, {http}, endpoints: [{{address: {plain}}}]}}"
            ),
        ),
    ];
    lab.apply("west", &manifest.concat());
    answers(&lab, FRONTEND, "http://static.example.com/", "plain");
    answers(&lab, FRONTEND, "http://own.example.com/", "plain");
    answers(&lab, FRONTEND, "http://198.18.7.7/", "plain");
    answers(&lab, FRONTEND, "http://dns.example.com/", "plain");
    answers(&lab, FRONTEND, "http://none.example.com:9080/", "plain");
    // Entries of the primary are for the proxies of every cluster.
    answers(&lab, IN_EAST, "http://east.example.com/", "plain-east");
    // By the host of a request to any address, as in Istio.
    let by_host =
        status(&lab, FRONTEND, &["--resolve", "static.example.com:80:192.0.2.1", "http://static.example.com/"]);
    assert_eq!(by_host, "200");
    assert_eq!(status(&lab, FRONTEND, &["http://unknown.example.com/"]), "503", "its name has no address");
    assert_eq!(status(&lab, FRONTEND, &["http://hidden.example.com/"]), "000", "its name is not known here");

    // Routes of such a host.
    lab.apply(
        "west",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: static}\nspec:\n  hosts: [static.example.com]\n  http:\n  \
         - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}\n  - {route: [{destination: {host: static.example.com}}]}\n",
    );
    let routed = eventually(SOON, || match &*status(&lab, FRONTEND, &["http://static.example.com/teapot"]) {
        "418" => Ok(()),
        other => Err(other.to_owned()),
    });
    routed.expect("the route");
    answers(&lab, FRONTEND, "http://static.example.com/", "plain");

    let reported = eventually(SOON, || {
        let object = lab.kubectl("west", &["get", "serviceentry", "static", "-o", "yaml"]).ok();
        if object.contains("type: Reconciled") { Ok(()) } else { Err(object) }
    });
    reported.expect("a status");
    // A deleted entry is forgotten.
    lab.kubectl("west", &["delete", "serviceentry", "own-address"]).ok();
    let gone = eventually(SOON, || match &*status(&lab, FRONTEND, &["http://own.example.com/"]) {
        "000" => Ok(()),
        other => Err(other.to_owned()),
    });
    gone.expect("the name is no longer known");
    lab.down();
}

#[test]
fn with_registry_only_entries_are_what_the_mesh_may_reach() {
    let lab = lab();
    let plain = pod_ip(&lab, "west", "unlisted");
    lab.apply(
        "west",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n",
    );
    let url = format!("http://{plain}:9080/");
    let refused = eventually(SOON, || match &*status(&lab, FRONTEND, &["-H", "Host: none.example.com", &url]) {
        "502" => Ok(()),
        other => Err(other.to_owned()),
    });
    refused.expect("the mesh settings are in force");
    lab.apply(
        "west",
        &entry("none", "{hosts: [none.example.com], ports: [{number: 9080, name: http, protocol: HTTP}]}"),
    );
    let allowed = eventually(SOON, || match &*status(&lab, FRONTEND, &["-H", "Host: none.example.com", &url]) {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    allowed.expect("the entry allows its host");
    assert_eq!(status(&lab, FRONTEND, &["-H", "Host: other.example.com", &url]), "502");

    // A wildcard, and a block of addresses for what has no host.
    lab.apply(
        "west",
        &entry("wildcard", "{hosts: ['*.wild.example.com'], ports: [{number: 9080, name: http, protocol: HTTP}]}"),
    );
    let allowed = eventually(SOON, || match &*status(&lab, FRONTEND, &["-H", "Host: a.b.wild.example.com", &url]) {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    allowed.expect("the wildcard allows the hosts below it");
    assert_eq!(status(&lab, FRONTEND, &["-H", "Host: wild.example.com", &url]), "502");
    let block = format!(
        "{{hosts: [block.example.com], addresses: [{plain}/31], ports: [{{number: 9080, name: tcp, protocol: TCP}}]}}"
    );
    lab.apply("west", &entry("block", &block));
    let allowed = eventually(SOON, || match &*status(&lab, FRONTEND, &["-H", "Host: other.example.com", &url]) {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    allowed.expect("the block allows its addresses");
    lab.down();
}

#[test]
fn an_entry_selects_pods_and_workload_entries() {
    let lab = lab();
    let plain = pod_ip(&lab, "west", "plain");
    let workload = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: machine}}\nspec: {{address: {plain}, labels: {{tier: data}}, locality: west/west-a}}\n"
    );
    lab.kubectl("west", &["label", "pods", "-l", "app=vm", "tier=data"]).ok();
    let spec = "{hosts: [data.example.com], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {tier: data}}, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]}";
    lab.apply("west", &[entry("data", spec), workload].concat());
    for expected in ["plain", "vm"] {
        answers(&lab, FRONTEND, "http://data.example.com/", expected);
    }
    lab.kubectl("west", &["delete", "workloadentry", "machine"]).ok();
    let only = eventually(SOON, || {
        let all: String =
            (0..8).map(|_| lab.exec(FRONTEND, &["curl", "-s", "http://data.example.com/"]).stdout).collect();
        if all.contains("plain-") { Err(all) } else { Ok(all) }
    });
    assert!(only.expect("the pod alone").contains("\"vm-"));
    lab.down();
}
