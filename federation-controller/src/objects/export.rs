//! `multicluster.x-k8s.io/v1alpha1` ServiceExport (KEP-1645).

use std::collections::BTreeMap;
use std::hash::BuildHasher;

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
    /// A hash of `metadata.uid`, by which an export that was created again is another one.
    #[serde(default)]
    pub uid: u64,
    /// What imports have beside the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<Box<Exported>>,
    /// The clusters that ServiceEntries of the service are kept in: annotation `federation.isthmus.dev/export-to`. One beyond
    /// [`MAX_TARGETS`] is kept, so that it can be reported.
    #[serde(default)]
    pub to: Box<[Text]>,
}

/// `spec.exportedLabels` and `spec.exportedAnnotations`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exported {
    /// The labels that an API server admits.
    pub labels: BTreeMap<Text, Text>,
    /// The annotations that an API server admits.
    pub annotations: BTreeMap<Text, Text>,
    /// The number of labels and annotations that it does not admit, or that are too many.
    pub left_out: u32,
}

/// Maximum length of the annotations of one export. An API server admits 256 KiB for all annotations of an object.
const MAX_ANNOTATIONS: usize = 32 << 10;

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
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        Some(Export {
            namespace: fields::namespace(&object.metadata)?,
            name: fields::name(&object.metadata)?,
            created: fields::created(&object.metadata),
            uid: foldhash::quality::FixedState::default().hash_one(uid),
            exported: Exported::of(object.spec).map(Box::new),
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
        let exported = self.exported.iter().flat_map(|of| of.labels.iter().chain(&of.annotations));
        let exported: usize = exported.map(|(key, value)| fields::size(key) + fields::size(value)).sum();
        let targets: usize = self.to.iter().map(|target| size_of::<Text>() + fields::size(target)).sum();
        size_of::<Self>() + fields::size(&self.namespace) + fields::size(&self.name) + exported + targets
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        self.to.iter_mut().for_each(|target| strings.text(target));
    }
}

impl Exported {
    /// Returns what a spec exports; `None` if that is nothing.
    fn of(spec: api::export::ServiceExportSpec) -> Option<Self> {
        let (labels, annotations) = (spec.exported_labels, spec.exported_annotations);
        let (labels, annotations) = (labels.unwrap_or_default(), annotations.unwrap_or_default());
        let all = labels.len() + annotations.len();
        if all == 0 {
            return None;
        }
        let labels = labels.into_iter().filter(|(key, value)| fields::is_key(key) && fields::is_label_value(value));
        let labels: BTreeMap<Text, Text> =
            labels.take(fields::MAX_LABELS).map(|(key, value)| (key.into(), value.into())).collect();
        let mut left = MAX_ANNOTATIONS;
        let fits = |(key, value): &(String, String)| {
            let size = key.len() + value.len();
            let fits = fields::is_key(key) && size <= left;
            left -= if fits { size } else { 0 };
            fits
        };
        let annotations: BTreeMap<Text, Text> =
            annotations.into_iter().filter(fits).map(|(key, value)| (key.into(), value.into())).collect();
        let left_out = u32::try_from(all - labels.len() - annotations.len()).unwrap_or(u32::MAX);
        Some(Exported { labels, annotations, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_labels_that_an_api_server_refuses_are_left_out_and_counted() {
        let object = serde_json::json!({
            "metadata": {"name": "reviews", "namespace": "default", "uid": "u"},
            "spec": {
                "exportedLabels": {"team": "books", "example.com/tier": "1", "bad key": "x", "/x": "y", "long": "v".repeat(64)},
                "exportedAnnotations": {"note": "two words", "large": "x".repeat(MAX_ANNOTATIONS)},
            },
        });
        let export = Export::extract(serde_json::from_value(object).unwrap()).unwrap();
        let exported = export.exported.unwrap();
        let keys = |of: &BTreeMap<Text, Text>| of.keys().map(|key| key.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(&exported.labels), ["example.com/tier", "team"]);
        assert_eq!(keys(&exported.annotations), ["note"]);
        assert_eq!(exported.left_out, 4);
        let plain = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}});
        assert_eq!(Export::extract(serde_json::from_value(plain).unwrap()).unwrap().exported, None);
    }
}
