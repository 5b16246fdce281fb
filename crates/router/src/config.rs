//! What a router does: its listeners, with the servers, hosts and routes behind each, as one immutable value.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy::exchange::gateway::{Edge, VirtualHost};
use route::Table;
use rustls::ServerConfig;
use tokio::sync::Notify;

use crate::names::Names;

/// The configuration of a router at one moment.
#[derive(Debug, Default)]
pub(crate) struct RouterConfig {
    /// The controller has said what the listeners are, or that there are none.
    pub(crate) received: bool,
    /// The listeners, by the address that they bind.
    pub(crate) listeners: HashMap<SocketAddr, Arc<Listener>>,
    /// What requests may say of their origin.
    pub(crate) edge: Edge,
    /// Connections begin with a PROXY protocol header.
    pub(crate) proxy_protocol: bool,
}

/// A port.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The port as routes see it.
    pub(crate) server_port: u16,
    /// What is behind it.
    pub(crate) servers: Servers,
}

/// The virtual hosts of one server, or of all servers of a port.
pub(crate) type Hosts = Names<Arc<VirtualHost>>;

/// The servers of a port.
#[derive(Debug)]
pub(crate) enum Servers {
    /// Requests without TLS. All servers of the port have their hosts in common.
    Requests(Hosts),
    /// TLS. The server name of the handshake decides which server it is.
    Tls(Names<Option<Arc<TlsServer>>>),
    /// Opaque bytes.
    Bytes(Box<[Arc<Table>]>),
}

/// A server with TLS.
#[derive(Debug)]
pub(crate) struct TlsServer {
    /// The Gateway, for logs.
    pub(crate) gateway: Arc<str>,
    /// The server's own name.
    pub(crate) name: Arc<str>,
    /// What becomes of TLS.
    pub(crate) terminate: Terminate,
    /// It carries requests, else opaque bytes.
    pub(crate) requests: bool,
    /// Its hosts.
    pub(crate) hosts: Hosts,
    /// The routes of all hosts.
    pub(crate) tables: Box<[Arc<Table>]>,
}

/// What becomes of TLS.
#[derive(Clone)]
pub(crate) enum Terminate {
    /// It is passed on.
    Passthrough,
    /// Mutual TLS of the mesh.
    Mesh,
    /// A certificate of the server's own.
    Own(Arc<ServerConfig>),
    /// Connections are refused, for this reason.
    Refuse(Arc<str>),
}

impl std::fmt::Debug for Terminate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Terminate::Passthrough => f.write_str("Passthrough"),
            Terminate::Mesh => f.write_str("Mesh"),
            Terminate::Own(_) => f.write_str("Own"),
            Terminate::Refuse(why) => write!(f, "Refuse({why})"),
        }
    }
}

/// The newest configuration.
#[derive(Debug, Default)]
pub(crate) struct Published {
    config: ArcSwap<RouterConfig>,
    changed: Notify,
}

impl Published {
    /// Returns the newest configuration.
    pub(crate) fn newest(&self) -> Arc<RouterConfig> {
        self.config.load_full()
    }

    /// Returns a future that resolves with the next configuration after this call.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> {
        let mut notified = Box::pin(self.changed.notified());
        notified.as_mut().enable();
        notified
    }

    /// Replaces the configuration.
    pub(crate) fn replace(&self, config: RouterConfig) {
        self.config.store(Arc::new(config));
        self.changed.notify_waiters();
    }
}
