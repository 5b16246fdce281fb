//! The router's admin pages: its listeners, and what is behind them.

use std::sync::{Arc, OnceLock};

use proxy::mesh;
use runtime::admin::{Admin, Reply};
use serde_json::{Value, json};

use crate::config::{Hosts, Published, RouterConfig, Servers, Terminate};

/// What the pages show.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// The configuration, once discovery has started.
    pub(crate) config: Arc<OnceLock<Arc<Published>>>,
    /// The view of the mesh.
    pub(crate) mesh: Arc<OnceLock<Arc<mesh::Published>>>,
}

impl Shown {
    fn listeners(&self) -> Value {
        self.config.get().map_or(Value::Null, |config| listeners(&config.newest()))
    }

    fn services(&self) -> Value {
        let newest = self.mesh.get().map(|mesh| mesh.newest());
        let services = newest.iter().flat_map(|mesh| mesh.services.values()).map(|service| {
            let endpoints = service.endpoints.as_ref().map_or(0, |endpoints| endpoints.len());
            (service.hostname.to_string(), json!({ "endpoints": endpoints }))
        });
        Value::Object(services.collect())
    }
}

/// Adds the pages.
pub(crate) fn add(admin: Admin, shown: &Shown) -> Admin {
    let (page, dump, services) = (shown.clone(), shown.clone(), shown.clone());
    admin
        .page("/listeners", "the listeners with their servers, hosts and routes", move |_| {
            Reply::json(&page.listeners())
        })
        .section("listeners", move || dump.listeners())
        .section("services", move || services.services())
}

fn listeners(config: &RouterConfig) -> Value {
    let mut all: Vec<_> = config.listeners.iter().collect();
    all.sort_by_key(|(address, _)| **address);
    let listener = |(address, of): (&std::net::SocketAddr, &Arc<crate::config::Listener>)| {
        let servers = match &of.servers {
            Servers::Requests(of) => json!([{"protocol": "HTTP", "hosts": hosts(of)}]),
            Servers::Bytes(tables) => {
                json!([{"protocol": "TCP", "routes": tables.iter().map(|table| &*table.source).collect::<Vec<_>>()}])
            }
            Servers::Tls(names) => {
                let mut servers: Vec<Value> = names
                    .iter()
                    .filter_map(|(name, server)| Some((name, server.as_ref()?)))
                    .map(|(name, server)| {
                        json!({
                            "gateway": &*server.gateway,
                            "name": &*server.name,
                            "server_name": name,
                            "protocol": if server.requests { "HTTPS" } else { "TLS" },
                            "tls": terminate(&server.terminate),
                            "hosts": hosts(&server.hosts),
                        })
                    })
                    .collect();
                servers.sort_by_key(|server| server["server_name"].to_string());
                Value::Array(servers)
            }
        };
        json!({"address": address.to_string(), "port": of.server_port, "servers": servers})
    };
    all.into_iter().map(listener).collect()
}

fn hosts(of: &Hosts) -> Value {
    let hosts = of.iter().map(|(name, host)| {
        let routes: Vec<&str> = host.tables.iter().map(|table| &*table.source).collect();
        (name, json!({"routes": routes, "https_redirect": host.https_redirect}))
    });
    Value::Object(hosts.collect())
}

fn terminate(of: &Terminate) -> String {
    match of {
        Terminate::Passthrough => "passed through".to_owned(),
        Terminate::Mesh => "mutual TLS of the mesh".to_owned(),
        Terminate::Own(_) => "terminated".to_owned(),
        Terminate::Refuse(why) => format!("connections are refused: {why}"),
    }
}
