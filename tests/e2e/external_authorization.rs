//! External authorization servers of the mesh settings, asked by HTTP and gRPC.

use crate::policies::{SOON, becomes, lab, status};
use crate::support::{Lab, eventually};

const SERVER: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: external-authorization}
spec:
  mesh:
    config:
      extensionProviders:
        - name: http-closed
          envoyExtAuthzHttp:
            service: auth.default.svc.cluster.local
            port: 8000
            includeRequestHeadersInCheck: [x-ext-authz]
            headersToUpstreamOnAllow: [x-ext-authz-check-result]
            headersToDownstreamOnDeny: [x-ext-authz-check-result]
        - name: http-open
          envoyExtAuthzHttp:
            service: auth.default.svc.cluster.local
            port: 8000
            failOpen: true
            includeRequestHeadersInCheck: [x-ext-authz]
        - name: grpc-closed
          envoyExtAuthzGrpc: {service: auth.default.svc.cluster.local, port: 9000, statusOnError: '503'}
        - name: grpc-open
          envoyExtAuthzGrpc: {service: auth.default.svc.cluster.local, port: 9000, failOpen: true}
  clusters:
    - {name: west, role: primary}
  workloads:
    - {name: frontend, cluster: west}
    - name: auth
      cluster: west
      env: {AUTHZ_PORT: '8000,9000'}
      ports:
        - {name: http, port: 9080}
        - {name: http-authz, port: 8000}
        - {name: grpc-authz, port: 9000}
    - {name: http-closed, cluster: west}
    - {name: http-open, cluster: west}
    - {name: grpc-closed, cluster: west}
    - {name: grpc-open, cluster: west}
";

const FRONTEND: &str = "west/default/frontend";
const PROVIDERS: [&str; 4] = ["http-closed", "http-open", "grpc-closed", "grpc-open"];

/// The policy by which a workload asks the provider of its name about everything below /admin.
fn policy(name: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  action: CUSTOM\n  provider: {{name: {name}}}\n  \
         rules: [{{to: [{{operation: {{paths: [\"/admin/*\"]}}}}]}}]\n---\n"
    )
}

fn scale_server(lab: &Lab, replicas: u32) {
    lab.kubectl("west", &["scale", "deployment/auth", &format!("--replicas={replicas}")]).ok();
    let gone = || {
        let pods = lab.kubectl("west", &["get", "pods", "-l", "app=auth", "-o", "name"]).stdout;
        if pods.lines().count() == replicas as usize { Ok(()) } else { Err(pods) }
    };
    eventually(SOON, gone).expect("the server is scaled");
}

#[test]
fn an_external_server_decides_by_http_and_grpc_and_fails_open_or_closed() {
    let lab = lab(SERVER);
    lab.apply("west", &PROVIDERS.map(policy).concat());
    let (allow, deny) = (["-H", "x-ext-authz: allow"], ["-H", "x-ext-authz: deny"]);
    let url = |name: &str, path: &str| format!("http://{name}:9080{path}");
    for name in PROVIDERS {
        let (admin, other) = (url(name, "/admin/users"), url(name, "/other"));
        becomes(&lab, FRONTEND, &[&admin], "403");
        becomes(&lab, FRONTEND, &[&allow[..], &[&admin]].concat(), "200");
        assert_eq!(status(&lab, FRONTEND, &[&deny[..], &[&admin]].concat()), "403", "{name}");
        assert_eq!(status(&lab, FRONTEND, &[&other]), "200", "{name}: what no rule matches is not asked about");
    }
    // The application has the header of the server, and the caller the response of a denial.
    for name in ["http-closed", "grpc-closed"] {
        let admin = url(name, "/admin/users");
        let forged = ["curl", "-sS", "-H", "x-ext-authz-check-result: forged", "-H", "x-ext-authz: allow", &admin];
        let seen = lab.exec(FRONTEND, &forged).json();
        assert_eq!(seen["headers"]["x-ext-authz-check-result"], "allowed", "{name}: {seen}");
        let denied = lab.exec(FRONTEND, &["curl", "-sSi", &admin]).ok();
        assert!(denied.contains("x-ext-authz-check-result: denied"), "{name}: {denied}");
        assert!(denied.contains("denied by ext_authz"), "{name}: {denied}");
    }

    scale_server(&lab, 0);
    for (name, expected) in [("http-closed", "403"), ("http-open", "200"), ("grpc-closed", "503"), ("grpc-open", "200")]
    {
        becomes(&lab, FRONTEND, &[&deny[..], &[&url(name, "/admin/users")]].concat(), expected);
        assert_eq!(status(&lab, FRONTEND, &[&url(name, "/other")]), "200", "{name}");
    }
    scale_server(&lab, 1);
    for name in PROVIDERS {
        becomes(&lab, FRONTEND, &[&deny[..], &[&url(name, "/admin/users")]].concat(), "403");
        becomes(&lab, FRONTEND, &[&allow[..], &[&url(name, "/admin/users")]].concat(), "200");
    }
    lab.down();
}
