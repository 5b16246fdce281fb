//! The sandbox of a pod: namespaces held by a pause process, the pod's addresses, and its name files.

use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use net::namespace::file_tree::FileTree;
use net::namespace::{Namespaces, NetNamespace};
use net::process::{Launch, Process, Program, Signal, Streams};

use super::host::Host;
use super::network::{self, PodPlace};

/// The sandbox of a pod.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// The process that holds the namespaces. When it ends, the kernel ends every process of the pod.
    pub pause: Arc<Process>,
    /// Addresses of the pod, one of each IP family; the node's addresses for a pod on the node's network.
    pub addresses: Vec<IpAddr>,
    /// The place to release.
    taken: Option<PodPlace>,
}

/// The reason of a `FailedCreatePodSandBox` event.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Sandbox {
    /// Creates the sandbox of a pod.
    pub(super) async fn create(host: &Host, pod: &Pod, directory: &Path) -> Result<Self, Failure> {
        let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
        let on_host = spec.host_network == Some(true);
        let name = pod.metadata.name.clone().unwrap_or_default();
        let mut pause = Launch::new(Program::Own);
        pause.arguments = vec![net::process::PAUSE.into()];
        pause.make = Namespaces { net: !on_host, ..Namespaces::ALL };
        pause.file_tree = Some(FileTree::default());
        pause.host_name = Some(truncated(spec.hostname.as_ref().unwrap_or(&name)));
        let pause = Arc::new(net::process::launch(pause, Streams::none()?).await?);
        let mut sandbox = Self { pause, addresses: host.settings.host_addresses.clone(), taken: None };
        if let Err(failure) = sandbox.connect(host, pod, directory, on_host) {
            sandbox.destroy(host).await;
            return Err(failure);
        }
        Ok(sandbox)
    }

    fn connect(&mut self, host: &Host, pod: &Pod, directory: &Path, on_host: bool) -> Result<(), Failure> {
        if !on_host {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            let place = host.addresses.take(&node).ok_or("the node has no free pod address")?;
            self.taken = Some(place);
            self.addresses = host.addresses.of(place);
            network::attach(&NetNamespace::of_process(self.pause.pid())?, place, &self.addresses)?;
        }
        write_name_files(host, pod, directory, &self.addresses)
    }

    /// Returns a handle for joining the pod's namespaces.
    pub(super) fn handle(&self) -> std::io::Result<OwnedFd> {
        self.pause.handle()
    }

    /// Reports whether the pause process has left its namespaces: it ends, and the kernel may still be ending the pod's
    /// other processes.
    pub(super) fn has_ended(&self) -> bool {
        NetNamespace::of_process(self.pause.pid()).is_err()
    }

    /// Kills every process of the pod and releases its resources.
    pub(super) async fn destroy(&self, host: &Host) {
        let _ = self.pause.kill(Signal::KILL);
        // Another task may have reaped the process already.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.pause.wait()).await;
        if let Some(place) = self.taken {
            network::detach(place);
            host.addresses.give_back(place);
        }
    }
}

/// Shortens a host name to the 63 characters that it may have.
fn truncated(name: &str) -> String {
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Returns the name files of a pod: the path in containers, and the file.
pub(super) fn name_files(directory: &Path) -> [(&'static str, PathBuf); 3] {
    [
        ("/etc/resolv.conf", directory.join("etc/resolv.conf")),
        ("/etc/hosts", directory.join("etc/hosts")),
        ("/etc/hostname", directory.join("etc/hostname")),
    ]
}

fn write_name_files(host: &Host, pod: &Pod, directory: &Path, addresses: &[IpAddr]) -> Result<(), Failure> {
    fs::create_dir_all(directory.join("etc"))?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let host_name = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).unwrap_or(name);
    let contents = [resolv_conf(host, pod), hosts(host, pod, addresses, &host_name), format!("{host_name}\n")];
    for ((_, path), text) in name_files(directory).into_iter().zip(contents) {
        fs::write(path, text)?;
    }
    Ok(())
}

/// The content of resolv.conf, as a kubelet writes it: the cluster's DNS unless the pod specifies other servers.
fn resolv_conf(host: &Host, pod: &Pod) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = &host.settings.cluster_domain;
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    if policy == "Default" {
        return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    let (mut servers, mut search, mut options) = if policy == "None" {
        (vec![], vec![], vec![])
    } else {
        (
            vec![host.settings.dns_address.to_string()],
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()],
            vec!["ndots:5".to_owned()],
        )
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        servers.extend(config.nameservers.iter().flatten().cloned());
        search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|known| known != &name && !known.starts_with(&format!("{name}:")));
            options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn hosts(host: &Host, pod: &Pod, addresses: &[IpAddr], host_name: &str) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let names = match spec.and_then(|spec| spec.subdomain.as_deref()).filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) => {
            let domain = &host.settings.cluster_domain;
            format!("{host_name}.{subdomain}.{namespace}.svc.{domain}\t{host_name}")
        }
        None => host_name.to_owned(),
    };
    addresses.iter().for_each(|address| text.push_str(&format!("{address}\t{names}\n")));
    for alias in spec.into_iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.clone().unwrap_or_default();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}
