//! Ingress and egress gateways: requests from this machine into the mesh, and from the mesh to servers outside of it.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, Outcome, TestDirectory, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(20);
const HOST: &str = "shop.example.com";
const FRONTEND: &str = "west/default/frontend";
/// Requests of a load, and how many it sends in a second.
const REQUESTS: usize = 400;
const RATE: usize = 50;

/// Starts the lab of `edges.yaml`, with `further` entries of its specification.
fn lab(further: &str) -> Lab {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    let path = directory.path("topologies").join("edges.yaml");
    let text = std::fs::read_to_string(&path).expect("the topology");
    std::fs::write(&path, text.replace("\n  exports:\n", &format!("{further}\n  exports:\n"))).expect("written");
    Lab::up_in(directory, "edges.yaml")
}

/// Returns the arguments of curl that reach a URL of the shop through the ingress gateway of west.
fn to_shop(lab: &Lab) -> Vec<String> {
    let mut arguments = vec!["--max-time".to_owned(), "10".to_owned(), "--cacert".to_owned()];
    arguments.push(lab.isthmus(&["lab", "certificate", "--authority"]).ok().trim().to_owned());
    for port in ["80", "443"] {
        let address = lab.isthmus(&["lab", "ports", "west", port]).ok();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        arguments.extend(["--connect-to".to_owned(), format!("{HOST}:{port}:{}", address.trim())]);
    }
    arguments
}

/// Runs curl on this machine.
fn curl(lab: &Lab, arguments: &[&str]) -> Outcome {
    let to_shop = to_shop(lab);
    let mut curl = lab.directory.program(Path::new("curl"));
    curl.arg("-sS").args(to_shop).args(arguments).output().expect("curl").into()
}

/// Returns the status of a request; `000` if there is no response.
fn status(lab: &Lab, arguments: &[&str]) -> String {
    curl(lab, &[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()).stdout
}

#[track_caller]
fn becomes(lab: &Lab, arguments: &[&str], expected: &str) {
    let last = eventually(SOON, || match status(lab, arguments) {
        status if status == expected => Ok(()),
        status => Err(status),
    });
    assert_eq!(last, Ok(()), "{arguments:?} does not become {expected}");
}

/// Requests of one curl on a reused connection.
struct Load(Child);

impl Load {
    fn start(lab: &Lab, scheme: &str) -> Self {
        let mut curl = lab.directory.program(Path::new("curl"));
        curl.arg("-sS").args(to_shop(lab)).args(["--rate", &format!("{}/m", RATE * 60)]);
        let last = r#",%{http_code} %{num_connects}\n"#;
        curl.args(["-w", last, &format!("{scheme}://{HOST}/?[1-{REQUESTS}]")]);
        // The limit of time is for each request.
        Self(curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl"))
    }

    /// Waits for the end. Returns the clusters that answered, and the number of connections.
    fn wait(self) -> (Vec<String>, usize) {
        let outcome = Outcome::from(self.0.wait_with_output().expect("curl ends"));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let ends: Vec<&str> = outcome.stdout.lines().filter_map(|line| line.strip_prefix(',')).collect();
        let failed: Vec<&&str> = ends.iter().filter(|end| !end.starts_with("200 ")).collect();
        assert!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), ends.len());
        assert_eq!(ends.len(), REQUESTS);
        let connects = ends.iter().filter_map(|end| end.split(' ').nth(1)?.parse::<usize>().ok()).sum();
        let cluster =
            |line: &str| Some(line.trim().strip_prefix("\"cluster\": \"")?.trim_end_matches("\",").to_owned());
        (outcome.stdout.lines().filter_map(cluster).collect(), connects)
    }
}

/// Replaces the certificate of the shop, as a user does.
fn replace_certificate(lab: &Lab) {
    let secret = lab.isthmus(&["lab", "certificate", HOST, "--secret", "shop-credential"]).ok();
    lab.apply("west", &secret);
}

/// Returns the serial number of the certificate that a new connection gets.
fn serial(lab: &Lab) -> String {
    let output = curl(lab, &["-o", "/dev/null", "-w", "%{certs}", &format!("https://{HOST}/")]).ok();
    let line = output.lines().find(|line| line.starts_with("Serial Number:"));
    line.unwrap_or_else(|| panic!("no serial number: {output}")).to_owned()
}

