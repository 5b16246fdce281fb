//! The objects of the beds.

use std::path::Path;

use serde_json::{Value, json};

use crate::bed::pods::{self, program};
use crate::bed::{Mesh, split};
use crate::client::socket;
use crate::places::{self, PLAIN, TELLER};

/// The ports of a gateway's Service, with their targets. Gateways bind the targets.
const GATEWAY_PORTS: [(u16, u16); 8] =
    [(80, 8080), (443, 8443), (81, 8081), (444, 8444), (8888, 8888), (9443, 9443), (15443, 15443), (31400, 31400)];

/// Whether a bed has gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cells {
    Sidecars,
    Gateways,
}

impl Cells {
    /// The pods of a cell that are under test.
    pub(super) fn proxies(self) -> &'static [&'static str] {
        match self {
            Self::Sidecars => &["client", "server"],
            Self::Gateways => &["gateway"],
        }
    }
}

fn object(kind: &str, namespace: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    for (field, value) in fields.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

/// The namespaces of cells, servers and clients.
pub(super) fn namespaces(mesh: &Mesh) -> Vec<Value> {
    let injection = if matches!(mesh, Mesh::Isthmus) { "enabled" } else { "disabled" };
    let others = ["shop", "bank", "legacy"].map(str::to_owned);
    let namespace = |name: String| {
        let mut namespace = object("Namespace", "", &name, json!({}));
        namespace["metadata"]["labels"] = json!({"istio-injection": injection});
        namespace
    };
    places::cells().into_iter().chain(others).map(namespace).collect()
}

/// The service accounts of pods, and the right to read Secrets: istiod sends them to gateways that have it, and Isthmus's controller
/// needs it itself.
pub(super) fn accounts() -> Vec<Value> {
    let mut all: Vec<Value> = ["shop", "bank", "legacy", "istio-system"]
        .map(|space| object("ServiceAccount", space, "default", json!({})))
        .into();
    all.push(object("ServiceAccount", split(TELLER).0, split(TELLER).1, json!({})));
    for cell in places::cells() {
        all.extend(places::OF_CELL.map(|account| object("ServiceAccount", &cell, account, json!({}))));
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gateway"});
        let subject = |name: &str, of: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": of});
        let subjects = json!([subject("gateway", &cell), subject("isthmus-controller", "isthmus-system")]);
        for (kind, mut fields) in
            [("Role", json!({"rules": rules})), ("RoleBinding", json!({"roleRef": role, "subjects": subjects}))]
        {
            fields["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
            all.push(object(kind, &cell, "gateway", fields));
        }
    }
    all
}

/// The Services of servers and gateways, and subsets of the Service of three versions.
pub(super) fn services(cells: Cells) -> Vec<Value> {
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target});
    let ports = json!([
        port("http", 80, 8080),
        port("http-second", 81, 8081),
        port("tls", 443, 9443),
        port("https", 444, 8443),
        port("tcp", 9000, 9000),
    ]);
    let service = |namespace: &str, name: &str, app: &str, ports: &Value| {
        object("Service", namespace, name, json!({"spec": {"selector": {"app": app}, "ports": ports}}))
    };
    let mut all = vec![
        service("shop", "server", "server", &ports),
        service("shop", "other", "other", &ports),
        service("bank", "server", "server", &ports),
    ];
    for version in ["v1", "v2"] {
        let spec = json!({
            "clusterIP": "None", "selector": {"app": "server", "version": version}, "ports": [port("http", 80, 8080)],
        });
        let mut hidden = object("Service", "shop", &format!("hidden-{version}"), json!({"spec": spec}));
        hidden["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": "~"});
        all.push(hidden);
    }
    for cell in places::cells() {
        all.push(match cells {
            Cells::Sidecars => service(&cell, "server", "server", &ports),
            Cells::Gateways => {
                let ports = GATEWAY_PORTS.map(|(number, target)| port(&format!("port-{number}"), number, target));
                service(&cell, "gateway", "gateway", &json!(ports))
            }
        });
    }
    let subsets = ["v1", "v2", "v3"].map(|version| json!({"name": version, "labels": {"version": version}}));
    let spec = json!({"spec": {"host": "server.shop.svc.cluster.local", "subsets": subsets}});
    let mut rule = object("DestinationRule", "shop", "server", spec);
    rule["apiVersion"] = json!("networking.istio.io/v1");
    all.push(rule);
    all
}

