//! The admin server: admin pages on loopback, health checks and metrics.
//!
//! Each component adds [sections](Admin::section) of `/config_dump` and [pages](Admin::page) of its own. All requests
//! run on the control thread and do not affect workers. Ports and paths are those that Istio's tools and annotations
//! expect.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
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
mod probes;
mod process;
mod serve;
#[cfg(test)]
mod tests;

pub use application::Application;
pub use probes::Probes;

/// The listen addresses of the admin server. `None` disables a listener.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// All admin pages; a loopback address.
    pub admin: Option<SocketAddr>,
    /// Health checks: `/healthz/ready`, for the kubelet.
    pub health: Option<SocketAddr>,
    /// Metrics of the process: `/stats/prometheus`.
    pub metrics: Option<SocketAddr>,
    /// Metrics of the process and of the application: `/stats/prometheus`; and the probes of the application.
    pub merged_metrics: Option<SocketAddr>,
}

impl Default for Addresses {
    /// Returns the addresses of a proxy in a pod.
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

/// The method and the query parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The method.
    pub method: Method,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Returns the first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns all values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns whether the method is POST, which requests that change state require: a web page can make a browser send
    /// GET.
    pub fn is_post(&self) -> bool {
        self.method == Method::POST
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Reply {
    /// Creates a text response with status 200.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// Creates an indented JSON response with status 200.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(mut body) => {
                body.push('\n');
                Self { status: 200, content_type: "application/json", body }
            }
            Err(error) => Self::text(format!("cannot encode the response as JSON: {error}\n")).with_status(500),
        }
    }

    /// Sets the status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

type PageFn = Box<dyn Fn(&Query) -> Reply + Send + Sync>;
type LaterFn = Box<dyn Fn(&Query) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;
type SectionFn = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

struct AdminPage {
    path: &'static str,
    help: &'static str,
    show: Show,
}

/// How a page is made.
enum Show {
    AtOnce(PageFn),
    Later(LaterFn),
}

/// The admin server of a component.
pub struct Admin {
    component: &'static str,
    registry: Registry,
    readiness: Readiness,
    drain: Signal,
    identity: OnceLock<Identity>,
    pages: Vec<AdminPage>,
    sections: Vec<(&'static str, SectionFn)>,
    application: Option<Application>,
    probes: Option<Probes>,
    started: Instant,
}

impl Admin {
    /// Creates an admin server with the pages that all components share.
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
            probes: None,
            started: Instant::now(),
        }
    }

    /// Adds an admin page.
    #[must_use]
    pub fn page(
        mut self,
        path: &'static str,
        help: &'static str,
        show: impl Fn(&Query) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.pages.push(AdminPage { path, help, show: Show::AtOnce(Box::new(show)) });
        self
    }

    /// Adds an admin page that others than the control thread are asked for. The page bounds the time that it takes.
    #[must_use]
    pub fn later<F: Future<Output = Reply> + Send + 'static>(
        mut self,
        path: &'static str,
        help: &'static str,
        show: impl Fn(&Query) -> F + Send + Sync + 'static,
    ) -> Self {
        let show: LaterFn = Box::new(move |query| Box::pin(show(query)));
        self.pages.push(AdminPage { path, help, show: Show::Later(show) });
        self
    }

    /// Adds a section to `/config_dump`.
    #[must_use]
    pub fn section(mut self, name: &'static str, show: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.sections.push((name, Box::new(show)));
        self
    }

    /// Adds the metrics of the application in the same pod to the merged metrics.
    #[must_use]
    pub fn application(mut self, application: Option<Application>) -> Self {
        self.application = application;
        self
    }

    /// Adds the probes of the application in the same pod, at the port of the merged metrics.
    #[must_use]
    pub fn probes(mut self, probes: Option<Probes>) -> Self {
        self.probes = probes;
        self
    }

    /// Sets the identity that `/certs` shows.
    pub fn identify(&self, identity: Identity) {
        let _ = self.identity.set(identity);
    }

    /// Binds all addresses and serves on the current runtime while it lives. Returns the bound addresses in the order
    /// admin, health, metrics, merged metrics.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound; the server does not start then.
    pub fn serve(self: Arc<Self>, addresses: Addresses) -> io::Result<[Option<SocketAddr>; 4]> {
        serve::serve(self, addresses)
    }
}
