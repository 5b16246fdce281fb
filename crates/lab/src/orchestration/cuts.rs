//! Cuts between clusters: the connections of one cluster to another whose packets are dropped.
//!
//! They are packet rules in the namespace of the cluster that the connections come from, at its link to the bridge between
//! clusters. Between clusters of one network, pods reach each other over a link of that network, which no cut changes.

use std::collections::BTreeSet;

use install::client_error;
use install::components::GATEWAY_PORT;
use net::firewall::{Cut, cut_connections};
use net::namespace::NetNamespace;

use super::control::CutPath;
use super::networks::UPLINK;
use crate::topology::{API_PORT, Cluster, Topology};

/// The cuts of a lab: by the cluster that the connections come from, the one that they go to, and which they are.
#[derive(Debug, Default)]
pub(super) struct Cuts(BTreeSet<(String, String, CutPath)>);

impl Cuts {
    /// Adds or removes a cut, and applies those of the cluster that it comes from.
    pub(super) fn change(
        &mut self,
        topology: &Topology,
        namespaces: &[NetNamespace],
        (from, to, only): (&str, &str, Option<CutPath>),
        cut: bool,
    ) -> Result<(), String> {
        let find = |name: &str| topology.cluster(name).ok_or_else(|| format!("no cluster \"{name}\""));
        let (source, target) = (find(from)?, find(to)?);
        if from == to {
            return Err(format!("\"{from}\" is no other cluster than \"{to}\"\n  name two clusters"));
        }
        if cut && only != Some(CutPath::Api) && source.network == target.network {
            return Err(format!(
                "{from} and {to} are on network {}, where pods reach each other without gateways\n  cut the API server alone: --only api",
                source.network
            ));
        }
        for path in [CutPath::Api, CutPath::Data].into_iter().filter(|path| only.is_none_or(|only| only == *path)) {
            let entry = (from.to_owned(), to.to_owned(), path);
            match cut {
                true => self.0.insert(entry),
                false => self.0.remove(&entry),
            };
        }
        let cuts = self.of(topology, from);
        let namespace = namespaces.get(usize::from(source.index)).ok_or("the cluster has no network namespace")?;
        let applied = namespace.run_in(|| cut_connections(UPLINK, &cuts)).map_err(|error| error.to_string())?;
        applied.map_err(|error| client_error::without_numbers(&error.to_string()))
    }

    /// Returns the cuts of a cluster's connections.
    fn of(&self, topology: &Topology, from: &str) -> Vec<Cut> {
        let own = self.0.iter().filter(|(of, ..)| of == from);
        let cut = |(_, to, path): &(String, String, CutPath)| {
            let target: &Cluster = topology.cluster(to)?;
            Some(match path {
                CutPath::Api => Cut { addresses: target.uplinks(), port: API_PORT },
                CutPath::Data => Cut { addresses: target.load_balancer_pool(), port: GATEWAY_PORT },
            })
        };
        own.filter_map(cut).collect()
    }
}
