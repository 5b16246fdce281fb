//! Fields of objects, checked as Kubernetes checks them on admission, and the bounds on lists.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::names;
use kube::core::ObjectMeta;

use super::{Labels, Text};

/// Returns the name.
pub(crate) fn name(metadata: &ObjectMeta) -> Option<Text> {
    metadata.name.as_deref().filter(|name| is_subdomain(name)).map(Into::into)
}

/// Returns the namespace.
pub(crate) fn namespace(metadata: &ObjectMeta) -> Option<Text> {
    metadata.namespace.as_deref().filter(|namespace| is_label(namespace)).map(Into::into)
}

/// Returns the value of a label.
pub(super) fn label(metadata: &ObjectMeta, key: &str) -> Option<Text> {
    metadata.labels.as_ref()?.get(key).filter(|value| is_label_value(value)).map(|value| value.as_str().into())
}

/// Returns the value of label `topology.istio.io/network`.
pub(super) fn network(metadata: &ObjectMeta) -> Option<Text> {
    label(metadata, names::NETWORK_LABEL).filter(|network| !network.is_empty())
}

/// Returns the labels in annotation `traffic.istio.io/nodeSelector`.
pub(super) fn node_selector(metadata: &ObjectMeta) -> Option<Labels> {
    let text = metadata.annotations.as_ref()?.get(names::NODE_SELECTOR_ANNOTATION)?;
    let selector = (text.len() <= MAX_SELECTOR).then(|| serde_json::from_str(text).ok()).flatten()?;
    Some(labels(Some(selector)))
}

/// Returns the namespaces in annotation `networking.istio.io/exportTo`: names, `.`, `*` or `~`. What is none of these
/// is left out; a list of such alone exports to no namespace.
pub(super) fn export_to(metadata: &ObjectMeta) -> Vec<Text> {
    let text = metadata.annotations.as_ref().and_then(|of| of.get(names::EXPORT_TO_ANNOTATION));
    let Some(text) = text.map(|text| text.trim()).filter(|text| !text.is_empty()) else { return Vec::new() };
    let known = |name: &&str| matches!(*name, "." | "*" | "~") || is_label(name);
    let names = text.split(',').take(MAX_EXPORT_TO).map(str::trim).filter(known);
    let names: Vec<Text> = names.map(Into::into).collect();
    if names.is_empty() { vec!["~".into()] } else { names }
}

/// Returns the creation time in seconds since 1970; 0 if it is absent.
pub(super) fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Returns the labels that Kubernetes would admit.
pub(crate) fn labels(labels: Option<BTreeMap<String, String>>) -> Labels {
    let usable = |(key, value): &(String, String)| key.len() <= MAX_LABEL_KEY && is_label_value(value);
    let labels = labels.unwrap_or_default().into_iter().filter(usable).take(MAX_LABELS);
    labels.map(|(key, value)| (key.into(), value.into())).collect()
}

/// Returns whether a port's protocol is TCP, which is the default.
pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}

/// Returns the number of a port, from 1 to 65535.
pub(super) fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Returns about how many bytes a string takes that nothing shares.
pub(super) fn size(text: &str) -> usize {
    32 + text.len()
}

/// Maximum number of ports of one service or slice. The API has no bound on the ports of a service.
pub(super) const MAX_PORTS: usize = 1_000;
/// Maximum number of endpoints of one slice, as in the API.
pub(super) const MAX_ENDPOINTS: usize = 1_000;
/// Maximum number of addresses of one service.
pub(super) const MAX_ADDRESSES: usize = 64;
/// Maximum number of labels of one object. Objects have some tens.
pub(super) const MAX_LABELS: usize = 256;
/// Maximum length of a DNS label and of a label's value, as in the API.
pub(super) const MAX_LABEL: usize = 63;
/// Maximum length of a label's key: a subdomain, `/` and a name.
pub(super) const MAX_LABEL_KEY: usize = 253 + 1 + 63;
/// Maximum number of namespaces in an annotation.
const MAX_EXPORT_TO: usize = 256;
/// Maximum length of a selector in an annotation.
const MAX_SELECTOR: usize = 4096;
/// Maximum number of hosts of one Gateway.
pub(crate) const MAX_HOSTS: usize = 10_000;
/// Maximum length of a Gateway's host with its namespace.
pub(crate) const MAX_HOST: usize = 63 + 1 + 253;

/// Returns whether a name is a DNS label, as names of services and namespaces are.
pub(super) fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && !name.contains('.') && is_subdomain(name)
}

/// Returns whether a name is a DNS subdomain, as all names are.
pub(crate) fn is_subdomain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && name.bytes().all(allowed)
}

/// Returns whether the value of a label is one that the API admits.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.len() <= MAX_LABEL && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Returns whether the key of a label or annotation is one that the API admits: a name, after a subdomain and `/` or not.
pub(super) fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let ends = edge(name.as_bytes().first()) && edge(name.as_bytes().last());
    prefix.is_none_or(is_subdomain) && ends && is_label_value(name)
}

/// The addresses at which clouds serve a host's metadata and credentials, besides the link-local 169.254.169.254: of AWS (IPv6),
/// Alibaba and Oracle.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Returns whether an address is neither the dialling host's own, nor link-local, nor of many hosts. The API refuses the
/// same addresses, but for those of metadata.
pub(crate) fn is_reachable(ip: &IpAddr) -> bool {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || METADATA.contains(&ip) || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}
