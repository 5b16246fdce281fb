//! Namespaces, mesh-wide settings, root certificates and signing Secrets.

use api::names;
use serde_json::{Value, json};

use crate::components::{KEY_SERVERS, KEY_SERVERS_FILE};
use crate::gateways;
use crate::settings::{ControlPlane, Installation, KeyServers, SigningSecret};

/// The namespaces: of the components, of the mesh's configuration, those with injection, and those of gateways.
pub(super) fn namespaces(of: &Installation) -> Vec<Value> {
    let network = || json!({names::NETWORK_LABEL: of.network});
    let own = [&of.namespace, &of.root_namespace].map(|name| (name, network()));
    let injected = of.injected_namespaces.iter().map(|name| (name, json!({"istio-injection": "enabled"})));
    let of_gateways = gateway_namespaces(of).map(|name| (name, network()));
    let namespace = |(name, labels): (&String, Value)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    own.into_iter().chain(injected).chain(of_gateways).map(namespace).collect()
}

/// The namespaces that only gateways need.
fn gateway_namespaces(of: &Installation) -> impl Iterator<Item = &String> {
    let others = [&of.namespace, &of.root_namespace];
    let only = move |name: &&String| !others.contains(name) && !of.injected_namespaces.contains(name);
    gateways::namespaces(of).into_iter().filter(only)
}

/// The ConfigMaps and Secrets.
pub(super) fn all(of: &Installation) -> Vec<Value> {
    let mut objects = vec![mesh_config(of)];
    let namespaces = [&of.namespace, &of.root_namespace].into_iter().chain(&of.injected_namespaces);
    let namespaces = namespaces.chain(gateway_namespaces(of));
    objects.extend(namespaces.map(|namespace| root_certificate(namespace, of)));
    if let ControlPlane::Local { signing } = &of.control_plane {
        objects.extend(signing.iter().map(|secret| signing_secret(secret, &of.root_namespace)));
        objects.extend(of.key_servers.as_ref().map(|servers| key_server_authorities(servers, &of.namespace)));
    }
    objects
}

fn mesh_config(of: &Installation) -> Value {
    let mut settings = of.mesh_config.clone();
    settings.entry("trustDomain").or_insert_with(|| json!(of.trust_domain));
    // JSON is YAML, which is what the key holds.
    let text = format!("{:#}", Value::Object(settings));
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": names::MESH_CONFIG_MAP, "namespace": of.root_namespace},
        "data": {names::MESH_CONFIG_KEY: text},
    })
}

/// The root certificate where pods mount it. The controller keeps it up to date; it is written here as well, so that the
/// first pods do not wait for the controller.
fn root_certificate(namespace: &str, of: &Installation) -> Value {
    let mut data = json!({names::ROOT_CONFIG_KEY: of.roots_pem});
    if !of.controller_issuer_pem.is_empty() {
        data[names::CONTROLLER_ISSUER_KEY] = json!(of.controller_issuer_pem);
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": names::ROOT_CONFIG_MAP, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": data,
    })
}

/// The certificate authorities of servers of keys, where the controller mounts them.
fn key_server_authorities(of: &KeyServers, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": KEY_SERVERS, "namespace": namespace},
        "data": {KEY_SERVERS_FILE: of.authorities_pem},
    })
}

fn signing_secret(secret: &SigningSecret, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root",
        "metadata": {"name": secret.name, "namespace": namespace},
        "stringData": secret.entries,
    })
}
