//! Cluster IPs of Services and their IP families, as in Kubernetes (KEP-563, dual-stack Services).
//!
//! A Service has one family unless it asks for two: `PreferDualStack` gives it both if the cluster has both,
//! `RequireDualStack` fails otherwise. Families that a Service does not name follow from its addresses, or from the
//! cluster, whose first family comes first. A requested address may be any of the network; addresses are assigned from
//! its upper part.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::RngExt as _;
use serde_json::{Map, Value, json};

use crate::object;
use crate::status::StatusCause;

/// Number of addresses at the start of the network that are reserved for explicit requests.
const RESERVED_ADDRESSES: u32 = 256;

type AddressResult<T> = Result<T, StatusCause>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceFamily {
    V4,
    V6,
}

impl fmt::Display for ServiceFamily {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl ServiceFamily {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.to_string() == name)
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// Returns the cluster IPs of a Service.
pub(super) fn of(service: &Value) -> impl Iterator<Item = &str> {
    object::list(service, "/spec/clusterIPs").iter().filter_map(Value::as_str)
}

/// Sets the families, the family policy and the cluster IPs of a Service.
pub(super) fn assign(
    networks: &[IpNet],
    service: &mut Value,
    old: Option<&Value>,
    used: &HashSet<IpAddr>,
) -> AddressResult<()> {
    if object::text(service, "/spec/type") == "ExternalName" {
        let spec = object::field(service, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(());
    }
    let old = old.filter(|old| object::text(old, "/spec/type") != "ExternalName");
    let mut request = AddressRequest::of(service, old);
    request.narrow(old);
    let families = request.families(networks)?;
    let addresses = request.addresses(&families, networks, old, used)?;
    let spec = object::field(service, "spec");
    request.write(spec, &families, &addresses);
    Ok(())
}

/// What a Service asks for.
struct AddressRequest {
    policy: String,
    families: Vec<ServiceFamily>,
    addresses: Vec<String>,
    /// Whether its endpoints are written by others and have no address of the cluster: any family will do.
    is_unmanaged: bool,
}

impl AddressRequest {
    fn of(service: &Value, old: Option<&Value>) -> Self {
        let text = |key: &str| object::text(service, &format!("/spec/{key}")).to_owned();
        let mut addresses: Vec<String> = of(service).filter(|address| !address.is_empty()).map(str::to_owned).collect();
        let first = text("clusterIP");
        if !first.is_empty() && addresses.is_empty() {
            addresses.push(first);
        }
        if addresses.is_empty()
            && let Some(old) = old
        {
            addresses.extend(of(old).map(str::to_owned));
        }
        let has_selector =
            service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|it| !it.is_empty());
        let is_unmanaged = addresses.first().is_some_and(|address| address == "None") && !has_selector;
        let before = old.map(|old| object::text(old, "/spec/ipFamilyPolicy")).unwrap_or_default();
        let policy = match (text("ipFamilyPolicy"), before) {
            (policy, _) if !policy.is_empty() => policy,
            (_, before) if !before.is_empty() => before.to_owned(),
            _ if is_unmanaged => "RequireDualStack".to_owned(),
            _ => "SingleStack".to_owned(),
        };
        let named = object::list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str);
        let families = named.filter_map(ServiceFamily::named).collect();
        Self { policy, families, addresses, is_unmanaged }
    }

    /// A Service that had two families and now has policy `SingleStack` loses the second one.
    fn narrow(&mut self, old: Option<&Value>) {
        let had_two = old.is_some_and(|old| object::list(old, "/spec/ipFamilies").len() > 1);
        if self.policy == "SingleStack" && had_two {
            self.families.truncate(1);
            self.addresses.truncate(1);
        }
    }

