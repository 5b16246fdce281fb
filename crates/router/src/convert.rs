//! Conversion of listeners, with the routes and certificates that have arrived, into the router's configuration.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use identity::alpn::Alpn;
use identity::edge::{ClientCertificates, ServerCertificate, ServerSettings, Tickets, server_config};
use proxy::exchange::gateway::{Edge, ForwardClientCert, VirtualHost};
use route::Table;
use rustls::ServerConfig;
use wire::discovery as message;
use wire::discovery::{ServerProtocol, ServerTlsMode, TlsVersion};

use crate::config::{Hosts, Listener, RouterConfig, Servers, Terminate, TlsServer};
use crate::files::{self, Files};
use crate::names::{Names, common};

/// The protocols of servers that carry requests.
const HTTP: Alpn = &[b"h2", b"http/1.1"];
/// Servers of opaque bytes negotiate no protocol.
const BYTES: Alpn = &[];

/// The routes of each collection, by host.
pub(crate) type Tables = HashMap<Box<str>, BTreeMap<Box<str>, Arc<Table>>>;
/// Certificates by the names of their resources.
pub(crate) type Credentials = HashMap<Box<str>, Arc<ServerCertificate>>;

/// Builds configurations. What it built before is used again, so that sessions are resumed after unrelated changes.
pub(crate) struct Builder {
    tickets: Option<Tickets>,
    files: Files,
    built: HashMap<Settings, Built>,
}

/// The settings of a server, and whether it carries requests.
type Settings = (ServerSettings, bool, Vec<Box<str>>);

struct Built {
    /// What it was built from.
    certificates: Vec<Arc<ServerCertificate>>,
    authorities: Option<Arc<ServerCertificate>>,
    outcome: Result<Arc<ServerConfig>, Arc<str>>,
    used: bool,
}

impl Builder {
    /// Creates a builder.
    pub(crate) fn new() -> Self {
        Self { tickets: Tickets::new().ok(), files: Files::default(), built: HashMap::new() }
    }

    /// Returns the configuration of listeners that [`check`] accepts.
    ///
    /// # Errors
    /// Returns the reason if a listener is invalid.
    pub(crate) fn build(
        &mut self,
        message: &message::Listeners,
        tables: &Tables,
        credentials: &Credentials,
    ) -> Result<RouterConfig, String> {
        self.files.retain(message.listeners.iter().flat_map(|of| &of.servers).filter_map(|server| server.tls.as_ref()));
        self.built.values_mut().for_each(|built| built.used = false);
        let mut listeners = HashMap::with_capacity(message.listeners.len());
        for of in &message.listeners {
            let server_port = port(of.server_port)?;
            let servers = self.servers(&of.servers, tables, credentials);
            listeners.insert(address(of)?, Arc::new(Listener { server_port, servers }));
        }
        self.built.retain(|_, built| built.used);
        let edge = Edge {
            trusted_proxies: message.trusted_proxies,
            forward_client_cert: forward_client_cert(message.forward_client_cert()),
        };
        Ok(RouterConfig { received: true, listeners, edge, proxy_protocol: message.proxy_protocol })
    }

    fn servers(&mut self, servers: &[message::GatewayServer], tables: &Tables, credentials: &Credentials) -> Servers {
        if let Some(first) = servers.first().filter(|first| first.tls.is_none()) {
            return match first.protocol() {
                ServerProtocol::Http => Servers::Requests(hosts(servers, tables)),
                ServerProtocol::Tcp => Servers::Bytes(all(first, tables)),
            };
        }
        let mut names: Names<Option<Arc<TlsServer>>> = Names::default();
        for server in servers {
            let Some(tls) = &server.tls else { continue };
            let requests = server.protocol() == ServerProtocol::Http;
            let of = Arc::new(TlsServer {
                gateway: server.gateway.as_str().into(),
                name: server.name.as_str().into(),
                terminate: self.terminate(tls, requests, credentials),
                requests,
                hosts: hosts(std::slice::from_ref(server), tables),
                tables: all(server, tables),
            });
            for host in &server.hosts {
                names.entry(host).get_or_insert_with(|| of.clone());
            }
        }
        Servers::Tls(names)
    }

    fn terminate(&mut self, tls: &message::ServerTls, requests: bool, credentials: &Credentials) -> Terminate {
        let clients = match tls.mode() {
            ServerTlsMode::Passthrough => return Terminate::Passthrough,
            ServerTlsMode::IstioMutual => return Terminate::Mesh,
            ServerTlsMode::Simple => ClientCertificates::None,
            ServerTlsMode::Mutual => ClientCertificates::Required,
            ServerTlsMode::OptionalMutual => ClientCertificates::Optional,
        };
        let certificates = if files::are_used_by(tls) {
            match self.files.certificate(tls) {
                Ok(certificate) => vec![certificate],
                Err(why) => return Terminate::Refuse(why),
            }
        } else {
            tls.credentials.iter().filter_map(|name| credentials.get(&**name).cloned()).collect()
        };
        if certificates.is_empty() {
            let names = tls.credentials.join(", ");
            return Terminate::Refuse(format!("the certificate {names} has not arrived").into());
        }
        let authorities = credentials.get(&*tls.ca_credential).cloned();
        if !tls.ca_credential.is_empty() && authorities.is_none() && clients != ClientCertificates::None {
            return Terminate::Refuse(format!("the authorities {} have not arrived", tls.ca_credential).into());
        }
        let settings = settings(tls, clients);
        match self.own(settings, requests, tls, certificates, authorities) {
            Ok(config) => Terminate::Own(config),
            Err(why) => Terminate::Refuse(why),
        }
    }