/// The servers outside of cells.
pub(super) fn servers(directory: &Path) -> Vec<Value> {
    let mut all = pods::servers(directory);
    all.retain(|pod| {
        let named = |name: &str| pod["metadata"]["name"] == name;
        ["v1", "v2", "v3", "other", "bank-v1"].into_iter().any(named)
    });
    all
}

/// A pod with an agent, and with a server if it is one.
fn pod(directory: &Path, namespace: &str, name: &str, account: &str) -> Value {
    let socket = socket(directory, &format!("{namespace}/{name}"));
    let mut arguments = match name {
        "server" => vec![json!("server"), json!("--name"), json!("server"), json!("--directory"), json!(directory)],
        _ => vec![json!("client")],
    };
    arguments.extend([json!("--socket"), json!(socket)]);
    let labels = json!({"app": name, "version": "v1", "cell": namespace});
    let mut pod = object("Pod", namespace, name, json!({}));
    pod["metadata"]["labels"] = labels;
    pod["spec"] = json!({
        "serviceAccountName": account,
        "containers": [{
            "name": "agent", "image": "isthmus-conformance", "command": [program(directory)], "args": arguments,
            "readinessProbe": {"exec": {"command": ["test", "-S", socket]}, "periodSeconds": 1},
        }],
    });
    pod
}

/// A pod of a cell.
pub(super) fn of_cell(directory: &Path, cell: &str, name: &str, mesh: &Mesh) -> Value {
    let mut pod = pod(directory, cell, name, name);
    if name == "gateway" {
        pod["metadata"]["labels"]["istio"] = json!("ingressgateway");
        if matches!(mesh, Mesh::Isthmus) {
            // As users of Istio write the pods of their gateways.
            pod["metadata"]["annotations"] = json!({"inject.istio.io/templates": "gateway"});
            pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("true");
            if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
                containers.push(json!({"name": "istio-proxy", "image": "auto"}));
            }
        }
    }
    pod
}

/// A client outside of cells, with a sidecar unless it is [`PLAIN`].
pub(super) fn client(directory: &Path, client: &str) -> Value {
    let (namespace, name) = split(client);
    let mut pod = pod(directory, namespace, name, if client == PLAIN { "default" } else { name });
    if client == PLAIN {
        pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
    }
    pod
}

/// Objects by whose name it is known what is in force: in an Envoy, of any scope, a cluster; in a sidecar of Isthmus, a policy; in a
/// gateway of Isthmus, a host. No request is for the port of either.
pub(super) fn marks(generation: usize, is_istio: bool) -> Vec<Value> {
    let name = name_of_mark(generation);
    let marked = |kind: &str, group: &str, spec: Value| {
        let mut object = object(kind, "istio-system", &name, json!({"spec": spec}));
        object["apiVersion"] = json!(format!("{group}.istio.io/v1"));
        object
    };
    if is_istio {
        let cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "1s"});
        let patch = json!({"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": cluster}});
        let mut filter = marked("EnvoyFilter", "networking", json!({"configPatches": [patch]}));
        filter["apiVersion"] = json!("networking.istio.io/v1alpha3");
        return vec![filter];
    }
    let denied = json!([{"to": [{"operation": {"ports": ["7777"]}}]}]);
    let policy = marked("AuthorizationPolicy", "security", json!({"action": "DENY", "rules": denied}));
    let hosts = json!([format!("{name}.example")]);
    let server = json!({"port": {"number": 7777, "name": "mark", "protocol": "HTTP"}, "hosts": hosts});
    let gateway = json!({"selector": {"istio": "ingressgateway"}, "servers": [server]});
    let routes = json!([{"directResponse": {"status": 200}}]);
    let service = json!({"hosts": hosts, "gateways": [name], "http": routes});
    vec![policy, marked("Gateway", "networking", gateway), marked("VirtualService", "networking", service)]
}

/// The name of a mark.
pub(super) fn name_of_mark(generation: usize) -> String {
    format!("mark-{generation:04}")
}
