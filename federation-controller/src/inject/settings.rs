//! The sidecar settings in a pod's annotations.
//!
//! A pod with an invalid value is refused with a message that names the annotation: a pod with other traffic settings
//! than the annotations specify would be worse. A setting without effect in this mesh produces a warning, which
//! `kubectl` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::mesh::{MeshConfigError, ProxySettings};
use ipnet::IpNet;
use serde_json::Value;

use crate::inventory::ProxyLayers;

const TRAFFIC: &str = "traffic.sidecar.istio.io/";
const SIDECAR: &str = "sidecar.istio.io/";
const PROXY_CONFIG: &str = "proxy.istio.io/config";
/// The maximum number of ranges or ports in an annotation, and of ranges in the complement of a list. Anybody who may create a
/// pod writes annotations, and each range is a packet rule.
const MAX_ITEMS: usize = 2048;

/// The settings of a pod's sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The ports whose inbound connections bypass the sidecar.
    pub exclude_inbound_ports: Vec<u16>,
    /// The ports whose outbound connections bypass the sidecar.
    pub exclude_outbound_ports: Vec<u16>,
    /// The destinations whose outbound connections bypass the sidecar.
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// The sidecar is an ordinary container, instead of one that starts before the application and stops after it.
    pub ordinary_container: bool,
    /// Probes of the application go to the application.
    pub keep_probes: bool,
    /// The environment variables of the sidecar.
    pub env: BTreeMap<String, String>,
    /// The image of the sidecar, if it is not the configured one.
    pub image: Option<String>,
    /// The resources of the sidecar's containers, by `requests` or `limits` and by `cpu` or `memory`.
    pub resources: BTreeMap<(&'static str, &'static str), String>,
    /// Warnings about settings without effect.
    pub warnings: Vec<String>,
    /// The settings of annotation `proxy.istio.io/config`.
    annotated: ProxySettings,
}

/// An annotation with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation} has the invalid value {value:?}; expected {expected}")]
pub struct SettingsError {
    /// The name of the annotation.
    pub annotation: String,
    /// The value.
    pub value: String,
    /// The expected form.
    pub expected: &'static str,
}

impl Settings {
    /// Parses a pod's annotations; `declared` are the ports of its containers, and `layers` the settings of its proxy
    /// that are not in annotations.
    ///
    /// # Errors
    /// Returns [`SettingsError`] for the first invalid annotation.
    pub fn read(annotations: &Value, declared: &[u16], layers: &ProxyLayers) -> Result<Settings, SettingsError> {
        let empty = serde_json::Map::new();
        let mut settings = Settings::default();
        for (name, value) in annotations.as_object().unwrap_or(&empty) {
            let Some(value) = value.as_str() else { continue };
            if let Some(rest) = name.strip_prefix(TRAFFIC) {
                settings.traffic(name, rest, value.trim(), declared)?;
            } else if let Some(rest) = name.strip_prefix(SIDECAR) {
                settings.sidecar(name, rest, value);
            } else if name == PROXY_CONFIG {
                settings.proxy_config(name, value)?;
            }
        }
        let proxy = layers.above.clone().over(&std::mem::take(&mut settings.annotated).over(&layers.below));
        settings.apply(&proxy);
        match proxy.hold_application {
            Some(true) if settings.ordinary_container => settings.warnings.push(format!(
                "{PROXY_CONFIG}: holdApplicationUntilProxyStarts: has no effect with {SIDECAR}nativeSidecar: \"false\""
            )),
            Some(false) if !settings.ordinary_container => settings.warnings.push(format!(
                "{PROXY_CONFIG}: holdApplicationUntilProxyStarts: false: has no effect; the application starts after its sidecar unless {SIDECAR}nativeSidecar is \"false\""
            )),
            _ => {}
        }
        Ok(settings)
    }

