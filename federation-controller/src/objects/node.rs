//! `v1` Node.

use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Record, Text, fields, metadata};

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
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Node")]
pub struct Source {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
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
        })
    }

    fn namespace(&self) -> Option<&Text> {
        None
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn intern(&mut self, strings: &mut Strings) {
        for text in [&mut self.name, &mut self.region, &mut self.zone, &mut self.subzone] {
            strings.text(text);
        }
    }
}
