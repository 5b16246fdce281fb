//! The objects of clusters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::analyze::Object;
use api::{linkerd, networking, smi};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use lab::console::Patience;
use serde_json::{Value, json};

use super::SourceOptions;
use crate::access::ClusterAccess;
use crate::config::source;

/// The number of objects of a page.
const PAGE: u32 = 500;
/// The number of objects of all clusters.
const MAX_OBJECTS: usize = 500_000;

/// A kind that is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadKind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Whether names and labels are enough.
    metadata: bool,
}

impl ReadKind {
    /// Returns a kind of which whole objects are read.
    pub(crate) const fn of(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        ReadKind { group, version, kind, plural, metadata: false }
    }
}

/// The kinds that an analysis reads.
pub(crate) const KINDS: &[ReadKind] = &[
    ReadKind::of(networking::GROUP, "v1", "VirtualService", "virtualservices"),
    ReadKind::of(networking::GROUP, "v1", "DestinationRule", "destinationrules"),
    ReadKind::of(networking::GROUP, "v1", "Gateway", "gateways"),
    ReadKind::of(networking::GROUP, "v1", "ServiceEntry", "serviceentries"),
    ReadKind::of(smi::SPLIT_GROUP, "v1alpha2", "TrafficSplit", "trafficsplits"),
    ReadKind::of(smi::SPECS_GROUP, "v1alpha4", "HTTPRouteGroup", "httproutegroups"),
    ReadKind::of(linkerd::GROUP, "v1alpha2", "ServiceProfile", "serviceprofiles"),
    ReadKind::of("", "v1", "Service", "services"),
    ReadKind { metadata: true, ..ReadKind::of("", "v1", "Namespace", "namespaces") },
    ReadKind { metadata: true, ..ReadKind::of("", "v1", "Pod", "pods") },
    ReadKind::of("apps", "v1", "Deployment", "deployments"),
    ReadKind::of("apps", "v1", "StatefulSet", "statefulsets"),
    ReadKind::of("apps", "v1", "DaemonSet", "daemonsets"),
    ReadKind::of(networking::GROUP, "v1alpha3", "EnvoyFilter", "envoyfilters"),
    ReadKind::of(api::rate_limit::GROUP, "v1alpha1", "RateLimit", "ratelimits"),
    ReadKind::of(api::federation::GROUP, "v1alpha1", api::federation::KIND, "federationpolicies"),
    ReadKind::of("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies"),
    ReadKind::of("security.istio.io", "v1", "PeerAuthentication", "peerauthentications"),
    ReadKind::of("security.istio.io", "v1", "RequestAuthentication", "requestauthentications"),
];

/// Returns the clusters of a command. With files, only those that are named.
pub(super) async fn chosen(args: &SourceOptions) -> anyhow::Result<Vec<ClusterAccess>> {
    let named = args.access.lab.is_some() || args.access.kubeconfig.is_some() || !args.contexts.is_empty();
    if !args.files.is_empty() && !named {
        return Ok(Vec::new());
    }
    source::clusters(&args.access, &args.contexts).await
}

/// Returns the objects of clusters, of these kinds.
pub(super) async fn objects(
    clusters: &[ClusterAccess],
    kinds: &[ReadKind],
    limit: Duration,
) -> anyhow::Result<Vec<Object>> {
    let patience = Patience::new(limit, "check that it runs and can be reached, or wait longer: --timeout 2m");
    let mut objects = Vec::new();
    for cluster in clusters {
        let name: Arc<str> = cluster.name.as_str().into();
        for kind in kinds {
            let reading = || format!("reading {} of {}", kind.plural, cluster.name);
            list(cluster, kind, &name, &patience, &mut objects).await.with_context(reading)?;
        }
    }
    Ok(objects)
}

async fn list(
    cluster: &ClusterAccess,
    kind: &ReadKind,
    name: &Arc<str>,
    patience: &Patience,
    objects: &mut Vec<Object>,
) -> anyhow::Result<()> {
    let of = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    let resource = ApiResource::from_gvk_with_plural(&of, kind.plural);
    let api = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = async {
            match kind.metadata {
                true => {
                    let page = api.list_metadata(&params).await?;
                    let items = page.items.into_iter().map(|item| json!({"metadata": item.metadata}));
                    Ok((items.collect::<Vec<Value>>(), page.metadata.continue_))
                }
                false => {
                    let page = api.list(&params).await?;
                    let items = page.items.into_iter().map(|item| {
                        let mut value = item.data;
                        value["metadata"] = json!(item.metadata);
                        value
                    });
                    Ok((items.collect(), page.metadata.continue_))
                }
            }
        };
        let (items, next) = match patience.answer(&cluster.api_server(), page).await? {
            // The kind is not defined there.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            page => page?,
        };
        for mut value in items {
            // Lists leave these out.
            value["apiVersion"] = json!(resource.api_version);
            value["kind"] = json!(kind.kind);
            objects.push(Object::of_cluster(value, name));
        }
        if objects.len() > MAX_OBJECTS {
            bail!("the clusters have more than {MAX_OBJECTS} objects\n  analyze one at a time: --context NAME");
        }
        match next.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}
