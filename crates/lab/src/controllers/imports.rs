//! The ServiceImports of a cluster, which the mesh's controller writes (KEP-1645). The DNS server and the service proxy use them,
//! as those of a cluster with support for the Multi-Cluster Services API do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use api::export::{SERVICE_NAME_LABEL, ServiceImport};
use futures_util::StreamExt as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};

use super::ClusterView;
use super::cache::Cache;

/// Delay between attempts to watch. The kind is defined when the mesh is installed, shortly after the cluster has started.
const PAUSE: Duration = Duration::from_millis(500);

/// The ranges of clusterset addresses.
#[must_use]
pub fn networks() -> [IpNet; 2] {
    let ipv4 = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);
    let ipv6 = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, 0), 112);
    [ipv4.into(), ipv6.into()]
}

/// Follows the ServiceImports into `imports` until the future is dropped. Changes are signalled by `view`.
pub async fn follow(client: Client, imports: Arc<Cache<ServiceImport>>, view: Arc<ClusterView>) {
    let mut events = std::pin::pin!(watcher(Api::all(client), watcher::Config::default()));
    let mut listing = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(import)) => listing.push(import),
            Ok(Event::InitDone) => {
                imports.replace(std::mem::take(&mut listing));
                view.touch();
            }
            Ok(Event::Apply(import)) => {
                imports.put(import);
                view.touch();
            }
            Ok(Event::Delete(import)) => {
                imports.remove(&import);
                view.touch();
            }
            Err(error) => {
                tracing::debug!(%error, "cannot watch ServiceImports; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns the addresses of an import.
#[must_use]
pub fn addresses_of(import: &ServiceImport) -> Vec<IpAddr> {
    import.spec.ips.iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// Returns whether an import has the endpoints' own addresses.
#[must_use]
pub fn is_headless(import: &ServiceImport) -> bool {
    import.spec.r#type == "Headless"
}

/// Returns the slices with endpoints of an import, of all exporting clusters.
#[must_use]
pub fn slices_of<'a>(import: &ServiceImport, slices: &'a [Arc<EndpointSlice>]) -> Vec<&'a EndpointSlice> {
    let (namespace, name) = (&import.metadata.namespace, import.metadata.name.as_ref());
    let of = |slice: &&EndpointSlice| {
        slice.metadata.namespace == *namespace && slice.labels().get(SERVICE_NAME_LABEL) == name
    };
    slices.iter().map(AsRef::as_ref).filter(of).collect()
}