    fn families(&self, networks: &[IpNet]) -> AddressResult<Vec<ServiceFamily>> {
        let cluster: Vec<ServiceFamily> = networks.iter().map(|network| ServiceFamily::of(network.addr())).collect();
        let mut families = self.families.clone();
        for (index, address) in self.addresses.iter().enumerate().filter(|(_, address)| *address != "None") {
            let field = format!("spec.clusterIPs[{index}]");
            let parsed: IpAddr = address.parse().map_err(|_| invalid(&field, address, "must be a valid IP address"))?;
            let family = ServiceFamily::of(parsed);
            match families.get(index) {
                None => families.push(family),
                Some(named) if *named != family => {
                    let why = format!("expected an {named} value as indicated by `ipFamilies[{index}]`");
                    return Err(invalid(&field, address, &why));
                }
                Some(_) => {}
            }
        }
        let foreign = families.iter().position(|family| !cluster.contains(family));
        if let Some(index) = foreign.filter(|_| !self.is_unmanaged) {
            let family = families[index].to_string();
            return Err(invalid(&format!("spec.ipFamilies[{index}]"), &family, "not configured on this cluster"));
        }
        if self.policy == "SingleStack" {
            if families.len() > 1 {
                let why = "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified";
                return Err(invalid("spec.ipFamilyPolicy", &self.policy, why));
            }
        } else if self.policy == "RequireDualStack" && cluster.len() < 2 && !self.is_unmanaged {
            let why = "this cluster is not configured for dual-stack services";
            return Err(invalid("spec.ipFamilyPolicy", &self.policy, why));
        }
        if families.is_empty() {
            families.push(cluster.first().copied().unwrap_or(ServiceFamily::V4));
        }
        if families.len() == 1 && self.policy != "SingleStack" {
            let other = families[0].other();
            families.extend((self.is_unmanaged || cluster.contains(&other)).then_some(other));
        }
        Ok(families)
    }

    fn addresses(
        &self,
        families: &[ServiceFamily],
        networks: &[IpNet],
        old: Option<&Value>,
        used: &HashSet<IpAddr>,
    ) -> AddressResult<Vec<String>> {
        if self.addresses.first().is_some_and(|address| address == "None") {
            return Ok(vec!["None".to_owned()]);
        }
        let before: Vec<&str> = old.map(|old| of(old).collect()).unwrap_or_default();
        let mut addresses = Vec::new();
        for (index, family) in families.iter().enumerate() {
            let network = networks.iter().find(|network| ServiceFamily::of(network.addr()) == *family);
            let Some(network) = network else {
                return Err(invalid(
                    &format!("spec.ipFamilies[{index}]"),
                    &family.to_string(),
                    "not configured on this cluster",
                ));
            };
            addresses.push(match self.addresses.get(index) {
                Some(kept) if before.contains(&kept.as_str()) => kept.clone(),
                Some(wanted) => check(*network, wanted, used)?.to_string(),
                None if before.get(index).is_some_and(|kept| is_of(kept, *family)) => before[index].to_owned(),
                None => choose(*network, used)?.to_string(),
            });
        }
        Ok(addresses)
    }

    fn write(&self, spec: &mut Map<String, Value>, families: &[ServiceFamily], addresses: &[String]) {
        let families: Vec<String> = families.iter().map(ToString::to_string).collect();
        spec.insert("clusterIP".into(), json!(addresses.first()));
        spec.insert("clusterIPs".into(), json!(addresses));
        spec.insert("ipFamilies".into(), json!(families));
        spec.insert("ipFamilyPolicy".into(), json!(self.policy));
        spec.entry("internalTrafficPolicy").or_insert_with(|| json!("Cluster"));
    }
}

fn is_of(address: &str, family: ServiceFamily) -> bool {
    address.parse().is_ok_and(|address| ServiceFamily::of(address) == family)
}

fn invalid(field: &str, value: &str, why: &str) -> StatusCause {
    StatusCause::new("FieldValueInvalid", field, format!("Invalid value: {value:?}: {why}"))
}

/// Returns the number of addresses of a network, without those that do not fit in 32 bits.
fn size(network: IpNet) -> u32 {
    let host_bits = network.max_prefix_len() - network.prefix_len();
    u32::try_from((1_u64 << host_bits.min(32)) - 1).unwrap_or(u32::MAX)
}

/// Returns the position of an address in its network; `None` if it is outside.
fn offset(network: IpNet, address: IpAddr) -> Option<u128> {
    match (network.network(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(u32::from(first)).map(u128::from),
        (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(first)),
        _ => None,
    }
}

fn at(network: IpNet, offset: u32) -> IpAddr {
    match network.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first).wrapping_add(offset)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first).wrapping_add(u128::from(offset))).into()),
    }
}

fn choose(network: IpNet, used: &HashSet<IpAddr>) -> AddressResult<IpAddr> {
    let size = size(network);
    let first = if size > RESERVED_ADDRESSES * 2 { RESERVED_ADDRESSES } else { 1 };
    let full = || StatusCause::new("InternalError", "spec.clusterIP", "failed to allocate a serviceIP: range is full");
    if first >= size {
        return Err(full());
    }
    let start = rand::rng().random_range(first..size);
    // The last address of an IPv4 network is the broadcast address.
    (start..size)
        .chain(first..start)
        .map(|offset| at(network, offset))
        .find(|address| !used.contains(address))
        .ok_or_else(full)
}

