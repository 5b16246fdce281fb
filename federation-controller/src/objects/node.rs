//! `v1` Node.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Labels, Record, Text, fields, metadata};

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// The name.
    pub name: Text,
    /// Label `topology.kubernetes.io/region`.
    pub region: Text,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Text,
    /// Label `topology.istio.io/subzone`.
    pub subzone: Text,
    /// The labels, by which gateway Services with node ports select nodes.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// `status.addresses` of type ExternalIP; if there are none, those of type InternalIP.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub addresses: Box<[IpAddr]>,
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Node")]
pub struct Source {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

impl NodeStatus {
    fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let addresses = self.addresses.iter().flatten().take(fields::MAX_ADDRESSES);
        let addresses = addresses.filter(move |of| of.r#type == kind).filter_map(|of| of.address.parse().ok());
        addresses.filter(fields::is_reachable)
    }

    /// Returns the addresses at which clients outside of the cluster reach the node, as far as the node says.
    fn reachable(&self) -> Box<[IpAddr]> {
        let external: Box<[IpAddr]> = self.of_type("ExternalIP").collect();
        if external.is_empty() { self.of_type("InternalIP").collect() } else { external }
    }
}

impl Record for Node {
    type Source = Source;
    const KIND: Kind = Kind::Node;
    const NAME: &'static str = "Node";
    const LIMIT: usize = 10_000;

    fn extract(object: Source) -> Option<Self> {
        let first =
            |labels: &[&str]| labels.iter().find_map(|l| fields::label(&object.metadata, l)).unwrap_or_default();
        Some(Node {
            name: fields::name(&object.metadata)?,
            region: first(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
            zone: first(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
            subzone: first(&["topology.istio.io/subzone"]),
            addresses: object.status.reachable(),
            labels: fields::labels(object.metadata.labels),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        None
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        let texts = [&self.name, &self.region, &self.zone, &self.subzone].map(|text| fields::size(text));
        size_of::<Self>() + texts.iter().sum::<usize>() + self.labels.size() + size_of_val(&*self.addresses)
    }

    fn intern(&mut self, strings: &mut Strings) {
        for text in [&mut self.name, &mut self.region, &mut self.zone, &mut self.subzone] {
            strings.text(text);
        }
        strings.labels(&mut self.labels);
    }
}
