//! What a gateway adds to the admin endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use runtime::admin::{Admin, Reply};
use serde_json::json;

use crate::Options;
use crate::store::Snapshot;

/// Adds `/clusters` and the sections of `/config_dump`.
pub(crate) fn add(admin: Admin, options: &Options, published: Arc<ArcSwap<Snapshot>>) -> Admin {
    let (cluster, network, discovery) =
        (options.cluster.clone(), options.network.clone(), options.discovery_address.to_string());
    let own = json!({ "cluster": cluster, "network": network, "discovery_address": discovery });
    let (for_dump, for_page) = (Arc::clone(&published), published);
    admin.section("gateway", move || own.clone()).section("routes", move || routes(&for_dump.load())).page(
        "/clusters",
        "the server names that are forwarded, with their endpoints",
        move |_| Reply::json(&routes(&for_page.load())),
    )
}

fn routes(snapshot: &Snapshot) -> serde_json::Value {
    let routes: BTreeMap<&str, serde_json::Value> = snapshot
        .routes
        .iter()
        .map(|(name, route)| {
            let endpoints: Vec<_> = route
                .service
                .candidates(route.port, route.mesh_only)
                .map(|endpoint| {
                    json!({
                        "address": endpoint.target.address.to_string(),
                        "cluster": &*endpoint.target.party.cluster,
                        "weight": endpoint.weight,
                        "health": format!("{:?}", endpoint.health),
                    })
                })
                .collect();
            let shown = json!({
                "service": &*route.service.hostname,
                "port": route.port,
                "mesh_only": route.mesh_only,
                "endpoints": endpoints,
            });
            (name, shown)
        })
        .collect();
    json!(routes)
}
