//! What objects refer to: hosts with their ports, subsets, gateways, pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::injection::Namespaces;
use super::object::{Object, list, texts};
use super::service_rules::ServiceRules;
use super::workloads::Services;
use crate::networking::{DestinationRule, GROUP, Gateway, VirtualService};
use crate::{linkerd, smi};

/// The end of the full names of services.
const DOMAIN: &str = "svc.cluster.local";
/// The end of the full names of services that several clusters have (KEP-1645).
const CLUSTER_SET_DOMAIN: &str = "svc.clusterset.local";
/// The annotation of a Service with the namespaces that see it.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// An object with what it says.
pub(super) struct Parsed<'a, T> {
    /// The object.
    pub(super) object: &'a Object,
    /// What it says.
    pub(super) of: T,
}

/// A host that a Service or ServiceEntry defines.
pub(super) struct Host<'a> {
    /// The namespace.
    pub(super) namespace: &'a str,
    /// The ports.
    pub(super) ports: BTreeSet<u32>,
    /// The labels of its pods, of a Service with a selector.
    pub(super) selector: Option<BTreeMap<String, String>>,
    export_to: Vec<&'a str>,
}

/// Everything that objects refer to.
pub(super) struct World<'a> {
    /// The VirtualServices.
    pub(super) virtual_services: Vec<Parsed<'a, VirtualService>>,
    /// The DestinationRules.
    pub(super) destination_rules: Vec<Parsed<'a, DestinationRule>>,
    /// The Gateways, by namespace and name.
    pub(super) gateways: BTreeMap<(&'a str, &'a str), Parsed<'a, Gateway>>,
    /// The Secrets by namespace and name, if any is known.
    pub(super) secrets: Option<BTreeSet<(&'a str, &'a str)>>,
    /// The names of VirtualServices, by namespace and name.
    names: BTreeSet<(&'a str, &'a str)>,
    /// The subsets of each host, and those of wildcards.
    subsets: HashMap<String, BTreeSet<String>>,
    wildcard_subsets: BTreeMap<String, BTreeSet<String>>,
    /// The VirtualServices that split their own hosts by subsets, by host.
    splits: HashMap<String, Vec<&'a Object>>,
    /// The namespaces with a RequestAuthentication.
    pub(super) authenticated: BTreeSet<&'a str>,
    /// The PeerAuthentications by namespace.
    pub(super) peer_authentications: HashMap<&'a str, Vec<&'a Object>>,
    /// The rules of services beside Istio's.
    pub(super) service_rules: ServiceRules<'a>,
    /// The Services by what they select.
    pub(super) services: Services<'a>,
    /// The namespaces.
    pub(super) namespaces: Namespaces<'a>,
    /// The labels of pods by namespace, if any is known. Pods with the same labels count once.
    pods: Option<HashMap<&'a str, BTreeSet<BTreeMap<String, String>>>>,
    hosts: HashMap<String, Vec<Host<'a>>>,
}

impl<'a> World<'a> {
    pub(super) fn new(objects: &'a [Object]) -> Self {
        let mut world = World {
            virtual_services: Vec::new(),
            destination_rules: Vec::new(),
            gateways: BTreeMap::new(),
            secrets: None,
            names: BTreeSet::new(),
            subsets: HashMap::new(),
            wildcard_subsets: BTreeMap::new(),
            splits: HashMap::new(),
            authenticated: BTreeSet::new(),
            peer_authentications: HashMap::new(),
            service_rules: ServiceRules::default(),
            services: Services::default(),
            namespaces: Namespaces::default(),
            pods: None,
            hosts: HashMap::new(),
        };
        for object in objects {
            world.add(object);
        }
        for rule in &world.destination_rules {
            let spec = &rule.of.spec;
            let names = spec.subsets.iter().map(|subset| subset.name.clone());
            let host = full_host(&spec.host, &rule.object.namespace);
            match host.strip_prefix('*') {
                Some(suffix) => world.wildcard_subsets.entry(suffix.to_owned()).or_default().extend(names),
                None => world.subsets.entry(host).or_default().extend(names),
            }
        }
        for service in &world.virtual_services {
            for host in split_hosts(service) {
                world.splits.entry(host).or_default().push(service.object);
            }
        }
        world
    }

