//! The certificates of the servers of gateways: which Secrets are read, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use api::networking::gateway::{Server, ServerTls, host_of};
use identity::ServerCertificate;

use super::{Group, Inventory, RuleNotice};
use crate::objects::{Gateway, Key, Kind, Pod, ROOTS_SUFFIX, Record as _, SecretRead, ServerCredential, Text};

/// The number of hosts of one server that are compared with its certificate.
const MAX_HOSTS: usize = 100;

/// What is known of a Secret.
#[derive(Debug, Default)]
pub(super) struct KnownSecret {
    /// The last usable content.
    usable: Option<ServerCredential>,
    /// What is wrong with the present one.
    problem: Option<String>,
    /// It was usable, and has been deleted.
    deleted: bool,
}

/// Returns the names of the Secrets of a server.
fn names(tls: &ServerTls) -> impl Iterator<Item = Text> {
    let own = tls.credentials().map(Text::from);
    let roots = tls.credentials().filter(|_| tls.verifies_clients() && tls.ca_credential().is_none());
    let roots = roots.map(|name| Text::from(format!("{name}{ROOTS_SUFFIX}")));
    own.chain(roots).chain(tls.ca_credential().map(Text::from))
}

impl Inventory {
    /// Returns the routers, each with its cluster and pod.
    fn routers(&self) -> impl Iterator<Item = (&Text, &Pod)> {
        let routers = self.connected.iter().filter(|(_, proxy)| proxy.router).map(|(of, _)| of);
        routers.filter_map(|(cluster, pod)| Some((cluster, self.clusters.get(cluster)?.pods().get(pod)?)))
    }

    /// Returns the names of the Secrets that the servers of connected routers have, by cluster and namespace.
    pub fn credential_names(&self) -> BTreeMap<(Text, Text), BTreeSet<Text>> {
        let mut all: BTreeMap<_, BTreeSet<Text>> = BTreeMap::new();
        for (cluster, pod) in self.routers() {
            let specs = self.gateways_of_router(pod).into_iter().filter_map(|gateway| gateway.spec.as_ref());
            let servers = specs.flat_map(|spec| spec.servers.iter()).filter_map(Server::tls_of_port);
            for name in servers.flat_map(names) {
                all.entry((cluster.clone(), pod.namespace.clone())).or_default().insert(name);
            }
        }
        all
    }

    /// Returns the last usable content of a Secret in a cluster.
    pub fn credential(&self, cluster: &Text, secret: &Key) -> Option<&ServerCredential> {
        self.credentials.get(&(cluster.clone(), secret.clone()))?.usable.as_ref()
    }

    /// Takes what was read of a Secret. One that is not usable leaves the last usable one in force.
    pub(super) fn change_credential(&mut self, cluster: Text, secret: Key, read: SecretRead, now: SystemTime) {
        let known = self.credentials.entry((cluster.clone(), secret.clone())).or_default();
        let before = known.usable.clone();
        known.problem = None;
        known.deleted = matches!(read, SecretRead::Missing) && (known.deleted || before.is_some());
        match read {
            SecretRead::Usable(new) if new.expired(now) && known.usable.as_ref().is_some_and(|of| !of.expired(now)) => {
                known.problem = Some("its new certificate has expired".into());
            }
            SecretRead::Usable(new) => known.usable = Some(new),
            SecretRead::Unusable(why) | SecretRead::Denied(why) => known.problem = Some(why),
            SecretRead::Missing => known.usable = None,
        }
        if known.usable != before {
            self.note_credential(cluster, secret);
        }
    }

    /// Forgets the Secrets that no server of a connected router has.
    pub(super) fn forget_credentials(&mut self) {
        if self.credentials.is_empty() {
            return;
        }
        let named = self.credential_names();
        let is_named = |(cluster, secret): &(Text, Key)| {
            let names = named.get(&(cluster.clone(), secret.namespace.clone()));
            names.is_some_and(|names| names.contains(&secret.name))
        };
        let unused: Vec<(Text, Key)> = self.credentials.keys().filter(|of| !is_named(of)).cloned().collect();
        for (cluster, secret) in unused {
            self.credentials.remove(&(cluster.clone(), secret.clone()));
            self.note_credential(cluster, secret);
        }
    }

    /// Notes a Secret, and the one that it has the roots of.
    fn note_credential(&mut self, cluster: Text, secret: Key) {
        let of = secret.name.strip_suffix(ROOTS_SUFFIX).map(|name| Key::new(&secret.namespace, name));
        let groups = of.into_iter().chain([secret]).map(|secret| Group::Credential(cluster.clone(), secret));
        self.pending.groups(&Text::default(), groups.collect::<Vec<_>>());
    }

