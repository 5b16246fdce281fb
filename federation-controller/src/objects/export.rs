//! `multicluster.x-k8s.io/v1alpha1` ServiceExport (KEP-1645).

use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Record, Text, fields};

/// Permission for other clusters to use the service of the same namespace and name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Export {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
}

impl Record for Export {
    type Source = api::export::ServiceExport;
    const KIND: Kind = Kind::Export;
    const NAME: &'static str = "ServiceExport";
    const OPTIONAL: bool = true;
    const BY_NAMESPACE: bool = true;
    const LIMIT: usize = 20_000;

    fn extract(object: Self::Source) -> Option<Self> {
        Some(Export {
            namespace: fields::namespace(&object.metadata)?,
            name: fields::name(&object.metadata)?,
            created: fields::created(&object.metadata),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        size_of::<Self>() + fields::size(&self.namespace) + fields::size(&self.name)
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
    }
}
