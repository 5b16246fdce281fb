//! What people, probes and Prometheus ask a component: the admin endpoint on loopback, health, and metrics.
//!
//! A component adds what it knows: a [`section`](Admin::section) of `/config_dump`, or a [`page`](Admin::page) of its
//! own. All of it runs on the control thread; workers are not disturbed. Ports and paths are those that Istio's tools and
//! annotations expect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hyper::Method;
use identity::Identity;
use serde::Serialize;
use telemetry::metrics::Registry;

use crate::drain::Signal;
use crate::readiness::Readiness;

mod application;
mod pages;
mod process;
mod serve;
#[cfg(test)]
mod tests;

pub use application::Application;

/// Where to listen; `None` for not at all.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Everything, for people on this pod. Loopback.
    pub admin: Option<SocketAddr>,
    /// `/healthz/ready`, for the kubelet.
    pub health: Option<SocketAddr>,
    /// `/stats/prometheus`.
    pub metrics: Option<SocketAddr>,
    /// `/stats/prometheus` with the application's own metrics behind ours.
    pub merged_metrics: Option<SocketAddr>,
}

impl Default for Addresses {
    /// The ports of a proxy in a pod.
    fn default() -> Self {
        let any = |port| Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
        Self {
            admin: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000)),
            health: any(15021),
            metrics: any(15090),
            merged_metrics: any(15020),
        }
    }
}

/// A question: the part of the URL behind `?`.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// How it was asked.
    pub method: Method,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it was asked by POST, as everything that changes something must be: a web page can make a browser GET.
    pub fn is_post(&self) -> bool {
        self.method == Method::POST
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl Reply {
    /// Text.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// JSON, indented for people.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(mut body) => {
                body.push('\n');
                Self { status: 200, content_type: "application/json", body }
            }
            Err(error) => Self::text(format!("cannot be shown: {error}\n")).with_status(500),
        }
    }

    /// The same with another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

type Show = Box<dyn Fn(&Query) -> Reply + Send + Sync>;
type Section = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

struct Page {
    path: &'static str,
    help: &'static str,
    show: Show,
}

/// What is told, and by whom.
pub struct Admin {
    component: &'static str,
    registry: Registry,
    readiness: Readiness,
    drain: Signal,
    identity: OnceLock<Identity>,
    pages: Vec<Page>,
    sections: Vec<(&'static str, Section)>,
    application: Option<Application>,
    started: Instant,
}

impl Admin {
    /// The pages that every component has.
    pub fn new(component: &'static str, registry: Registry, readiness: Readiness, drain: Signal) -> Self {
        process::observe(&registry);
        Self {
            component,
            registry,
            readiness,
            drain,
            identity: OnceLock::new(),
            pages: Vec::new(),
            sections: Vec::new(),
            application: None,
            started: Instant::now(),
        }
    }

    /// Adds a page to the admin endpoint.
    #[must_use]
    pub fn page(
        mut self,
        path: &'static str,
        help: &'static str,
        show: impl Fn(&Query) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.pages.push(Page { path, help, show: Box::new(show) });
        self
    }

    /// Adds a part to `/config_dump`.
    #[must_use]
    pub fn section(mut self, name: &'static str, show: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.sections.push((name, Box::new(show)));
        self
    }

    /// Adds the metrics of the application in the same pod to the merged ones.
    #[must_use]
    pub fn application(mut self, application: Option<Application>) -> Self {
        self.application = application;
        self
    }

    /// Shows who this process is at `/certs`, from now on.
    pub fn identify(&self, identity: Identity) {
        let _ = self.identity.set(identity);
    }

    /// Binds all addresses, then serves on the current runtime for as long as that lives. Returns the addresses bound,
    /// in the order admin, health, metrics, merged metrics.
    ///
    /// # Errors
    /// Where one cannot be bound; then none is served.
    pub fn serve(self: Arc<Self>, addresses: Addresses) -> io::Result<[Option<SocketAddr>; 4]> {
        serve::serve(self, addresses)
    }
}
