//! Sidecars: what an application reaches, what becomes of other traffic, where the application is, and what it takes at
//! a time. Settings of proxies: IstioOperator and ProxyConfig.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, TestDirectory, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(20);
const SHOP: &str = "west/shop/web";
const BANK: &str = "west/bank/teller";
/// A caller in the remote cluster.
const IN_EAST: &str = "east/shop/caller";

const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: scopes}
spec:
  networks: [{name: net-west}, {name: net-east}]
  clusters:
    - {name: west, role: primary, network: net-west}
    - {name: east, role: remote, network: net-east}
  workloads:
    - {name: web, namespace: shop, cluster: west}
    - {name: cart, namespace: shop, clusters: [west, east], exported: true}
    - {name: caller, namespace: shop, cluster: east}
    - {name: teller, namespace: bank, cluster: west}
    - {name: ledger, namespace: bank, clusters: [west, east], exported: true}
    # Only the mesh knows its name in west.
    - {name: vault, namespace: bank, cluster: east, exported: true}
";

fn lab() -> Lab {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("scopes.yaml"), TOPOLOGY).expect("written");
    Lab::up_in(directory, "scopes.yaml")
}

/// Returns the status of a request by curl; 0 if there is none.
fn status(lab: &Lab, from: &str, arguments: &[&str]) -> String {
    let curl = ["curl", "-s", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"];
    lab.exec(from, &[&curl[..], arguments].concat()).stdout.trim().to_owned()
}

/// Waits until a request has this status.
#[track_caller]
fn becomes(lab: &Lab, from: &str, arguments: &[&str], expected: &str) {
    let found = eventually(SOON, || match status(lab, from, arguments) {
        found if found == expected => Ok(()),
        other => Err(other),
    });
    found.unwrap_or_else(|found| panic!("{arguments:?} from {from} is {found}, not {expected}"));
}

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Returns the hostnames of the services that the sidecar of a pod has received.
fn known_services(lab: &Lab, from: &str) -> Vec<String> {
    let dump = lab.exec(from, &["curl", "-s", "http://127.0.0.1:15000/config_dump"]).stdout;
    let dump: Value = serde_json::from_str(&dump).unwrap_or_default();
    let services = dump["mesh"]["services"].as_array().into_iter().flatten();
    services.filter_map(|service| service["hostname"].as_str().map(str::to_owned)).collect()
}

#[test]
fn applications_reach_the_hosts_of_their_sidecar_alone() {
    let lab = lab();
    let ledger = "http://ledger.bank:9080/";
    let cart = "http://cart:9080/";
    let vault = "http://vault.bank:9080/";
    for (from, url) in
        [(SHOP, ledger), (SHOP, cart), (SHOP, vault), (IN_EAST, ledger), (BANK, "http://cart.shop:9080/")]
    {
        becomes(&lab, from, &[url], "200");
    }
    // Of the whole mesh: only the own namespace, and everything else is refused.
    lab.apply(
        "west",
        &sidecar("istio-system", "mesh", "{egress: [{hosts: [./*, istio-system/*]}], outboundTrafficPolicy: {}}"),
    );
    for (from, refused) in [(SHOP, ledger), (IN_EAST, ledger), (BANK, "http://cart.shop:9080/")] {
        becomes(&lab, from, &[refused], "502");
    }
    assert_eq!(status(&lab, SHOP, &[vault]), "000", "the name is not known");
    assert_eq!(status(&lab, BANK, &[vault]), "200");
    assert_eq!(status(&lab, SHOP, &[cart]), "200");
    assert_eq!(status(&lab, IN_EAST, &[cart]), "200");
    assert_eq!(status(&lab, BANK, &[ledger]), "200");

    // Of one namespace: unknown destinations pass, as if there were no mesh.
    lab.apply("west", &sidecar("shop", "own", "{egress: [{hosts: [./*]}], outboundTrafficPolicy: {mode: ALLOW_ANY}}"));
    becomes(&lab, SHOP, &[ledger], "200");
    let log = lab.kubectl("west", &["-n", "shop", "logs", "deployment/web", "-c", "isthmus-proxy"]).ok();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(status(&lab, BANK, &["http://cart.shop:9080/"]), "502", "of another namespace");

    // Of one workload: one host.
    let host = "{workloadSelector: {labels: {app: web}}, egress: [{hosts: [bank/ledger.bank.svc.cluster.local]}], \
                outboundTrafficPolicy: {mode: REGISTRY_ONLY}}";
    lab.apply("west", &sidecar("shop", "web", host));
    becomes(&lab, SHOP, &[cart], "502");
    assert_eq!(status(&lab, SHOP, &[ledger]), "200");
    assert!(known_services(&lab, SHOP).iter().any(|name| name.starts_with("ledger.bank.")), "prefetched");
    lab.kubectl("west", &["-n", "shop", "delete", "sidecar", "web", "own"]).ok();
    lab.kubectl("west", &["-n", "istio-system", "delete", "sidecar", "mesh"]).ok();
    for url in [cart, ledger] {
        becomes(&lab, SHOP, &[url], "200");
    }
}

#[test]
fn requests_reach_the_application_where_its_sidecar_says_within_the_limits() {
    let lab = lab();
    // Nothing listens at the port that the Service names.
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: moved, namespace: shop}\n\
                   spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 18080}]}\n";
    lab.apply("west", service);
    let moved = "http://moved/";
    becomes(&lab, SHOP, &[moved], "503");
    let ingress = "{workloadSelector: {labels: {app: cart}}, ingress: [{port: {number: 18080, protocol: HTTP, name: http}, \
                   defaultEndpoint: '127.0.0.1:9080', connectionPool: {http: {http2MaxRequests: 1}}}]}";
    lab.apply("west", &sidecar("shop", "cart", ingress));
    becomes(&lab, SHOP, &[moved], "200");
    // What is not listed passes.
    assert_eq!(status(&lab, SHOP, &["http://cart:9080/"]), "200");
    let three = |lab: &Lab| {
        let urls = "http://moved/delay/400?[1-3]";
        let curl = ["curl", "-s", "-Z", "--parallel-immediate", "--max-time", "10", "-o", "/dev/null"];
        let answers = lab.exec(SHOP, &[&curl[..], &["-w", "%{http_code}\\n", urls]].concat()).stdout;
        let mut statuses: Vec<String> = answers.lines().map(|line| line.trim().to_owned()).collect();
        statuses.sort_unstable();
        statuses
    };
    let limited = eventually(SOON, || match three(&lab) {
        statuses if statuses == ["200", "503", "503"] => Ok(()),
        other => Err(other),
    });
    assert_eq!(limited, Ok(()));
}

