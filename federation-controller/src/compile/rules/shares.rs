//! The services that receive the requests and connections of a host by weight: those of a TrafficSplit, or of the overrides of
//! a ServiceProfile.

use api::linkerd::ServiceProfileSpec;
use api::smi::TrafficSplitSpec;
use wire::discovery::{HttpMatch, RouteDestination};

use super::{Host, Ports, conditions};
use crate::inventory::rules::service_host;
use crate::objects::{Key, Kind, Record as _, ServiceProfile, Text, TrafficSplit};

/// The number of conditions of the groups of one TrafficSplit. Each route of a ServiceProfile has all of them.
const MAX_CONDITIONS: usize = 5_000;

/// The services that receive the requests and connections of a host.
pub(super) struct Shares {
    services: Vec<Share>,
    /// The requests that are for them; `None`: all, and all connections.
    pub(super) condition: Option<Vec<HttpMatch>>,
}

struct Share {
    host: Text,
    /// The port; `None`: that of the request or connection.
    port: Option<u16>,
    weight: u64,
    ports: Ports,
}

/// What requests and connections to some ports of a host go to.
pub(super) struct Target {
    /// The ports; empty: all.
    pub(super) ports: Vec<u32>,
    pub(super) destinations: Vec<RouteDestination>,
    /// It is the host itself alone.
    pub(super) is_root: bool,
}

impl Shares {
    /// Returns the shares of the TrafficSplit that has effect on a host. Notes what does not.
    pub(super) fn of_split(host: &mut Host<'_>, split: &TrafficSplit, spec: &TrafficSplitSpec) -> Option<Self> {
        let key = split.key();
        let condition = if spec.matches.is_empty() { None } else { Some(groups(host, split, spec)?) };
        let mut services = Vec::new();
        for (index, backend) in spec.backends.iter().enumerate() {
            let place = format!("backends[{index}]");
            let Some(to) = service_host(&backend.service, &split.namespace, host.domain()) else {
                let text = format!(
                    "{place}: {} is not a service of namespace {}: it receives nothing",
                    backend.service, split.namespace
                );
                host.note(Kind::TrafficSplit, &key, "IST0101", text);
                continue;
            };
            if *to != **host.hostname && host.own.splits_of(&to).next().is_some() {
                let text = format!("{place}: the TrafficSplit of {to} has no effect on what this one sends there");
                host.note(Kind::TrafficSplit, &key, "IST0133", text);
            }
            let weight = backend.weight.map_or(0, |weight| weight.parts());
            services.extend(share(host, (Kind::TrafficSplit, &key, &place), to, None, weight));
        }
        Some(Shares { services, condition })
    }

    /// Returns the shares of the overrides of a ServiceProfile. Notes what does not have effect.
    pub(super) fn of_overrides(host: &mut Host<'_>, profile: &ServiceProfile, spec: &ServiceProfileSpec) -> Self {
        let key = profile.key();
        let mut services = Vec::new();
        for (index, of) in spec.dst_overrides.iter().enumerate() {
            let Some((name, port)) = of.host_and_port() else { continue };
            let (to, place) = (host.full_host(name, &profile.namespace), format!("dstOverrides[{index}]"));
            services.extend(share(host, (Kind::ServiceProfile, &key, &place), to, port, of.weight.parts()));
        }
        Shares { services, condition: None }
    }

    /// Returns where each port leads, ports with the same destinations together.
    pub(super) fn targets(&self, host: &Host<'_>) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for port in host.ports.keys() {
            let destinations = self.destinations(*port);
            let is_root = destinations.is_empty();
            let destinations = if is_root { vec![root(host)] } else { destinations };
            match targets.iter_mut().find(|target| target.destinations == destinations) {
                Some(target) => target.ports.push((*port).into()),
                None => targets.push(Target { ports: vec![(*port).into()], destinations, is_root }),
            }
        }
        if let [only] = &mut targets[..] {
            only.ports.clear();
        }
        targets
    }

    /// Returns the destinations of a port: the services that have it. Without any, it is the host itself.
    fn destinations(&self, port: u16) -> Vec<RouteDestination> {
        let target = |share: &Share| share.port.unwrap_or(port);
        let shares: Vec<&Share> =
            self.services.iter().filter(|share| share.weight > 0 && share.ports.contains_key(&target(share))).collect();
        let weights = normalized(shares.iter().map(|share| share.weight).collect());
        let destination = |(share, weight): (&Share, u32)| RouteDestination {
            host: share.host.to_string(),
            port: if target(share) == port { 0 } else { target(share).into() },
            weight,
            ..RouteDestination::default()
        };
        shares.into_iter().zip(weights).map(destination).collect()
    }
}

