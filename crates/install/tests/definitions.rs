//! Tests of the custom resource definitions with an API server: the configurations that users have are admitted as they are,
//! and a typing error is refused.

use std::net::TcpListener;
use std::path::Path;

use isthmus_install::{apply, definitions};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// An API server with the definitions.
struct Cluster {
    client: Client,
    stop: CancellationToken,
}

impl Cluster {
    async fn start() -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (options, kubeconfig) = apiserver::Options::for_tests(vec![listener]).expect("options");
        let stop = CancellationToken::new();
        tokio::spawn(apiserver::Server::new(options).expect("a server").run(stop.clone()));
        let parsed = Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.expect("config");
        let client = Client::try_from(config).expect("a client");
        let namespaces = ["istio-system", "production"]
            .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        let objects = definitions::all().into_iter().chain(namespaces).collect();
        apply::apply(&client, "test", objects).await.expect("the definitions are valid");
        Cluster { client, stop }
    }

    /// Applies an object with strict validation of fields, as kubectl does, and returns what is stored.
    async fn apply(&self, object: &Value) -> Result<DynamicObject, String> {
        let text = |field: &str| object[field].as_str().expect("a text");
        let (group, version) = text("apiVersion").split_once('/').expect("a group");
        let plural = plural(text("kind")).expect("a defined kind");
        let kind = GroupVersionKind::gvk(group, version, text("kind"));
        let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        let params = PatchParams::apply("test").validation_strict();
        let mut tries = 0;
        loop {
            match api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await {
                // The kind was defined a moment ago.
                Err(kube::Error::Api(status)) if status.code == 404 && tries < 100 => {
                    tries += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                other => return other.map_err(|error| error.to_string()),
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Returns the plural of a kind if it is a custom resource.
fn plural(kind: &str) -> Option<String> {
    let definitions = definitions::all();
    let found = definitions.iter().find(|definition| definition["spec"]["names"]["kind"] == kind)?;
    found["spec"]["names"]["plural"].as_str().map(str::to_owned)
}

/// Returns the custom resources of a file.
fn custom_resources(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("read");
    let documents = text.split("\n---\n").map(|document| api::yaml::from_str::<Value>(document).expect("YAML"));
    documents.filter(|object| plural(object["kind"].as_str().unwrap_or_default()).is_some()).collect()
}

#[tokio::test]
async fn configurations_that_users_have_are_admitted_as_they_are() {
    let cluster = Cluster::start().await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/accepted");
    let mut admitted = 0;
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let file = entry.expect("an entry").path();
        for object in custom_resources(&file) {
            let stored = cluster.apply(&object).await;
            let stored = stored.unwrap_or_else(|error| panic!("{}: {error}\n{object:#}", file.display()));
            assert_eq!(stored.data["spec"], object["spec"], "{}", file.display());
            admitted += 1;
        }
    }
    assert_eq!(admitted, 20);
}

#[tokio::test]
async fn a_typing_error_is_refused() {
    let cluster = Cluster::start().await;
    let object = |group: &str, kind: &str, spec: Value| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    let policy = |spec| object("security.istio.io", "AuthorizationPolicy", spec);
    let rule = |spec| object("networking.istio.io", "DestinationRule", spec);
    let routes = |spec| object("networking.istio.io", "VirtualService", spec);
    for (object, why) in [
        (policy(json!({"acton": "DENY"})), "unknown field \"spec.acton\""),
        (policy(json!({"action": "REFUSE"})), "supported values"),
        (policy(json!({"rules": [{"from": [{"source": {"principal": ["a"]}}]}]})), "source.principal\""),
        (rule(json!({"host": "a", "trafficPolicy": {"outlierDetection": {"interal": "3s"}}})), "interal"),
        (rule(json!({"subsets": []})), "spec.host: Required value"),
        (routes(json!({"hosts": ["a"], "http": [{"timeout": "soon"}]})), "should match"),
        (routes(json!({"hosts": "a"})), "must be of type array"),
    ] {
        let error = cluster.apply(&object).await.expect_err(why);
        assert!(error.contains(why), "{error}");
    }
}