#[test]
fn services_are_seen_in_the_namespaces_that_they_are_exported_to() {
    let lab = lab();
    let ledger = "http://ledger.bank:9080/";
    becomes(&lab, SHOP, &[ledger], "200");
    // A route shows whether the proxy knows the service: another one would not return its status.
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ledger, namespace: bank}\n\
                 spec: {hosts: [ledger], http: [{directResponse: {status: 418}}]}\n";
    lab.apply("west", route);
    becomes(&lab, SHOP, &[ledger], "418");
    for cluster in ["west", "east"] {
        let annotation = "networking.istio.io/exportTo=.,other";
        lab.kubectl(cluster, &["-n", "bank", "annotate", "service", "ledger", annotation]).ok();
    }
    becomes(&lab, SHOP, &[ledger], "200");
    assert_eq!(status(&lab, BANK, &[ledger]), "418");
}

/// The files of users, as they are.
const OPERATOR: &str = include_str!("sidecars/mesh-install.yaml");
const SELECTIVE: &str = include_str!("sidecars/selective-injection.yaml");

#[test]
fn settings_of_an_istio_operator_and_of_proxy_configs_have_effect() {
    let lab = lab();
    becomes(&lab, SHOP, &["http://cart:9080/"], "200");
    let file = lab.directory.path("install.yaml");
    std::fs::write(&file, OPERATOR).expect("written");
    let applied = lab.kubectl("west", &["apply", "-f", &file.display().to_string()]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    for part in ["spec.components.pilot: has no effect", "spec.profile: has no effect", "spec.revision: has no effect"]
    {
        assert!(applied.stderr.contains(part), "{part:?} is not in:\n{}", applied.stderr);
    }
    assert!(!applied.stderr.contains("meshConfig"), "{}", applied.stderr);
    // The access log has the format of the file, of several lines.
    let logged = eventually(SOON, || {
        status(&lab, SHOP, &["http://cart:9080/?logged"]);
        let log = lab.kubectl("west", &["-n", "shop", "logs", "deployment/web", "-c", "isthmus-proxy"]).ok();
        if log.contains("\"GET /?logged HTTP/1.1\"\n200 ") { Ok(()) } else { Err(log) }
    });
    assert_eq!(logged, Ok(()));

    let configs = "---\napiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: all, namespace: istio-system}\n\
                   spec: {concurrency: 1, environmentVariables: {FROM: mesh, MESH: 'yes'}}\n\
                   ---\napiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: app, namespace: production}\n\
                   spec: {selector: {matchLabels: {app: mine}}, environmentVariables: {FROM: workload}}\n";
    lab.apply("west", configs);
    // The controller writes the status of what it has read.
    for (namespace, name) in [("istio-system", "all"), ("production", "app")] {
        let query = ["-n", namespace, "get", "proxyconfig", name, "-o", "jsonpath={.status.observedGeneration}"];
        let read = eventually(SOON, || match lab.kubectl("west", &query).ok() {
            generation if generation.trim() == "1" => Ok(()),
            other => Err(other),
        });
        assert_eq!(read, Ok(()), "{namespace}/{name}");
    }
    let file = lab.directory.path("selective.yaml");
    std::fs::write(&file, SELECTIVE).expect("written");
    lab.kubectl("west", &["apply", "-n", "production", "-f", &file.display().to_string()]).ok();
    let names = ["-n", "production", "get", "pod", "myapp", "-o", "jsonpath={.spec.initContainers[*].name}"];
    assert_eq!(lab.kubectl("west", &names).ok().trim(), "isthmus-init isthmus-proxy");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: mine, namespace: production, labels: {app: mine}}\n\
               spec: {containers: [{name: app, image: example/app}]}\n";
    lab.apply("west", pod);
    let variables = |pod: &str| {
        let query = ["-n", "production", "get", "pod", pod, "-o", "json"];
        let pod = lab.kubectl("west", &query).json();
        let env = pod["spec"]["initContainers"][1]["env"].as_array().cloned().unwrap_or_default();
        ["CONCURRENCY", "FROM", "MESH"].map(|name| {
            let found = env.iter().find(|entry| entry["name"] == name);
            found.and_then(|entry| entry["value"].as_str()).unwrap_or_default().to_owned()
        })
    };
    assert_eq!(variables("myapp"), ["1", "mesh", "yes"]);
    assert_eq!(variables("mine"), ["1", "workload", "yes"]);
}