    fn traffic(&mut self, name: &str, rest: &str, value: &str, declared: &[u16]) -> Result<(), SettingsError> {
        match rest {
            "excludeInboundPorts" => self.exclude_inbound_ports.extend(ports(name, value)?),
            "excludeOutboundPorts" => self.exclude_outbound_ports.extend(ports(name, value)?),
            "excludeOutboundIPRanges" => self.exclude_outbound_ranges.extend(ranges(name, value)?),
            "includeInboundPorts" if value == "*" => {}
            "includeInboundPorts" => {
                let included: BTreeSet<u16> = ports(name, value)?.into_iter().collect();
                self.exclude_inbound_ports.extend(declared.iter().filter(|port| !included.contains(port)));
                self.warnings.push(format!(
                    "{name}: ports that the pod's containers do not declare are still captured; list them in {TRAFFIC}excludeInboundPorts"
                ));
            }
            "includeOutboundIPRanges" if value == "*" => {}
            "includeOutboundIPRanges" => {
                let outside = complement(&ranges(name, value)?);
                if outside.len() > MAX_ITEMS {
                    return Err(wrong(name, value, "a shorter list of ranges"));
                }
                self.exclude_outbound_ranges.extend(outside);
            }
            "includeOutboundPorts" => {
                ports(name, value)?;
                self.warnings
                    .push(format!("{name}: has no effect; connections to captured ranges are captured on every port"));
            }
            other => self.warnings.push(format!("{TRAFFIC}{other}: is unknown and has no effect")),
        }
        Ok(())
    }

    fn sidecar(&mut self, name: &str, rest: &str, value: &str) {
        match rest {
            // `rules` decides by these.
            "inject" | "status" => {}
            "proxyImage" => self.image = Some(value.to_owned()),
            "proxyCPU" => self.resource("requests", "cpu", value),
            "proxyMemory" => self.resource("requests", "memory", value),
            "proxyCPULimit" => self.resource("limits", "cpu", value),
            "proxyMemoryLimit" => self.resource("limits", "memory", value),
            "logLevel" => {
                self.env.insert("ISTHMUS_LOG".to_owned(), value.to_owned());
            }
            "nativeSidecar" => self.ordinary_container = value == "false",
            "rewriteAppHTTPProbers" => self.keep_probes = value == "false",
            _ => self.warnings.push(format!("{name}: has no effect in this mesh")),
        }
    }

    fn resource(&mut self, kind: &'static str, what: &'static str, value: &str) {
        self.resources.insert((kind, what), value.to_owned());
    }

    /// Parses Istio's ProxyConfig; fields without effect produce warnings.
    fn proxy_config(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        let config: serde_json::Map<String, Value> =
            api::yaml::from_str(value).map_err(|_| wrong(name, value, "a YAML mapping"))?;
        let (settings, warnings) = ProxySettings::read(&format!("{name}: "), config).map_err(|error| match error {
            MeshConfigError::Value { field, found, expected } => wrong(&field, &found, expected),
            _ => wrong(name, value, "a YAML mapping"),
        })?;
        self.annotated = settings;
        self.warnings.extend(warnings.iter().map(ToString::to_string));
        Ok(())
    }

    /// Sets the environment variables by which the sidecar has these settings. Those of other annotations stay.
    fn apply(&mut self, proxy: &ProxySettings) {
        let mut env = proxy.variables.clone();
        // 0 is the proxy's default.
        if let Some(threads) = proxy.concurrency.filter(|threads| *threads > 0) {
            env.insert("CONCURRENCY".to_owned(), threads.to_string());
        }
        if let Some(drain) = proxy.termination_drain {
            let seconds = drain.as_secs_f64().ceil();
            env.insert("TERMINATION_DRAIN_DURATION_SECONDS".to_owned(), format!("{seconds:.0}"));
        }
        env.append(&mut self.env);
        self.env = env;
    }
}

fn wrong(annotation: &str, value: &str, expected: &'static str) -> SettingsError {
    SettingsError { annotation: annotation.to_owned(), value: value.chars().take(120).collect(), expected }
}

fn ports(name: &str, value: &str) -> Result<Vec<u16>, SettingsError> {
    let port = |part: &str| part.parse::<u16>().ok().filter(|port| *port != 0);
    list(name, value, port, "a comma-separated list of ports, at most 2048")
}

fn ranges(name: &str, value: &str) -> Result<Vec<IpNet>, SettingsError> {
    let range = |part: &str| part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok();
    let ranges = list(name, value, range, "a comma-separated list of CIDR ranges, at most 2048")?;
    Ok(ranges.into_iter().map(|range| range.trunc()).collect())
}

