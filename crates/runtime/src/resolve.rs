//! Looking up names as the system does (`/etc/resolv.conf`, `/etc/hosts`), over sockets that carry the proxy's mark, so
//! that capture does not send a proxy's own lookups back to the proxy's own DNS server.
//!
//! A resolver lives for one lookup: a proxy looks up little, and only to connect to its controller, so a cache would hold
//! what is used once, and a changed `resolv.conf` is in force at once.

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

/// For one server's answer, at most: a proxy that cannot start has better things to do than the system's five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The addresses of `host`, which may be an address itself. IPv4 addresses come first.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where the name has no address, any other kind where that could not be found out.
pub async fn lookup(host: &str, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    // Without a resolv.conf, or one that names no server, it is this machine's (resolv.conf(5)).
    let (config, options) = read_system_conf().unwrap_or_else(|_| {
        let servers = vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())];
        (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
    });
    lookup_with(config, options, host, mark).await
}

async fn lookup_with(
    config: ResolverConfig,
    mut options: ResolverOpts,
    host: &str,
    mark: Option<u32>,
) -> io::Result<Vec<IpAddr>> {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(ANSWER_TIMEOUT);
    options.cache_size = 0;
    let name = Name::from_ascii(host)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {error}")))?;
    let mut builder = Resolver::builder_with_config(config, Marked { mark, tasks: TokioHandle::default() });
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|error| failed(host, &error))?;
    let found = resolver.lookup_ip(name).await.map_err(|error| failed(host, &error))?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

fn failed(host: &str, error: &NetError) -> io::Error {
    let kind = match error {
        error if error.is_no_records_found() => io::ErrorKind::NotFound,
        NetError::Timeout => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("looking up {host}: {error}"))
}

/// Opens the resolver's sockets, with a mark.
#[derive(Clone)]
struct Marked {
    mark: Option<u32>,
    tasks: TokioHandle,
}

impl RuntimeProvider for Marked {
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