fn check(network: IpNet, wanted: &str, used: &HashSet<IpAddr>) -> AddressResult<IpAddr> {
    let refused = |why: String| {
        let why = format!("Invalid value: [{wanted:?}]: failed to allocate IP {wanted}: {why}");
        StatusCause::new("FieldValueInvalid", "spec.clusterIPs", why)
    };
    let address: IpAddr = wanted.parse().map_err(|_| refused("must be a valid IP address".into()))?;
    match offset(network, address) {
        Some(offset) if offset > 0 && offset < u128::from(size(network)) => {}
        _ => {
            return Err(refused(format!(
                "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {network}"
            )));
        }
    }
    if used.contains(&address) { Err(refused("provided IP is already allocated".into())) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    const FOUR: &str = "10.96.0.0/16";
    const SIX: &str = "fd00:10:96::/112";

    fn assigned_of(cluster: &[&str], spec: Value, old: Option<&Value>, used: &[&str]) -> AddressResult<Value> {
        let used = used.iter().map(|text| text.parse().expect("an address")).collect();
        let mut service = json!({"spec": spec});
        assign(&networks(cluster), &mut service, old, &used)?;
        Ok(service)
    }

    fn assigned(cluster: &[&str], spec: Value, old: Option<&Value>) -> Value {
        assigned_of(cluster, spec.clone(), old, &[]).unwrap_or_else(|cause| panic!("{spec}: {cause:?}"))
    }

    /// Policy and families of a Service, such as `PreferDualStack IPv4 IPv6`; its addresses are checked.
    fn families(service: &Value) -> String {
        let spec = &service["spec"];
        let names: Vec<&str> =
            spec["ipFamilies"].as_array().expect("families").iter().filter_map(Value::as_str).collect();
        if spec["clusterIP"] != "None" {
            let of = |address: &str| ServiceFamily::of(address.parse().expect("an address")).to_string();
            assert_eq!(super::of(service).map(of).collect::<Vec<_>>(), names, "{service}");
        }
        assert_eq!(spec["clusterIP"], spec["clusterIPs"][0], "{service}");
        format!("{} {}", spec["ipFamilyPolicy"].as_str().expect("a policy"), names.join(" "))
    }

    #[test]
    fn families_follow_from_policy_addresses_and_cluster() {
        let (prefer, require) = (json!("PreferDualStack"), json!("RequireDualStack"));
        let cases: &[(&[&str], Value, &str)] = &[
            (&[FOUR], json!({}), "SingleStack IPv4"),
            (&[SIX], json!({}), "SingleStack IPv6"),
            (&[FOUR, SIX], json!({}), "SingleStack IPv4"),
            (&[SIX, FOUR], json!({}), "SingleStack IPv6"),
            (&[FOUR, SIX], json!({"ipFamilies": ["IPv6"]}), "SingleStack IPv6"),
            (&[FOUR, SIX], json!({"clusterIP": "fd00:10:96::7"}), "SingleStack IPv6"),
            (&[FOUR], json!({"ipFamilyPolicy": prefer}), "PreferDualStack IPv4"),
            (&[FOUR, SIX], json!({"ipFamilyPolicy": prefer}), "PreferDualStack IPv4 IPv6"),
            (&[FOUR, SIX], json!({"ipFamilyPolicy": prefer, "ipFamilies": ["IPv6"]}), "PreferDualStack IPv6 IPv4"),
            (
                &[FOUR, SIX],
                json!({"ipFamilyPolicy": require, "ipFamilies": ["IPv6", "IPv4"]}),
                "RequireDualStack IPv6 IPv4",
            ),
            (
                &[FOUR, SIX],
                json!({"ipFamilyPolicy": require, "clusterIPs": ["fd00:10:96::7"]}),
                "RequireDualStack IPv6 IPv4",
            ),
            (
                &[FOUR, SIX],
                json!({"ipFamilyPolicy": prefer, "clusterIP": "None", "selector": {"a": "b"}}),
                "PreferDualStack IPv4 IPv6",
            ),
            (&[FOUR], json!({"clusterIP": "None", "selector": {"a": "b"}}), "SingleStack IPv4"),
            // Others write the endpoints of a headless Service without selector.
            (&[FOUR], json!({"clusterIP": "None"}), "RequireDualStack IPv4 IPv6"),
        ];
        for (cluster, spec, expected) in cases {
            assert_eq!(families(&assigned(cluster, spec.clone(), None)), *expected, "{cluster:?} {spec}");
        }
    }

    #[test]
    fn families_that_cannot_be_had_are_refused() {
        let cases: &[(&[&str], Value, &str, &str)] = &[
            (&[FOUR], json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]", "not configured on this cluster"),
            (&[SIX], json!({"clusterIP": "10.96.0.7"}), "spec.ipFamilies[0]", "not configured on this cluster"),
            (
                &[FOUR],
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy",
                "not configured for dual-stack",
            ),
            (
                &[FOUR, SIX],
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy",
                "RequireDualStack or PreferDualStack",
            ),
            (
                &[FOUR, SIX],
                json!({"ipFamilies": ["IPv4"], "clusterIP": "fd00:10:96::7"}),
                "spec.clusterIPs[0]",
                "expected an IPv4 value",
            ),
        ];
        for (cluster, spec, field, why) in cases {
            let cause = assigned_of(cluster, spec.clone(), None, &[]).expect_err("refused");
            assert!(cause.field == *field && cause.message.contains(why), "{spec}: {cause:?}");
        }
    }

    #[test]
    fn a_service_becomes_dual_stack_and_single_stack_again() {
        let cluster = [FOUR, SIX];
        let first = assigned(&cluster, json!({}), None);
        let mut spec = first["spec"].clone();
        spec["ipFamilyPolicy"] = json!("PreferDualStack");
        let both = assigned(&cluster, spec.clone(), Some(&first));
        assert_eq!(families(&both), "PreferDualStack IPv4 IPv6");
        assert_eq!(both["spec"]["clusterIP"], first["spec"]["clusterIP"]);
        let again = assigned(&cluster, json!({}), Some(&both));
        assert_eq!(again["spec"]["clusterIPs"], both["spec"]["clusterIPs"], "an update that names nothing keeps all");
        let mut spec = both["spec"].clone();
        spec["ipFamilyPolicy"] = json!("SingleStack");
        let single = assigned(&cluster, spec, Some(&both));
        assert_eq!(families(&single), "SingleStack IPv4");
        assert_eq!(single["spec"]["clusterIPs"], first["spec"]["clusterIPs"]);
        let external = assigned(&cluster, json!({"type": "ExternalName", "ipFamilies": ["IPv4"]}), Some(&both));
        assert_eq!(external["spec"], json!({"type": "ExternalName"}));
        assert_eq!(families(&assigned(&cluster, json!({}), Some(&external))), "SingleStack IPv4");
    }

    #[test]
    fn addresses_are_assigned_kept_and_requested() {
        for (network, asked) in [(FOUR, "10.96.0.10"), (SIX, "fd00:10:96::10")] {
            let first = assigned(&[network], json!({"ports": [{"port": 80}]}), None);
            let address: IpAddr = object::text(&first, "/spec/clusterIP").parse().expect("an address");
            let network_of = networks(&[network])[0];
            assert!(offset(network_of, address).is_some_and(|offset| offset >= u128::from(RESERVED_ADDRESSES)));
            let again = assigned(&[network], json!({}), Some(&first));
            assert_eq!(again["spec"]["clusterIP"], first["spec"]["clusterIP"]);
            let asked_for = assigned(&[network], json!({"clusterIP": asked}), None);
            assert_eq!(asked_for["spec"]["clusterIPs"], json!([asked]));
            let none = assigned(&[network], json!({"clusterIP": "None"}), None);
            assert_eq!(none["spec"]["clusterIP"], "None");
        }
    }

    #[test]
    fn used_and_out_of_range_addresses_are_rejected() {
        for (network, addresses) in [
            (FOUR, ["10.96.0.1", "10.97.0.1", "10.96.0.0", "fe80::1", "x"]),
            (SIX, ["fd00:10:96::1", "fd00:10:97::1", "fd00:10:96::", "10.96.0.7", "x"]),
        ] {
            for address in addresses {
                let spec = json!({"clusterIP": address});
                assert!(assigned_of(&[network], spec, None, &addresses[..1]).is_err(), "{address}");
            }
        }
    }

    #[test]
    fn a_full_network_gives_no_address() {
        let used = ["10.96.0.1", "10.96.0.2"];
        assert!(assigned_of(&["10.96.0.0/30"], json!({}), None, &used[..1]).is_ok());
        assert!(assigned_of(&["10.96.0.0/30"], json!({}), None, &used).is_err());
    }
}
