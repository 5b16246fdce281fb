//! The gateway's admin pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use balance::Health;
use runtime::admin::{Admin, Reply};
use serde_json::json;

use crate::options::Options;
use crate::routes::Routes;

/// Adds `/clusters` and the sections of `/config_dump`.
pub(crate) fn add(admin: Admin, options: &Options, routes: Arc<ArcSwap<Routes>>) -> Admin {
    let own = json!({
        "cluster": options.gateway.cluster,
        "network": options.gateway.network,
        "discovery_address": options.gateway.discovery_address.to_string(),
    });
    let (for_dump, for_page) = (routes.clone(), routes);
    admin.section("gateway", move || own.clone()).section("routes", move || dump(&for_dump.load())).page(
        "/clusters",
        "the forwarded server names and their endpoints",
        move |_| Reply::json(&dump(&for_page.load())),
    )
}

fn dump(routes: &Routes) -> serde_json::Value {
    let routes: BTreeMap<String, serde_json::Value> = routes
        .iter()
        .map(|(name, route)| {
            let endpoints: Vec<_> = routes
                .candidates(&route)
                .map(|endpoint| {
                    json!({
                        "address": endpoint.target.address.to_string(),
                        "cluster": &*endpoint.target.party.cluster,
                        "weight": endpoint.weight,
                        "health": match endpoint.health {
                            Health::Ready => "ready",
                            Health::Degraded => "degraded",
                            Health::Unready => "unready",
                            Health::Draining => "draining",
                        },
                    })
                })
                .collect();
            let route = json!({
                "service": &*route.service.hostname,
                "port": route.port,
                "subset": &*route.subset,
                "mesh_only": route.mesh_only,
                "endpoints": endpoints,
            });
            (name, route)
        })
        .collect();
    json!(routes)
}