    /// Returns what is wrong with the certificates of Gateways, in no order.
    pub(super) fn credential_notices(&self) -> BTreeSet<RuleNotice> {
        let mut notices = BTreeSet::new();
        for (cluster, pod) in self.routers() {
            let secrets = SecretsOf { known: &self.credentials, cluster, namespace: &pod.namespace };
            for gateway in self.gateways_of_router(pod) {
                let servers = gateway.spec.iter().flat_map(|spec| spec.servers.iter().enumerate());
                for (index, server) in servers {
                    for (code, text) in secrets.problems(gateway, server) {
                        let (object, text) = (gateway.key(), format!("spec.servers[{index}].tls: {text}"));
                        notices.insert(RuleNotice { kind: Kind::Gateway, object, code: code.into(), text });
                    }
                }
            }
        }
        notices
    }
}

/// The Secrets of the namespace of a router.
struct SecretsOf<'a> {
    known: &'a BTreeMap<(Text, Key), KnownSecret>,
    cluster: &'a Text,
    namespace: &'a Text,
}

/// The code of something that is wrong, and what it is.
type SecretProblem = (&'static str, String);

/// The code of a certificate that is not usable.
const UNUSABLE: &str = "IST0161";

impl<'a> SecretsOf<'a> {
    /// Returns what is known of a Secret; `None` until the first read.
    fn get(&self, name: &str) -> Option<&'a KnownSecret> {
        self.known.get(&(self.cluster.clone(), Key::new(self.namespace, name)))
    }

    fn place(&self, name: &str) -> String {
        format!("Secret {}/{name} of cluster {}", self.namespace, self.cluster)
    }

    /// Returns what is wrong with the certificates of a server.
    fn problems(&self, gateway: &Gateway, server: &Server) -> Vec<SecretProblem> {
        let Some(tls) = server.tls_of_port() else { return Vec::new() };
        let own = tls.credentials().filter_map(|name| self.problem(name, true));
        let mut problems: Vec<SecretProblem> = own.collect();
        problems.extend(tls.ca_credential().and_then(|name| self.problem(name, false)));
        if tls.verifies_clients() && tls.ca_credential().is_none() {
            problems.extend(tls.credentials().filter_map(|name| self.problem_of_roots(name)));
        }
        let certificates: Vec<(&str, &ServerCertificate)> = tls
            .credentials()
            .filter_map(|name| Some((name, self.get(name)?.usable.as_ref()?.certificate.as_ref()?)))
            .collect();
        problems.extend(certificates.iter().filter_map(|(name, certificate)| self.problem_of_time(name, certificate)));
        let hosts = server.hosts.iter().take(MAX_HOSTS).map(|host| host_of(host, &gateway.namespace).1);
        let covers = |host: &&str| *host == "*" || certificates.iter().any(|(_, certificate)| certificate.covers(host));
        if let Some(host) = hosts.filter(|_| !certificates.is_empty()).find(|host| !covers(host)) {
            let text = format!("no certificate is for host {host}: clients refuse it; name the host in one");
            problems.push(("IST0133", text));
        }
        problems
    }

    /// Returns what is wrong with a Secret that has a certificate with its key, or roots.
    fn problem(&self, name: &str, has_key: bool) -> Option<SecretProblem> {
        let (known, place) = (self.get(name)?, self.place(name));
        let instead = match known.usable {
            Some(_) => "the last usable content stays in force",
            None => "connections are refused",
        };
        let lacks = |of: &ServerCredential| if has_key { of.certificate.is_none() } else { of.roots.is_empty() };
        match (&known.problem, &known.usable) {
            (Some(why), _) => Some((UNUSABLE, format!("{place} is not usable, and {instead}: {why}"))),
            (None, None) if known.deleted => {
                let text =
                    "gateways keep its last content until they end, and refuse connections after that; create it";
                Some(("IST0101", format!("{place} does not exist any longer: {text}")))
            }
            (None, None) => Some(("IST0101", format!("{place} does not exist: {instead}; create it"))),
            (None, Some(of)) if lacks(of) => {
                let what = if has_key { "certificate and key" } else { "ca.crt" };
                Some((UNUSABLE, format!("{place} has no {what}: connections are refused")))
            }
            (None, Some(_)) => None,
        }
    }

    /// Returns what is wrong with the roots of a Secret, in itself or in one of their own.
    fn problem_of_roots(&self, name: &str) -> Option<SecretProblem> {
        let of_roots = format!("{name}{ROOTS_SUFFIX}");
        let (own, roots) = (self.get(name)?.usable.as_ref()?, self.get(&of_roots)?);
        if let Some(why) = &roots.problem {
            return Some((UNUSABLE, format!("{} is not usable: {why}", self.place(&of_roots))));
        }
        let has_roots = [Some(own), roots.usable.as_ref()].into_iter().flatten().any(|of| !of.roots.is_empty());
        let text =
            || format!("{} has no ca.crt, and there is no {of_roots}: connections are refused", self.place(name));
        (!has_roots).then(|| (UNUSABLE, text()))
    }

    fn problem_of_time(&self, name: &str, certificate: &ServerCertificate) -> Option<SecretProblem> {
        let now = SystemTime::now();
        let what = match (certificate.begins() > now, certificate.expires() <= now) {
            (true, _) => "is not valid yet",
            (_, true) => "has expired",
            (false, false) => return None,
        };
        Some((UNUSABLE, format!("the certificate of {} {what}: clients refuse it; replace it", self.place(name))))
    }
}
