//! `v1` Namespace.

use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Record, Text, fields, metadata};

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Namespace {
    /// The name.
    pub name: Text,
    /// Label `topology.istio.io/network`: on a system namespace, the cluster's network.
    pub network: Option<Text>,
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Namespace")]
pub struct Source {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
}

impl Record for Namespace {
    type Source = Source;
    const KIND: Kind = Kind::Namespace;
    const NAME: &'static str = "Namespace";
    const LIMIT: usize = 20_000;

    fn extract(object: Source) -> Option<Self> {
        let network = fields::network(&object.metadata);
        Some(Namespace { name: fields::name(&object.metadata).filter(|name| fields::is_label(name))?, network })
    }

    fn namespace(&self) -> Option<&Text> {
        None
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        size_of::<Self>() + fields::size(&self.name) + self.network.as_ref().map_or(0, |network| fields::size(network))
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.name);
        strings.option(&mut self.network);
    }
}
