//! The downward API: `fieldRef` and `resourceFieldRef`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// Addresses of a pod, which are not in its spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct DownwardAddresses<'a> {
    /// Addresses of the pod, one of each IP family; none before its network exists.
    pub pod: &'a [IpAddr],
    /// Addresses of the node, one of each IP family.
    pub host: &'a [IpAddr],
}

/// Returns the value of a field, by `fieldRef.fieldPath`.
pub(super) fn field(pod: &Pod, addresses: DownwardAddresses<'_>, path: &str) -> Result<String, String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    let all = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => text(&metadata.name),
        "metadata.namespace" => text(&metadata.namespace),
        "metadata.uid" => text(&metadata.uid),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.map(|spec| text(&spec.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => service_account(pod),
        "status.podIP" => first(addresses.pod),
        "status.podIPs" => all(addresses.pod),
        "status.hostIP" => first(addresses.host),
        "status.hostIPs" => all(addresses.host),
        _ => {
            let (map, key) = subscript(path).ok_or_else(|| format!("unsupported fieldPath {path:?}"))?;
            let found = match map {
                "metadata.labels" => metadata.labels.as_ref(),
                "metadata.annotations" => metadata.annotations.as_ref(),
                _ => return Err(format!("unsupported fieldPath {path:?}")),
            };
            found.and_then(|found| found.get(key)).cloned().unwrap_or_default()
        }
    })
}

/// Returns the pod's service account; `default` if it names none.
pub(super) fn service_account(pod: &Pod) -> String {
    let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
}

/// Splits `metadata.labels['key']` into map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let quoted = |quote| key.strip_prefix(quote).and_then(|key| key.strip_suffix(quote));
    Some((map, quoted('\'').or_else(|| quoted('"'))?))
}

/// Formats a map as a file of the downward API: `key="value"` lines in order.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns a container's resource request or limit, divided and rounded up as Kubernetes does. A missing limit is the
/// machine's capacity.
pub(super) fn resource(pod: &Pod, own: &Container, selector: &ResourceFieldSelector) -> Result<String, String> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty() && *name != own.name) {
        None => own,
        Some(name) => {
            let spec = pod.spec.as_ref();
            let all =
                spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            let mut all = all.filter(|container| container.name == name);
            all.next().ok_or_else(|| format!("there is no container {name:?}"))?
        }
    };
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("resource {:?} is not limits.NAME or requests.NAME", selector.resource))?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let given = match kind {
        "limits" => limits.and_then(|map| map.get(name)),
        "requests" => requests.and_then(|map| map.get(name)).or_else(|| limits.and_then(|map| map.get(name))),
        _ => return Err(format!("resource {:?} is not limits.NAME or requests.NAME", selector.resource)),
    };
    let amount = match (given, name, kind) {
        (Some(given), ..) => quantity(&given.0)?,
        (None, _, "requests") => 0.0,
        (None, "cpu", _) => std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
        (None, "memory", _) => machine_memory(),
        (None, ..) => 0.0,
    };
    let divisor = selector.divisor.as_ref().map(|divisor| quantity(&divisor.0)).transpose()?;
    let divisor = divisor.filter(|divisor| *divisor > 0.0).unwrap_or(1.0);
    Ok(format!("{}", (amount / divisor).ceil() as i64))
}

/// Returns the machine's memory, in bytes.
pub(super) fn machine_memory() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kibibytes.unwrap_or_default() * 1024.0
}

/// Parses a Kubernetes quantity: `100m`, `1.5`, `64Mi`, `1e3`.
fn quantity(text: &str) -> Result<f64, String> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("Ti", 1099511627776.0),
        ("Pi", 1125899906842624.0),
        ("Ei", 1152921504606846976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let found = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1.0));
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a quantity"))?;
    Ok(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u", "labels": {"app": "web", "a/b": "c"}},
            "spec": {"nodeName": "west-1", "containers": [
                {"name": "main", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_have_values() {
        let of = |texts: [&str; 2]| texts.map(|text| text.parse::<IpAddr>().unwrap());
        let (pod_ips, host_ips) = (of(["10.244.0.2", "fd00:10::2"]), of(["203.0.113.1", "2001:db8::1"]));
        let addresses = DownwardAddresses { pod: &pod_ips, host: &host_ips };
        for (path, value) in [
            ("metadata.name", "web-1"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels[\"a/b\"]", "c"),
            ("metadata.labels", "a/b=\"c\"\napp=\"web\""),
            ("metadata.annotations['none']", ""),
            ("spec.serviceAccountName", "default"),
            ("status.podIP", "10.244.0.2"),
            ("status.podIPs", "10.244.0.2,fd00:10::2"),
            ("status.hostIP", "203.0.113.1"),
            ("status.hostIPs", "203.0.113.1,2001:db8::1"),
        ] {
            assert_eq!(field(&pod(), addresses, path).as_deref(), Ok(value), "{path}");
        }
        assert!(field(&pod(), addresses, "spec.nothing").unwrap_err().contains("spec.nothing"));
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod = pod();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        for (wanted, divisor, value) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("limits.memory", "1Mi", "64"),
            ("requests.cpu", "1m", "1500"),
        ] {
            let selector = serde_json::json!({"resource": wanted, "divisor": divisor});
            let selector = serde_json::from_value(selector).unwrap();
            assert_eq!(resource(&pod, container, &selector).as_deref(), Ok(value), "{wanted}");
        }
        assert!(quantity("many").is_err());
    }
}
