//! DNS lookups with the system's configuration (`/etc/resolv.conf`, `/etc/hosts`), over sockets with the proxy's mark:
//! capture would redirect unmarked queries to the proxy's own DNS server.
//!
//! A resolver lives for one lookup. A proxy looks up its controller, and hosts of ServiceEntries when their last answers expire, so
//! a cache would not help, and a change of `resolv.conf` takes effect at once.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use net::socket::set_mark;
use tokio::net::{TcpStream, UdpSocket};

/// The maximum wait for the answer of one server, instead of the system's five seconds: a proxy cannot start before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the addresses of `host`, which may be an address. IPv4 addresses come first.
///
/// # Errors
/// Returns an error of kind [`io::ErrorKind::NotFound`] if the name has no address, and of another kind if the lookup
/// fails.
pub async fn lookup(host: &str, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    let (config, options) = system();
    lookup_with(config, options, host, mark).await.map(|(addresses, _)| addresses)
}

/// Returns the addresses of a host, as a full name, and how long they hold.
///
/// # Errors
/// As [`lookup`].
pub async fn answer(host: &str, mark: Option<u32>) -> io::Result<(Vec<IpAddr>, Duration)> {
    let (config, options) = system();
    lookup_with(config, options, &format!("{}.", host.trim_end_matches('.')), mark).await
}

fn system() -> (ResolverConfig, ResolverOpts) {
    // Without a name server in resolv.conf, the default is the local machine (resolv.conf(5)).
    read_system_conf().unwrap_or_else(|_| {
        let servers = vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())];
        (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
    })
}

async fn lookup_with(
    config: ResolverConfig,
    mut options: ResolverOpts,
    host: &str,
    mark: Option<u32>,
) -> io::Result<(Vec<IpAddr>, Duration)> {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(ANSWER_TIMEOUT);
    options.cache_size = 0;
    let name = Name::from_ascii(host)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {error}")))?;
    let mut builder = Resolver::builder_with_config(config, MarkedSockets { mark, tasks: TokioHandle::default() });
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|error| failed(host, &error))?;
    let found = resolver.lookup_ip(name).await.map_err(|error| failed(host, &error))?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    let holds = found.valid_until().saturating_duration_since(std::time::Instant::now());
    Ok((addresses, holds))
}

fn failed(host: &str, error: &NetError) -> io::Error {
    let kind = match error {
        error if error.is_no_records_found() => io::ErrorKind::NotFound,
        NetError::Timeout => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("cannot resolve {host}: {error}"))
}

/// Provides the resolver with sockets that carry a mark.
#[derive(Clone)]
struct MarkedSockets {
    mark: Option<u32>,
    tasks: TokioHandle,
}

impl RuntimeProvider for MarkedSockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tasks.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = io::Result<Self::Tcp>> + Send>> {
        let options = net::Connect {
            mark: self.mark,
            timeout: within.unwrap_or(ANSWER_TIMEOUT),
            source: local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified()),
            ..net::Connect::default()
        };
        Box::pin(async move { net::connect(server, &options).await.map(AsyncIoTokioAsStd) })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<UdpSocket>> + Send>> {
        let mark = self.mark;
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            if let Some(mark) = mark {
                set_mark(&socket, mark)?;
            }
            Ok(socket)
        })
    }
}

#[cfg(test)]
mod tests;
