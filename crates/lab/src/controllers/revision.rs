//! The revisions of StatefulSets and DaemonSets: their pod templates, as ControllerRevisions that `kubectl rollout
//! history` and `undo` read.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::owner::{owned_by, references_to};
use super::reconcile::{Reconciled, ReconciledKind};
use super::template::template_hash;

/// Label of pods and revisions with the revision of their template.
pub const REVISION_HASH: &str = "controller-revision-hash";
const DEFAULT_LIMIT: i32 = 10;

/// The revisions of an object, the oldest first.
#[derive(Debug, Default)]
pub(super) struct RevisionHistory {
    revisions: Vec<Arc<ControllerRevision>>,
}

impl RevisionHistory {
    /// Returns the revisions of an object after its present template has become the newest one.
    pub(super) async fn with<K>(object: &Reconciled<'_, K>, template: &PodTemplateSpec) -> kube::Result<Self>
    where
        K: ReconciledKind,
    {
        let uid = object.object.uid().unwrap_or_default();
        let mut revisions = object.view.revisions.list();
        revisions.retain(|revision| owned_by(&revision.metadata, &uid));
        revisions.sort_by_key(|revision| revision.revision);
        let mut history = Self { revisions };
        let latest = history.revisions.last().map_or(0, |revision| revision.revision);
        let name = format!("{}-{}", object.object.name_any(), template_hash(template));
        let api: Api<ControllerRevision> = object.api();
        let newest = match history.revisions.iter().position(|revision| revision.name_any() == name) {
            Some(place) if history.revisions[place].revision == latest => return Ok(history),
            Some(place) => {
                history.revisions.remove(place);
                let patch = Patch::Merge(json!({"revision": latest + 1}));
                api.patch(&name, &PatchParams::default(), &patch).await?
            }
            None => {
                let revision = new_revision(object.object.as_ref(), &name, template, latest + 1);
                api.create(&PostParams::default(), &revision).await?
            }
        };
        history.revisions.push(Arc::new(newest.clone()));
        object.view.revisions.put(newest);
        Ok(history)
    }

    /// Returns the name of the newest revision.
    pub(super) fn newest(&self) -> String {
        self.revisions.last().map(|revision| revision.name_any()).unwrap_or_default()
    }

    /// Returns the template of a revision.
    pub(super) fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let revision = self.revisions.iter().find(|revision| revision.name_any() == name)?;
        serde_json::from_value(revision.data.as_ref()?.0.pointer("/spec/template")?.clone()).ok()
    }

    /// Returns the oldest revisions beyond the limit that no pod has. `live` reports whether a pod has a revision.
    fn surplus(&self, limit: Option<i32>, live: impl Fn(&ControllerRevision) -> bool) -> Vec<String> {
        let limit = usize::try_from(limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
        let Some((_, earlier)) = self.revisions.split_last() else { return Vec::new() };
        let unused: Vec<_> = earlier.iter().filter(|revision| !live(revision)).collect();
        let surplus = unused.len().saturating_sub(limit);
        unused.into_iter().take(surplus).map(|revision| revision.name_any()).collect()
    }

    /// Deletes the oldest revisions beyond the limit that no pod has.
    pub(super) async fn trim<K: ReconciledKind>(
        &self,
        object: &Reconciled<'_, K>,
        limit: Option<i32>,
        live: impl Fn(&ControllerRevision) -> bool,
    ) -> kube::Result<()> {
        let api: Api<ControllerRevision> = object.api();
        for name in self.surplus(limit, live) {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

fn new_revision<K: ReconciledKind>(
    owner: &K,
    name: &str,
    template: &PodTemplateSpec,
    revision: i64,
) -> ControllerRevision {
    // `kubectl rollout undo` applies the data as a strategic merge patch.
    let mut replaced = json!(template);
    replaced["$patch"] = json!("replace");
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(REVISION_HASH.to_owned(), hash_of(name).to_owned());
    let mut object = ControllerRevision {
        data: Some(RawExtension(json!({"spec": {"template": replaced}}))),
        revision,
        ..ControllerRevision::default()
    };
    object.metadata.name = Some(name.to_owned());
    object.metadata.namespace = owner.namespace();
    object.metadata.labels = Some(labels);
    object.metadata.owner_references = references_to(owner);
    object
}

/// Returns the hash at the end of a revision's name.
pub(super) fn hash_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(_, hash)| hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unused_revisions_are_surplus() {
        let revision = |number: i64| {
            let mut revision = ControllerRevision { revision: number, ..ControllerRevision::default() };
            revision.metadata.name = Some(format!("web-{number}"));
            Arc::new(revision)
        };
        let history = RevisionHistory { revisions: (1..=5).map(revision).collect() };
        assert_eq!(history.newest(), "web-5");
        let live = |revision: &ControllerRevision| revision.revision == 1;
        assert_eq!(history.surplus(Some(1), live), ["web-2", "web-3"]);
        assert_eq!(history.surplus(None, live), Vec::<String>::new());
    }

    #[test]
    fn a_revision_holds_its_template() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]},
        }))
        .expect("a template");
        let mut set = k8s_openapi::api::apps::v1::StatefulSet::default();
        set.metadata.name = Some("web".to_owned());
        let revision = new_revision(&set, "web-abc", &template, 3);
        assert_eq!((revision.labels()[REVISION_HASH].as_str(), revision.revision), ("abc", 3));
        let history = RevisionHistory { revisions: vec![Arc::new(revision)] };
        assert_eq!(history.template("web-abc"), Some(template));
        assert_eq!(history.template("web-other"), None);
    }
}