impl Target {
    /// Returns the host itself, for all ports.
    pub(super) fn root(host: &Host<'_>) -> Self {
        Target { ports: Vec::new(), destinations: vec![root(host)], is_root: true }
    }
}

fn root(host: &Host<'_>) -> RouteDestination {
    RouteDestination { host: host.hostname.to_string(), weight: 1, ..RouteDestination::default() }
}

/// Returns the share of a service of the mesh. Notes what it lacks.
fn share(
    host: &mut Host<'_>,
    (kind, key, place): (Kind, &Key, &str),
    to: Text,
    port: Option<u16>,
    weight: u64,
) -> Option<Share> {
    let ports = if *to == **host.hostname { Some(host.ports.clone()) } else { host.ports_of(&to) };
    let Some(ports) = ports else {
        let text = format!("{place}: no service of the mesh has host {to}: it receives nothing");
        host.note(kind, key, "IST0101", text);
        return None;
    };
    let missing: Vec<String> = match port {
        Some(port) if !ports.contains_key(&port) => vec![port.to_string()],
        Some(_) => Vec::new(),
        None => host.ports.keys().filter(|port| !ports.contains_key(port)).map(u16::to_string).collect(),
    };
    if !missing.is_empty() {
        let all = port.is_some() || missing.len() == host.ports.len();
        let what = if all { "it receives nothing" } else { "it receives nothing of what is for these ports" };
        let text = format!("{place}: {to} has no port {} of {}: {what}", missing.join(", "), host.hostname);
        host.note(kind, key, if all { "IST0101" } else { "IST0133" }, text);
    }
    Some(Share { host: to, port, weight, ports })
}

/// Returns the conditions of the groups that a TrafficSplit refers to; `None` if no request meets them.
fn groups(host: &mut Host<'_>, split: &TrafficSplit, spec: &TrafficSplitSpec) -> Option<Vec<HttpMatch>> {
    let (own, key) = (host.own, split.key());
    let (mut conditions, mut size) = (Vec::new(), 0);
    for (index, reference) in spec.matches.iter().enumerate() {
        let group = Key::new(&split.namespace, &reference.name);
        let Some(group) = own.route_groups().get(&group).and_then(|group| group.spec.as_ref()) else {
            let text = format!("matches[{index}]: there is no valid HTTPRouteGroup {group}: it matches no request");
            host.note(Kind::TrafficSplit, &key, "IST0101", text);
            continue;
        };
        for condition in group.matches.iter().flat_map(conditions::of_group) {
            size += conditions::size(&condition);
            if size > MAX_CONDITIONS {
                let text = format!(
                    "matches: there are more than {MAX_CONDITIONS} conditions: the further ones have no effect"
                );
                host.note(Kind::TrafficSplit, &key, "IST0133", text);
                return Some(conditions);
            }
            conditions.push(condition);
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// Returns weights in the same proportion, as small as possible, and within the range of the wire.
fn normalized(weights: Vec<u64>) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |divisor, weight| greatest_common_divisor(divisor, *weight)).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).fold(0, u64::saturating_add);
    // The sum of what is rounded up stays within the range as well.
    let scale = sum.div_ceil(u64::from(u32::MAX) / 2).max(1);
    weights.iter().map(|weight| u32::try_from((weight / divisor).div_ceil(scale)).unwrap_or(u32::MAX)).collect()
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportion() {
        for (weights, expected) in [
            (vec![9_000, 1_000], vec![9, 1]),
            (vec![900_000, 100_000], vec![9, 1]),
            (vec![7], vec![1]),
            (vec![3, 5], vec![3, 5]),
            (vec![], vec![]),
        ] {
            assert_eq!(normalized(weights.clone()), expected, "{weights:?}");
        }
        let large = normalized(vec![1 << 50, 1, (1 << 50) - 1]);
        assert!(
            large.iter().map(|of| u64::from(*of)).sum::<u64>() <= u64::from(u32::MAX) && large[1] == 1,
            "{large:?}"
        );
    }
}