    fn add(&mut self, object: &'a Object) {
        let (namespace, value) = (&*object.namespace, &object.value);
        match (object.group(), object.kind()) {
            (GROUP, "VirtualService") => {
                self.names.insert((namespace, object.name()));
                self.virtual_services.push(Parsed { object, of: VirtualService::from_value(value) });
            }
            (GROUP, "DestinationRule") => {
                self.destination_rules.push(Parsed { object, of: DestinationRule::from_value(value) });
            }
            (GROUP, "Gateway") => {
                self.gateways.insert((namespace, object.name()), Parsed { object, of: Gateway::from_value(value) });
            }
            (GROUP, "ServiceEntry") => {
                for host in list(&value["spec"]["hosts"]) {
                    let export_to = list(&value["spec"]["exportTo"]).collect();
                    let host_of = Host { namespace, ports: ports(value, "number"), selector: None, export_to };
                    self.hosts.entry(host.to_ascii_lowercase()).or_default().push(host_of);
                }
            }
            (smi::SPLIT_GROUP, "TrafficSplit") => self.service_rules.add_split(object),
            (smi::SPECS_GROUP, "HTTPRouteGroup") => self.service_rules.add_group(object),
            (linkerd::GROUP, "ServiceProfile") => self.service_rules.add_profile(object),
            ("", "Secret") => drop(self.secrets.get_or_insert_default().insert((namespace, object.name()))),
            ("", "Namespace") => self.namespaces.add(object),
            ("", "Service") => {
                self.services.add(object);
                let selector = texts(&value["spec"]["selector"]);
                let export_to = object.annotation(EXPORT_TO).unwrap_or_default();
                let export_to = export_to.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
                let selector = (!selector.is_empty()).then_some(selector);
                let host = Host { namespace, ports: ports(value, "port"), selector, export_to };
                self.hosts.entry(format!("{}.{namespace}.{DOMAIN}", object.name())).or_default().push(host);
            }
            ("security.istio.io", "RequestAuthentication") => {
                self.authenticated.insert(namespace);
            }
            ("security.istio.io", "PeerAuthentication") => {
                self.peer_authentications.entry(namespace).or_default().push(object);
            }
            ("", "Pod") => self.pod(namespace, &value["metadata"]["labels"]),
            ("apps" | "batch", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job")
                if object.is_of_file() =>
            {
                self.pod(namespace, &value["spec"]["template"]["metadata"]["labels"]);
            }
            _ => {}
        }
    }

    fn pod(&mut self, namespace: &'a str, labels: &Value) {
        self.pods.get_or_insert_default().entry(namespace).or_default().insert(texts(labels));
    }

    /// Returns the host that a name means in a namespace, if it is visible there. A wildcard means any host that it covers.
    pub(super) fn host(&self, name: &str, namespace: &str) -> Option<&Host<'a>> {
        let full = full_host(name, namespace);
        let visible = |host: &&Host<'a>| host.is_visible(namespace);
        if let Some(suffix) = full.strip_prefix('*') {
            let covered = self.hosts.iter().filter(|(host, _)| host.trim_start_matches('*').ends_with(suffix));
            return covered.flat_map(|(_, hosts)| hosts).find(visible);
        }
        let exact = self.hosts.get(&full).into_iter().flatten().find(visible);
        exact.or_else(|| {
            let tails = full.char_indices().map(|(at, _)| &full[at..]);
            tails.filter_map(|tail| self.hosts.get(&format!("*{tail}"))).flatten().find(visible)
        })
    }

    /// Returns the subsets of a host, or `None` if it has no DestinationRule.
    pub(super) fn subsets(&self, name: &str, namespace: &str) -> Option<BTreeSet<&str>> {
        let full = full_host(name, namespace);
        let wildcards = self.wildcard_subsets.iter().filter(|(suffix, _)| full.ends_with(&***suffix));
        let found: Vec<_> = self.subsets.get(&full).into_iter().chain(wildcards.map(|(_, subsets)| subsets)).collect();
        (!found.is_empty()).then(|| found.into_iter().flatten().map(String::as_str).collect())
    }

    /// Returns another VirtualService that splits a host by subsets.
    pub(super) fn split(&self, host: &str, own: &Object) -> Option<&'a Object> {
        self.splits.get(host).into_iter().flatten().find(|object| !std::ptr::eq(**object, own)).copied()
    }

    /// Returns whether some pod has labels; `None` if no pod is known. Without a namespace, the pod may be in any.
    pub(super) fn has_pod(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> Option<bool> {
        let pods = self.pods.as_ref()?;
        let selected = |pod: &BTreeMap<String, String>| labels.iter().all(|(key, value)| pod.get(key) == Some(value));
        Some(match namespace {
            Some(namespace) => pods.get(namespace).into_iter().flatten().any(selected),
            None => pods.values().flatten().any(selected),
        })
    }

    /// Returns the namespaces and labels of pods with some labels.
    pub(super) fn pods_with(&self, labels: &BTreeMap<String, String>) -> Vec<(&'a str, &BTreeMap<String, String>)> {
        let pods =
            self.pods.iter().flatten().flat_map(|(namespace, pods)| pods.iter().map(move |pod| (*namespace, pod)));
        pods.filter(|(_, pod)| labels.iter().all(|(key, value)| pod.get(key) == Some(value))).collect()
    }

    /// Returns whether a VirtualService exists.
    pub(super) fn has_virtual_service(&self, namespace: &str, name: &str) -> bool {
        self.names.contains(&(namespace, name))
    }
}

impl Host<'_> {
    fn is_visible(&self, namespace: &str) -> bool {
        let seen = |to: &&str| match *to {
            "*" => true,
            "." => self.namespace == namespace,
            "~" => false,
            to => to == namespace,
        };
        self.export_to.is_empty() || self.export_to.iter().any(seen)
    }
}

/// Returns the hosts of a VirtualService of which it has routes to subsets.
fn split_hosts(service: &Parsed<'_, VirtualService>) -> BTreeSet<String> {
    let (spec, namespace) = (&service.of.spec, &service.object.namespace);
    let own: BTreeSet<String> = spec.hosts.iter().map(|host| full_host(host, namespace)).collect();
    let destinations = spec.http.iter().flat_map(|route| &route.route).filter_map(|to| to.destination.as_ref());
    let split = destinations.filter(|to| !to.subset.is_empty()).map(|to| full_host(&to.host, namespace));
    split.filter(|host| own.contains(host)).collect()
}

fn ports(value: &Value, field: &str) -> BTreeSet<u32> {
    let ports = value["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| port[field].as_u64()?.try_into().ok()).collect()
}

/// Returns the full name of a host: a short name is in the namespace.
pub(super) fn full_host(name: &str, namespace: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if !name.contains(['.', '*']) {
        return format!("{name}.{namespace}.{DOMAIN}");
    }
    match name.strip_suffix(CLUSTER_SET_DOMAIN) {
        Some(service) => format!("{service}{DOMAIN}"),
        None => name,
    }
}
