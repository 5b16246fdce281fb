//! Services, Endpoints and EndpointSlices.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::field_errors::{FieldErrors, FieldPath, entries, is_empty, items, same, text};
use super::{metadata, names, pod};

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn service(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    let type_ = text(&spec["type"]);
    errors.one_of(&path.child("type"), &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    let headless = spec["clusterIP"] == "None";
    if headless && (type_ == "LoadBalancer" || type_ == "NodePort") {
        let problem = format!("may not be set to 'None' for {type_} services");
        errors.invalid(&path.child("clusterIPs").index(0), "None", &problem);
    }
    if type_ == "ExternalName" {
        external_name(spec, &path, errors);
    } else if items(&spec["ports"]).next().is_none() && !headless {
        errors.required(&path.child("ports"), "");
    }
    ports(&spec["ports"], &path.child("ports"), errors);
    metadata::labels(&spec["selector"], &path.child("selector"), errors);
    errors.one_of(&path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
    for (field, applies) in
        [("internalTrafficPolicy", true), ("externalTrafficPolicy", matches!(type_, "LoadBalancer" | "NodePort"))]
    {
        if !text(&spec[field]).is_empty() && type_ != "ExternalName" {
            if applies {
                errors.one_of(&path.child(field), &spec[field], &["Cluster", "Local"]);
            } else {
                errors.invalid(
                    &path.child(field),
                    spec[field].clone(),
                    "may only be set for externally-accessible services",
                );
            }
        }
    }
    addresses(spec, &path, errors);
    if let Some(old) = old {
        cluster_ip(spec, &old["spec"], &path, errors);
    }
}

fn external_name(spec: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let path = path.child("externalName");
    let name = text(&spec["externalName"]);
    if name.is_empty() {
        errors.required(&path, "");
    } else if let Err(problem) = names::subdomain(name.strip_suffix('.').unwrap_or(name)) {
        errors.invalid(&path, name, &problem);
    }
}

fn ports(ports: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let (mut names_seen, mut seen) = (HashSet::new(), HashSet::new());
    let several = items(ports).count() > 1;
    for (index, port) in items(ports) {
        let path = path.index(index);
        let name = text(&port["name"]);
        if name.is_empty() {
            if several {
                errors.required(&path.child("name"), "");
            }
        } else if let Err(problem) = names::label(name) {
            errors.invalid(&path.child("name"), name, &problem);
        } else if !names_seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let number = port["port"].as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            errors.invalid(&path.child("port"), number, names::PORT_RANGE);
        }
        errors.one_of(&path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        pod::container::port(&port["targetPort"], &path.child("targetPort"), errors);
        if !seen.insert((number, text(&port["protocol"]))) {
            errors.duplicate(&path, json!({"port": number, "protocol": port["protocol"]}));
        }
    }
}

fn addresses(spec: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    const MAX_FAMILIES: usize = 2;
    let (address, given) = (text(&spec["clusterIP"]), path.child("clusterIPs"));
    if !address.is_empty() && address != "None" && address.parse::<IpAddr>().is_err() {
        errors.invalid(&given.index(0), address, IP);
    }
    for (index, listed) in items(&spec["clusterIPs"]) {
        let listed = text(listed);
        if index == 0 && !address.is_empty() && listed != address {
            errors.invalid(&given, spec["clusterIPs"].clone(), "first value must match `clusterIP`");
        }
        if index > 0 && (listed == "None" || address == "None") {
            errors.invalid(&given.index(index), listed, "headless Services may only hold one value, 'None'");
        } else if listed != "None" && listed != address && listed.parse::<IpAddr>().is_err() {
            errors.invalid(&given.index(index), listed, IP);
        }
    }
    let mut seen = HashSet::new();
    for (index, family) in items(&spec["ipFamilies"]) {
        let path = path.child("ipFamilies").index(index);
        errors.one_of(&path, family, &["IPv4", "IPv6"]);
        if !seen.insert(text(family)) {
            errors.duplicate(&path, text(family));
        }
    }
    for field in ["clusterIPs", "ipFamilies"] {
        if items(&spec[field]).count() > MAX_FAMILIES {
            errors.invalid(&path.child(field), spec[field].clone(), "may only hold up to 2 values");
        }
    }
    if !text(&spec["ipFamilyPolicy"]).is_empty() {
        errors.one_of(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &POLICIES);
    }
    for (index, address) in items(&spec["externalIPs"]) {
        let path = path.child("externalIPs").index(index);
        match text(address).parse::<IpAddr>() {
            Ok(parsed) => usable(parsed, text(address), &path, errors),
            Err(_) => errors.invalid(&path, address.clone(), IP),
        }
    }
}

/// The cluster IP is immutable, except from and to `ExternalName`.
fn cluster_ip(spec: &Value, old: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let alias = |spec: &Value| spec["type"] == "ExternalName";
    if alias(spec) || alias(old) || is_empty(&old["clusterIP"]) {
        return;
    }
    if !same(&spec["clusterIP"], &old["clusterIP"]) {
        let problem = "may not change once set";
        errors.invalid(&path.child("clusterIPs").index(0), json!([spec["clusterIP"]]), problem);
    }
    let (second, before) = (&spec["clusterIPs"][1], &old["clusterIPs"][1]);
    if !is_empty(second) && !is_empty(before) && !same(second, before) {
        errors.invalid(&path.child("clusterIPs").index(1), spec["clusterIPs"].clone(), "may not change once set");
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut FieldErrors) {
    for (index, subset) in items(&object["subsets"]) {
        let path = FieldPath::root("subsets").index(index);
        for field in ["addresses", "notReadyAddresses"] {
            for (index, address) in items(&subset[field]) {
                endpoint_ip(&address["ip"], &path.child(field).index(index).child("ip"), errors);
            }
        }
        for (index, port) in items(&subset["ports"]) {
            let number = port["port"].as_i64().unwrap_or(0);
            if !(1..=65535).contains(&number) {
                errors.invalid(&path.child("ports").index(index).child("port"), number, names::PORT_RANGE);
            }
        }
    }
}

pub(super) fn endpoint_slice(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    const MAX_ADDRESSES: usize = 100;
    let type_path = FieldPath::root("addressType");
    errors.one_of(&type_path, &object["addressType"], &["FQDN", "IPv4", "IPv6"]);
    if let Some(old) = old {
        errors.immutable(&type_path, &object["addressType"], &old["addressType"]);
    }
    for (index, endpoint) in items(&object["endpoints"]) {
        let path = FieldPath::root("endpoints").index(index);
        let addresses = path.child("addresses");
        match items(&endpoint["addresses"]).count() {
            0 => errors.required(&addresses, "must contain at least 1 address"),
            count if count > MAX_ADDRESSES => errors.too_long(&addresses, MAX_ADDRESSES),
            _ => {}
        }
        for (index, address) in items(&endpoint["addresses"]) {
            let path = addresses.index(index);
            match text(&object["addressType"]) {
                "IPv4" if text(address).parse::<Ipv4Addr>().is_err() => {
                    errors.invalid(&path, address.clone(), "must be a valid IPv4 address");
                }
                "IPv6" if text(address).parse::<Ipv6Addr>().is_err() => {
                    errors.invalid(&path, address.clone(), "must be a valid IPv6 address");
                }
                "IPv4" | "IPv6" => endpoint_ip(address, &path, errors),
                _ => {
                    if let Err(problem) = names::subdomain(text(address)) {
                        errors.invalid(&path, address.clone(), &problem);
                    }
                }
            }
        }
        for (key, value) in entries(&endpoint["deprecatedTopology"]) {
            if names::qualified(key).is_err() {
                errors.invalid(&path.child("deprecatedTopology"), value.clone(), "not a label");
            }
        }
    }
    slice_ports(&object["ports"], errors);
}

fn slice_ports(ports: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, port) in items(ports) {
        let path = FieldPath::root("ports").index(index);
        let name = text(&port["name"]);
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        if !name.is_empty()
            && let Err(problem) = names::label(name)
        {
            errors.invalid(&path.child("name"), name, &problem);
        }
        errors.one_of(&path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port["port"].as_i64().filter(|number| !(1..=65535).contains(number)) {
            errors.invalid(&path.child("port"), number, names::PORT_RANGE);
        }
    }
}

fn endpoint_ip(address: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    match text(address).parse::<IpAddr>() {
        Ok(parsed) => usable(parsed, text(address), path, errors),
        Err(_) => errors.invalid(path, address.clone(), IP),
    }
}

/// Addresses that Services must not send traffic to.
fn usable(address: IpAddr, shown: &str, path: &FieldPath, errors: &mut FieldErrors) {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    match () {
        () if address.is_unspecified() => {
            errors.invalid(path, shown, &format!("may not be unspecified ({shown})"));
        }
        () if address.is_loopback() => {
            errors.invalid(path, shown, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
        }
        () if link_local => {
            errors.invalid(path, shown, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        () => {}
    }
}
