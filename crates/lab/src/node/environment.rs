//! The environment of a container: `env`, `envFrom`, and `$(NAME)` references.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::cluster::{Data, DataKind, ObjectCache};
use super::fields::{DownwardAddresses, field, resource};

/// Names with their values, in the order of first use.
pub(super) type Environment = Vec<(String, String)>;

/// Sources of a container's environment.
#[derive(Clone, Copy)]
pub(super) struct EnvironmentSource<'a> {
    pub pod: &'a Pod,
    pub addresses: DownwardAddresses<'a>,
    pub objects: &'a ObjectCache,
    /// Address of the API server inside of the cluster.
    pub api: SocketAddr,
}

/// Directory of this program in every container.
pub(super) const OWN_PROGRAMS: &str = "/run/isthmus/bin";

/// Returns the environment of a container.
///
/// An error is the message of a container that waits with `CreateContainerConfigError`.
pub(super) fn resolve(source: EnvironmentSource<'_>, container: &Container) -> Result<Environment, String> {
    let mut environment = Environment::new();
    let name = source.pod.metadata.name.clone().unwrap_or_default();
    let spec = source.pod.spec.as_ref();
    let host_name = spec.and_then(|spec| spec.hostname.clone()).unwrap_or(name);
    for (name, value) in [
        ("PATH", format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{OWN_PROGRAMS}")),
        ("HOME", "/root".into()),
        ("HOSTNAME", host_name),
        ("KUBERNETES_SERVICE_HOST", source.api.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT", source.api.port().to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", source.api.port().to_string()),
    ] {
        set(&mut environment, name, value);
    }
    if container.tty == Some(true) {
        set(&mut environment, "TERM", "xterm".into());
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let wanted = [
            from.config_map_ref.as_ref().map(|wanted| (DataKind::ConfigMap, wanted.name.as_str(), wanted.optional)),
            from.secret_ref.as_ref().map(|wanted| (DataKind::Secret, wanted.name.as_str(), wanted.optional)),
        ];
        for (kind, name, optional) in wanted.into_iter().flatten() {
            let Some(data) = object(source, kind, name, optional)? else { continue };
            for (key, value) in data.iter() {
                set(&mut environment, &format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => match valued(source, container, from)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, &environment),
            (None, None) => String::new(),
        };
        set(&mut environment, &variable.name, value);
    }
    Ok(environment)
}

/// Returns the value of `valueFrom`; `None` if it is optional and missing.
fn valued(source: EnvironmentSource<'_>, container: &Container, from: &EnvVarSource) -> Result<Option<String>, String> {
    if let Some(wanted) = &from.field_ref {
        return field(source.pod, source.addresses, &wanted.field_path).map(Some);
    }
    if let Some(wanted) = &from.resource_field_ref {
        return resource(source.pod, container, wanted).map(Some);
    }
    let (kind, name, key, optional) = match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(wanted), _) => (DataKind::Secret, &wanted.name, &wanted.key, wanted.optional),
        (_, Some(wanted)) => (DataKind::ConfigMap, &wanted.name, &wanted.key, wanted.optional),
        _ => return Err("valueFrom has no source".into()),
    };
    let Some(data) = object(source, kind, name, optional)? else { return Ok(None) };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => {
            let namespace = source.pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
        }
    }
}

fn object(
    source: EnvironmentSource<'_>,
    kind: DataKind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<Arc<Data>>, String> {
    let namespace = source.pod.metadata.namespace.as_deref().unwrap_or_default();
    match source.objects.get(kind, namespace, name) {
        Some(data) => Ok(Some(data)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("{kind} {name:?} not found")),
    }
}

fn set(environment: &mut Environment, name: &str, value: String) {
    match environment.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => environment.push((name.to_owned(), value)),
    }
}

/// Replaces `$(NAME)` with a known value, and `$$` with a dollar sign. An unknown name stays as it is.
pub(super) fn expand(text: &str, environment: &Environment) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, after)| Some((lookup(name, environment)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn lookup<'a>(name: &str, environment: &'a Environment) -> Option<&'a str> {
    environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded() {
        let environment = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, expanded) in [
            ("$(A)-$(B)", "1-$(A)"),
            ("$$(A)", "$(A)"),
            ("$(MISSING) $x $", "$(MISSING) $x $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &environment), expanded, "{text}");
        }
    }

    #[test]
    fn values_come_from_every_source() {
        let objects = ObjectCache::default();
        objects.put(DataKind::ConfigMap, "shop", "settings", Some([("K".to_owned(), b"v".to_vec())].into()));
        objects.put(DataKind::Secret, "shop", "keys", Some([("S".to_owned(), b"hidden".to_vec())].into()));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}})).unwrap();
        let pod_addresses = ["10.244.0.9".parse().unwrap(), "fd00:10:244::9".parse().unwrap()];
        let host_addresses = ["203.0.113.1".parse().unwrap()];
        let source = EnvironmentSource {
            pod: &pod,
            addresses: DownwardAddresses { pod: &pod_addresses, host: &host_addresses },
            objects: &objects,
            api: "10.96.0.1:443".parse().unwrap(),
        };
        let container = |env: serde_json::Value| serde_json::from_value::<Container>(env).unwrap();
        let full = container(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "S"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "T", "optional": true}}},
                {"name": "URL", "value": "http://$(IP):$(P_K)/$(LATER)"},
                {"name": "LATER", "value": "x"}]}));
        let environment = resolve(source, &full).unwrap();
        let get = |name: &str| lookup(name, &environment).map(str::to_owned);
        assert_eq!(get("URL").as_deref(), Some("http://10.244.0.9:v/$(LATER)"));
        assert_eq!(get("IPS").as_deref(), Some("10.244.0.9,fd00:10:244::9"));
        assert_eq!(get("SECRET").as_deref(), Some("hidden"));
        assert_eq!(get("KUBERNETES_SERVICE_HOST").as_deref(), Some("10.96.0.1"));
        assert_eq!((get("GONE"), get("HOSTNAME")), (None, Some("p".into())));

        let missing = container(json!({"name": "c", "envFrom": [{"secretRef": {"name": "none"}}]}));
        assert_eq!(resolve(source, &missing).unwrap_err(), "secret \"none\" not found");
        let missing = container(json!({"name": "c", "env": [
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "Z"}}}]}));
        assert_eq!(resolve(source, &missing).unwrap_err(), "couldn't find key Z in configmap shop/settings");
    }
}