/// Parses a list, whose length is checked before its items.
fn list<T>(
    name: &str,
    value: &str,
    item: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Result<Vec<T>, SettingsError> {
    let parts = || value.split(',').map(str::trim).filter(|part| !part.is_empty());
    if parts().nth(MAX_ITEMS).is_some() {
        return Err(wrong(name, value, expected));
    }
    parts().map(|part| item(part).ok_or_else(|| wrong(name, value, expected))).collect()
}

/// Returns the ranges of both address families that `ranges` do not cover; more than [`MAX_ITEMS`] are not complete.
fn complement(ranges: &[IpNet]) -> Vec<IpNet> {
    // Sorted and disjoint.
    let ranges = IpNet::aggregate(&ranges.to_vec());
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = ranges.into_iter().partition(|range| range.addr().is_ipv4());
    let mut outside = Vec::new();
    subtract(IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), &v4, &mut outside);
    subtract(IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), &v6, &mut outside);
    outside
}

/// Adds the parts of `net` that no range covers, by halving `net` until each part is covered entirely or not at all.
/// `ranges` are the ranges that overlap with `net`, sorted and disjoint.
fn subtract(net: IpNet, ranges: &[IpNet], outside: &mut Vec<IpNet>) {
    let Some(first) = ranges.first() else {
        outside.push(net);
        return;
    };
    if first.contains(&net) || outside.len() > MAX_ITEMS {
        return;
    }
    // `net` strictly contains a range, so it is not a single address and has halves.
    let mut rest = ranges;
    for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
        let (within, after) = rest.split_at(rest.partition_point(|range| range.network() <= half.broadcast()));
        subtract(half, within, outside);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(annotations: Value) -> Result<Settings, SettingsError> {
        Settings::read(&annotations, &[9080, 9090], &ProxyLayers::default())
    }

    #[test]
    fn traffic_annotations() {
        let settings = read(json!({
            "traffic.sidecar.istio.io/excludeInboundPorts": "22, 80",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges": "169.254.169.254,10.1.2.3/16",
            "traffic.sidecar.istio.io/includeInboundPorts": "9080",
        }))
        .unwrap();
        assert_eq!(settings.exclude_inbound_ports, [22, 80, 9090]);
        assert_eq!(settings.exclude_outbound_ports, [3306]);
        let ranges: Vec<_> = settings.exclude_outbound_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["169.254.169.254/32", "10.1.0.0/16"]);
        assert_eq!(settings.warnings.len(), 1);

        let all = json!({"traffic.sidecar.istio.io/includeInboundPorts": "*", "traffic.sidecar.istio.io/includeOutboundIPRanges": "*"});
        assert_eq!(read(all).unwrap(), Settings::default());
        for (name, value) in [
            ("excludeInboundPorts", "http"),
            ("excludeInboundPorts", "0"),
            ("excludeOutboundPorts", "70000"),
            ("excludeOutboundIPRanges", "10.0.0.0/40"),
            ("includeOutboundIPRanges", "everything"),
        ] {
            let name = format!("{TRAFFIC}{name}");
            let error = read(json!({name.clone(): value})).unwrap_err();
            assert!(error.to_string().contains(&name) && error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn included_ranges_exclude_their_complement() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let outside = complement(&[net("10.0.0.0/8"), net("10.1.0.0/16"), net("fd00::/8")]);
        let covered = |ip: &str| outside.iter().any(|range| range.contains(&ip.parse::<IpAddr>().unwrap()));
        for (ip, expected) in [
            ("10.0.0.0", false),
            ("10.255.255.255", false),
            ("9.255.255.255", true),
            ("11.0.0.0", true),
            ("255.255.255.255", true),
            ("fd12::1", false),
            ("fe80::1", true),
            ("::1", true),
        ] {
            assert_eq!(covered(ip), expected, "{ip}");
        }
        assert_eq!(outside.len(), 16);
        assert_eq!(complement(&[]).len(), 2);
        assert_eq!(complement(&[net("0.0.0.0/0"), net("::/0")]), []);
        assert_eq!(complement(&[net("1.2.3.4/32")]).len(), 33);
    }

    #[test]
    fn long_lists_are_refused_before_they_are_parsed_and_the_work_for_others_is_linear() {
        let many = |count: u32| -> String {
            let ranges = (0..count).map(|i| Ipv4Addr::from(0x0a00_0000 + i * 512).to_string());
            ranges.collect::<Vec<_>>().join(",")
        };
        for name in ["includeOutboundIPRanges", "excludeOutboundIPRanges", "excludeInboundPorts", "includeInboundPorts"]
        {
            let error =
                read(json!({format!("{TRAFFIC}{name}"): format!("{},not an item", many(200_000))})).unwrap_err();
            assert!(error.to_string().contains("at most 2048") && error.value.len() <= 120, "{error}");
        }
        // Their complement is larger than what is accepted, and is not computed to its end.
        let nets: Vec<IpNet> = many(2_048).split(',').map(|ip| IpNet::from(ip.parse::<IpAddr>().unwrap())).collect();
        let outside = complement(&nets).len();
        assert!(outside > MAX_ITEMS && outside < MAX_ITEMS + 200, "{outside}");
        assert!(read(json!({format!("{TRAFFIC}includeOutboundIPRanges"): many(2_048)})).is_err());
        let several = read(json!({format!("{TRAFFIC}includeOutboundIPRanges"): many(50)})).unwrap();
        let covers = |ip: &str| {
            several.exclude_outbound_ranges.iter().any(|range| range.contains(&ip.parse::<IpAddr>().unwrap()))
        };
        assert!(!covers("10.0.0.0") && covers("10.0.0.1") && !covers("10.0.98.0") && covers("10.0.100.0"));
    }

    #[test]
    fn the_kind_of_container_and_probes() {
        let native = format!("{SIDECAR}nativeSidecar");
        let hold = |hold: bool| format!("holdApplicationUntilProxyStarts: {hold}");
        for (kind, holds, ordinary, warnings) in
            [("true", true, false, 0), ("true", false, false, 1), ("false", false, true, 0), ("false", true, true, 1)]
        {
            let settings = read(json!({&native: kind, PROXY_CONFIG: hold(holds)})).unwrap();
            assert_eq!((settings.ordinary_container, settings.warnings.len()), (ordinary, warnings), "{kind} {holds}");
        }
        assert!(read(json!({format!("{SIDECAR}rewriteAppHTTPProbers"): "false"})).unwrap().keep_probes);
    }

    #[test]
    fn proxy_config_and_resources() {
        let settings = read(json!({
            "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true\nconcurrency: 2\nterminationDrainDuration: 7s\nproxyMetadata:\n  A: b\n  N: 1\ntracing: {}\n",
            "sidecar.istio.io/proxyCPU": "50m",
            "sidecar.istio.io/proxyMemoryLimit": "64Mi",
            "sidecar.istio.io/proxyImage": "example/sidecar:1",
            "sidecar.istio.io/interceptionMode": "TPROXY",
            "sidecar.istio.io/inject": "true",
            "unrelated": "x",
        }))
        .unwrap();
        assert!(!settings.ordinary_container && !settings.keep_probes);
        let env: Vec<_> = settings.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=b", "CONCURRENCY=2", "N=1", "TERMINATION_DRAIN_DURATION_SECONDS=7"]);
        assert_eq!(settings.image.as_deref(), Some("example/sidecar:1"));
        assert_eq!(settings.resources[&("requests", "cpu")], "50m");
        assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
        let layers = ProxyLayers {
            below: ProxySettings { concurrency: Some(3), hold_application: Some(true), ..ProxySettings::default() },
            above: ProxySettings { variables: [("A".to_owned(), "c".to_owned())].into(), ..ProxySettings::default() },
        };
        let annotations = json!({"proxy.istio.io/config": "proxyMetadata: {A: b, B: b}"});
        let settings = Settings::read(&annotations, &[], &layers).unwrap();
        let env: Vec<_> = settings.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=c", "B=b", "CONCURRENCY=3"]);
        for broken in
            ["[", "a", "concurrency: many", "terminationDrainDuration: 5", "holdApplicationUntilProxyStarts: 1"]
        {
            assert!(read(json!({"proxy.istio.io/config": broken})).is_err(), "{broken}");
        }
    }
}
