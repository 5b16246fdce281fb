//! The proxy's view of the mesh: the part of it that the controller has pushed.
//!
//! The control thread owns the [`MeshStore`], which applies pushed resources and publishes immutable [`MeshSnapshot`]s. Each
//! worker reads through its own [`MeshView`], which costs one relaxed load while nothing has changed. A service that is not
//! in the snapshot is requested on first use ([`MeshView::by_address`], [`MeshView::by_name`]). Losing the controller
//! changes nothing in the snapshot.

mod convert;
mod destination;
mod domain;
mod dynamic;
mod entry;
mod federation;
mod map;
mod model;
mod names;
mod paths;
mod policies;
mod routes;
mod scope;
mod shared;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod timeouts;
mod traffic;
mod usage;
mod view;

pub use destination::{
    ClientTls, ConnectionPool, DestinationPolicy, HashCookie, HashKey, Keepalive, LoadBalancing, LocalityRules,
    OriginatedTls, PortPolicies, ProxyProtocol, RetryBudget, SubsetPolicy, Tunnel,
};
pub use entry::{Entry, NamedEndpoint, Resolution};
pub use federation::{AddressRange, Callers, SourceAddresses};
pub use map::SharedMap;
pub use model::{
    ApplicationAddress, ApplicationSocket, DirectEndpoint, Endpoint, Export, GatewayAddress, InboundLimits,
    InboundPort, OwnWorkload, Port, Protocol, Reach, Service, Subset, Summary, WorkloadLabels,
};
pub use names::{Answered, ResolvedNames, resolve as resolve_names};
pub use paths::{ClusterPath, MAX_PATHS, Paths};
pub use scope::{EgressProxy, Scope};
pub use shared::{ClusterCounter, Connection, SharedCluster};
pub use snapshot::{AccessLogSettings, AddressBlock, AddressMatch, MeshSettings, MeshSnapshot, OutboundPolicy};
pub use store::{Applied, MeshStore, Published};
pub use timeouts::{ConnectTimeouts, HEDGE_DELAY};
pub use traffic::TrafficPolicy;
pub use usage::release_unused;
pub use view::{Lookup, MeshView, demand, wildcards_of};

use std::net::IpAddr;
use std::sync::Arc;

/// Converts routes that are not those of a service, but of a gateway in a namespace.
///
/// # Errors
/// Returns an error if they are invalid.
pub fn route_table(message: &wire::discovery::RouteTable, namespace: &Arc<str>) -> Result<route::Table, String> {
    let client = convert::Client { namespace: namespace.clone(), labels: std::collections::BTreeMap::new() };
    convert::routes(message, &client)
}

/// The location of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyLocation {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The network.
    pub network: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod's first address. Of an endpoint or gateway with addresses of both families, the proxy uses this family.
    pub ip: IpAddr,
}