#[test]
fn requests_enter_through_the_ingress_gateway_and_reach_another_cluster_when_their_own_has_no_pods() {
    let lab = lab("");
    assert!(lab.output().contains("west/istio-system/istio-ingressgateway"), "{}", lab.output());
    let url = format!("http://{HOST}/");
    becomes(&lab, &[&url], "200");
    let answer = curl(&lab, &[&format!("{url}a?b=c")]).json();
    assert_eq!((&answer["service"], &answer["cluster"]), (&"reviews".into(), &"west".into()), "{answer}");
    assert_eq!(
        (&answer["path"], &answer["headers"]["x-forwarded-proto"]),
        (&"/a?b=c".into(), &"http".into()),
        "{answer}"
    );
    let identity = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
    assert_eq!(answer["identity"], identity, "the gateway calls by mutual TLS: {answer}");
    assert_eq!(status(&lab, &["-H", "Host: other.example.com", &url]), "404", "a host that no Gateway has");

    let load = Load::start(&lab, "http");
    // Part of the scenario, not a wait: two seconds of requests before.
    std::thread::sleep(Duration::from_secs(2));
    lab.kubectl("west", &["scale", "deployment/reviews", "--replicas=0"]).ok();
    let (clusters, _) = load.wait();
    let ends = (clusters.first().map(String::as_str), clusters.last().map(String::as_str));
    assert_eq!(ends, (Some("west"), Some("east")));
    lab.down();
}

#[test]
fn a_certificate_is_replaced_without_a_failed_request() {
    let lab = lab("");
    let url = format!("https://{HOST}/");
    becomes(&lab, &[&url], "200");
    let answer = curl(&lab, &[&url]).json();
    assert_eq!(answer["headers"]["x-forwarded-proto"], "https", "{answer}");
    let address = lab.isthmus(&["lab", "ports", "west", "https"]).ok();
    let other = format!("other.example.com:443:{}", address.trim());
    let refused = curl(&lab, &["-k", "--connect-to", &other, "https://other.example.com/"]);
    assert_eq!(refused.code, Some(35), "a server name that no Gateway has: {refused:?}");

    // New certificates, while one connection is used and others begin.
    let load = Load::start(&lab, "https");
    let mut serials = vec![serial(&lab)];
    for _ in 0..3 {
        replace_certificate(&lab);
        let new = eventually(SOON, || {
            assert_eq!(status(&lab, &[&url]), "200", "a new connection during the replacement");
            let new = serial(&lab);
            if serials.contains(&new) { Err(new) } else { Ok(new) }
        });
        serials.push(new.expect("the new certificate is presented"));
    }
    let (_, connects) = load.wait();
    assert_eq!(connects, 1, "the connection that was open stays open");
    lab.down();
}

/// Sets an AuthorizationPolicy that denies all requests of a path at a gateway.
fn deny(gateway: &str, path: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny-at-{gateway}, namespace: istio-system}}\n\
         spec:\n  selector: {{matchLabels: {{istio: {gateway}}}}}\n  action: DENY\n  rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]\n"
    )
}