    fn own(
        &mut self,
        settings: ServerSettings,
        requests: bool,
        tls: &message::ServerTls,
        certificates: Vec<Arc<ServerCertificate>>,
        authorities: Option<Arc<ServerCertificate>>,
    ) -> Result<Arc<ServerConfig>, Arc<str>> {
        let from = tls.credentials.iter().chain([&tls.server_certificate, &tls.ca_credential]);
        let key = (settings, requests, from.map(|name| name.as_str().into()).collect::<Vec<Box<str>>>());
        if let Some(built) = self.built.get_mut(&key) {
            let same = |one: &[Arc<ServerCertificate>], other: &[Arc<ServerCertificate>]| {
                one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            if same(&built.certificates, &certificates) && same(built.authorities.as_slice(), authorities.as_slice()) {
                built.used = true;
                return built.outcome.clone();
            }
        }
        let tickets = self.tickets.as_ref().ok_or("the system has no source of randomness")?;
        let alpn = if requests { HTTP } else { BYTES };
        let outcome = server_config(&certificates, authorities.as_deref(), &key.0, tickets, alpn);
        let outcome = outcome.map(Arc::new).map_err(Arc::from);
        self.built.insert(key, Built { certificates, authorities, outcome: outcome.clone(), used: true });
        outcome
    }
}

/// Checks listeners.
///
/// # Errors
/// Returns what is invalid.
pub(crate) fn check(message: &message::Listeners) -> Result<(), String> {
    for of in &message.listeners {
        address(of)?;
        port(of.server_port)?;
        let first = of.servers.first().ok_or_else(|| format!("the listener of port {} has no servers", of.port))?;
        if of.servers.iter().any(|server| server.tls.is_some() != first.tls.is_some()) {
            return Err(format!("the listener of port {} has servers with and without TLS", of.port));
        }
    }
    Ok(())
}

fn settings(tls: &message::ServerTls, clients: ClientCertificates) -> ServerSettings {
    let list = |of: &[String]| of.iter().map(|one| one.as_str().into()).collect();
    ServerSettings {
        clients,
        names: list(&tls.subject_alt_names),
        hashes: list(&tls.certificate_hashes),
        keys: list(&tls.certificate_spki),
        from_1_3: tls.min_version() == TlsVersion::TlsVersion13,
        up_to_1_2: tls.max_version() == TlsVersion::TlsVersion12,
        cipher_suites: list(&tls.cipher_suites),
    }
}

/// Returns the virtual hosts of servers. A host of a VirtualService has effect as far as a server has it.
fn hosts(servers: &[message::GatewayServer], tables: &Tables) -> Hosts {
    #[derive(Default)]
    struct Made {
        tables: Vec<Arc<Table>>,
        https_redirect: bool,
    }
    let mut made: Names<Made> = Names::default();
    for server in servers {
        for (host, table) in tables.get(&*server.routes).into_iter().flatten() {
            for domain in domains(host, &server.hosts) {
                let of = made.entry(domain);
                of.https_redirect |= server.https_redirect;
                if !of.tables.iter().any(|known| Arc::ptr_eq(known, table)) {
                    of.tables.push(table.clone());
                }
            }
        }
        if server.https_redirect {
            server.hosts.iter().for_each(|host| made.entry(host).https_redirect = true);
        }
    }
    made.map(|of| Arc::new(VirtualHost { tables: of.tables.into(), https_redirect: of.https_redirect }))
}

/// Returns what a host has in common with each of a server's.
fn domains<'a>(host: &'a str, of_server: &'a [String]) -> Vec<&'a str> {
    // Most hosts are among the server's as they are, or below one wildcard.
    if of_server.iter().any(|of| common(of, host) == Some(host)) {
        return vec![host];
    }
    of_server.iter().filter_map(|of| common(of, host)).collect()
}

fn all(server: &message::GatewayServer, tables: &Tables) -> Box<[Arc<Table>]> {
    tables.get(&*server.routes).into_iter().flat_map(|of| of.values().cloned()).collect()
}

fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("{number} is no port"))
}

fn address(message: &message::Listener) -> Result<SocketAddr, String> {
    let ip = match &*message.bind {
        [] => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        bytes => match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(four), _) => four.into(),
            (_, Ok(sixteen)) => sixteen.into(),
            _ => return Err(format!("{} bytes are no address", bytes.len())),
        },
    };
    Ok(SocketAddr::new(ip, port(message.port)?))
}

fn forward_client_cert(message: message::ForwardClientCert) -> ForwardClientCert {
    match message {
        message::ForwardClientCert::Sanitize => ForwardClientCert::Sanitize,
        message::ForwardClientCert::ForwardOnly => ForwardClientCert::ForwardOnly,
        message::ForwardClientCert::AppendForward => ForwardClientCert::AppendForward,
        message::ForwardClientCert::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
        message::ForwardClientCert::Unspecified | message::ForwardClientCert::SanitizeSet => {
            ForwardClientCert::SanitizeSet
        }
    }
}
