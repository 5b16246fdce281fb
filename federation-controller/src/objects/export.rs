//! `multicluster.x-k8s.io/v1alpha1` ServiceExport (KEP-1645).

use api::service_entry_export::target_clusters;
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
    /// The clusters that ServiceEntries of the service are kept in: annotation `federation.isthmus.dev/export-to`. One beyond
    /// [`MAX_TARGETS`] is kept, so that it can be reported.
    #[serde(default)]
    pub to: Box<[Text]>,
}

/// The number of clusters that one export may name.
pub const MAX_TARGETS: usize = 32;

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
            to: target_clusters(&object.metadata, MAX_TARGETS + 1).into_iter().map(Into::into).collect(),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        let targets = self.to.iter().map(|target| size_of::<Text>() + fields::size(target));
        size_of::<Self>() + fields::size(&self.namespace) + fields::size(&self.name) + targets.sum::<usize>()
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        self.to.iter_mut().for_each(|target| strings.text(target));
    }
}