#[test]
fn only_listed_hosts_are_reached_and_only_through_the_egress_gateway() {
    let lab = lab("");
    let code = |url: &str| {
        let curl = ["curl", "-s", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", url];
        lab.exec(FRONTEND, &curl).stdout
    };
    let answer = eventually(SOON, || {
        let answer = lab.exec(FRONTEND, &["curl", "-sS", "--max-time", "10", "http://httpbin.example.com/a"]);
        match serde_json::from_str::<Value>(&answer.stdout) {
            Ok(parsed) if parsed["server"] == "httpbin.example.com" => Ok(parsed),
            _ => Err(answer),
        }
    });
    let answer = answer.unwrap_or_else(|answer| panic!("{answer:?}"));
    assert_eq!(answer["port"], 443, "{answer}");
    assert_eq!(answer["tls"]["serverName"], "httpbin.example.com", "the gateway originates TLS: {answer}");
    assert_eq!(answer["host"], "httpbin.example.com", "{answer}");
    // The gateway carries the requests: what it denies is not answered.
    lab.apply("west", &deny("egressgateway", "/secret"));
    let denied = eventually(SOON, || match &*code("http://httpbin.example.com/secret") {
        "403" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(denied, Ok(()), "the policy of the egress gateway");
    assert_eq!(code("http://httpbin.example.com/a"), "200");
    // What no ServiceEntry has.
    assert_eq!(code("http://unlisted.example.com/"), "502");
    assert_eq!(code("https://unlisted.example.com/"), "000");
    // Without the gateway nothing gets out.
    lab.kubectl("west", &["-n", "istio-system", "scale", "deployment/istio-egressgateway", "--replicas=0"]).ok();
    let closed = eventually(SOON, || match &*code("http://httpbin.example.com/a") {
        "503" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(closed, Ok(()), "requests without an egress gateway");
    lab.down();
}

const TOKENS: &str = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules: [{issuer: 'https://auth.example.com', jwksUri: 'https://auth.example.com/.well-known/jwks.json'}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
    - match: [{headers: {'@request.auth.claims.groups': {exact: testers}}}]
      directResponse: {status: 418}
    - route: [{destination: {host: reviews, port: {number: 9080}}}]
";

#[test]
fn policies_and_claims_decide_at_the_ingress_gateway() {
    let lab = lab("\n  issuers:\n    - host: auth.example.com\n");
    let url = format!("http://{HOST}/");
    becomes(&lab, &[&url], "200");
    lab.apply("west", &deny("ingressgateway", "/admin*"));
    let admin = format!("{url}admin/users");
    becomes(&lab, &[&admin], "403");
    assert_eq!(status(&lab, &[&url]), "200");
    // The policy is the gateway's: requests inside of the mesh do not pass it.
    let inside = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://reviews:9080/admin/users"];
    assert_eq!(lab.exec(FRONTEND, &inside).stdout, "200");

    lab.apply("west", TOKENS);
    let bearer = |options: &[&str]| {
        let token = lab.isthmus(&[&["lab", "token", "--subject", "alice"], options].concat()).ok();
        format!("authorization: Bearer {}", token.trim())
    };
    becomes(&lab, &["-H", &bearer(&["--expires", "-5m"]), &url], "401");
    becomes(&lab, &["-H", &bearer(&["--claim", "groups=[\"testers\"]"]), &url], "418");
    assert_eq!(status(&lab, &["-H", &bearer(&[]), &url]), "200");
    assert_eq!(status(&lab, &[&url]), "200");
    lab.down();
}

/// What Istio's Helm chart `gateway` makes of the release `edge`, shortened.
const CHART: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: edge, namespace: edge}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge, namespace: edge, labels: {app: edge, istio: edge}}
spec:
  selector: {matchLabels: {app: edge, istio: edge}}
  template:
    metadata:
      annotations: {inject.istio.io/templates: gateway, prometheus.io/path: /stats/prometheus, prometheus.io/port: '15020', prometheus.io/scrape: 'true', sidecar.istio.io/inject: 'true'}
      labels: {sidecar.istio.io/inject: 'true', app: edge, istio: edge}
    spec:
      serviceAccountName: edge
      terminationGracePeriodSeconds: 5
      securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]}
      containers:
        - name: istio-proxy
          image: auto
          securityContext: {capabilities: {drop: [ALL]}, allowPrivilegeEscalation: false, privileged: false, readOnlyRootFilesystem: true, runAsUser: 1337, runAsGroup: 1337, runAsNonRoot: true}
          ports: [{containerPort: 15090, protocol: TCP, name: http-envoy-prom}]
          resources: {limits: {cpu: 2000m, memory: 1024Mi}, requests: {cpu: 100m, memory: 128Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: edge, labels: {app: edge, istio: edge}}
spec:
  type: LoadBalancer
  selector: {app: edge, istio: edge}
  ports:
    - {name: status-port, port: 15021, targetPort: 15021}
    - {name: http2, port: 80, targetPort: 80}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: edge}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [edge.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: edge}
spec:
  hosts: [edge.example.com]
  gateways: [edge]
  http: [{route: [{destination: {host: reviews.default.svc.cluster.local, port: {number: 9080}}}]}]
";

#[test]
fn a_gateway_of_istios_chart_works_unchanged() {
    let lab = lab("    - {name: outsider, cluster: west, inject: false}");
    lab.apply("west", CHART);
    let rollout = ["-n", "edge", "rollout", "status", "deployment/edge", "--timeout=60s"];
    lab.kubectl("west", &rollout).ok();
    let address = lab
        .kubectl(
            "west",
            &["-n", "edge", "get", "service", "edge", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"],
        )
        .ok();
    let request = ["curl", "-sS", "--max-time", "5", "-H", "Host: edge.example.com", &format!("http://{address}/")];
    let answer = eventually(SOON, || {
        let answer = lab.exec("west/default/outsider", &request);
        serde_json::from_str::<Value>(&answer.stdout).map_err(|_| answer)
    });
    let answer = answer.unwrap_or_else(|answer| panic!("{answer:?}"));
    assert_eq!(answer["identity"], "spiffe://cluster.local/ns/edge/sa/edge", "{answer}");
    lab.down();
}
