//! TCP sockets for proxies: the original destination of captured connections, listeners that workers share, outgoing
//! connections with the proxy's mark, and accept loops that survive a lack of file descriptors.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

mod accept;
mod closing;
mod others;
#[cfg(test)]
mod tests;

pub use accept::{Acceptor, accept_backoff};
pub use closing::refuse_new;
pub use others::are_used_by_others;

/// The socket mark that exempts a proxy's own connections from capture. It is needed in addition to [`PROXY_UID`]
/// because a user namespace without subordinate ids has a single user.
pub const PROXY_MARK: u32 = 1337;

/// The user id of proxies (Istio's `istio-proxy`), where more than one user exists.
pub const PROXY_UID: u32 = 1337;

/// The source address of a sidecar's connections to its application (the bind address of Istio's
/// `InboundPassthroughCluster`).
pub const INBOUND_SOURCE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 6));

/// [`INBOUND_SOURCE_V4`] for IPv6.
pub const INBOUND_SOURCE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// Options of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Whether other sockets of this user may listen on the same address (`SO_REUSEPORT`). The kernel distributes
    /// connections over them.
    pub reuse_port: bool,
    /// The maximum number of connections that wait to be accepted.
    pub backlog: i32,
}

impl Default for Listen {
    fn default() -> Self {
        Self { reuse_port: false, backlog: 4096 }
    }
}

/// Options of an outgoing connection.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// The socket mark. If the kernel refuses it, that is an error unless this process runs as [`PROXY_UID`], which
    /// capture exempts too.
    pub mark: Option<u32>,
    /// The timeout of the TCP handshake.
    pub timeout: Duration,
    /// The source address. The kernel chooses the port at connect time (`IP_BIND_ADDRESS_NO_PORT`), so that one address
    /// can have more connections than ports if their destinations differ.
    pub source: Option<IpAddr>,
    /// The time after which a connection with unacknowledged data is closed (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

impl Default for Connect {
    fn default() -> Self {
        Self { mark: None, timeout: Duration::from_secs(10), source: None, user_timeout: None }
    }
}

/// Returns the original destination of a captured connection. For a connection that was not redirected it is the local
/// address.
///
/// # Errors
/// Returns an error if the socket is not a TCP socket, or connection tracking fails.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an IP socket"))?;
    let local = unmapped(local);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match original {
        Ok(address) => address
            .as_socket()
            .map(unmapped)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the original destination is not an IP address")),
        // Connection tracking has no entry, or the kernel has no connection tracking: the connection was not redirected.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => {
            Ok(local)
        }
        Err(error) => Err(error),
    }
}

/// Opens a non-blocking listener. The address `[::]` accepts IPv4 connections too. Accepted sockets inherit the
/// listener's options: Nagle's algorithm is off, and keep-alive is on if it is set on the listener.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn listen(address: SocketAddr, options: &Listen) -> io::Result<std::net::TcpListener> {
    let listener = bind(address, options.reuse_port)?;
    open(&listener, options.backlog)?;
    Ok(listener)
}

/// Binds a listener like [`listen`]. It refuses connections until [`open`] is called.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Opens a listener that [`bind`] has bound. Up to `backlog` connections wait to be accepted.
///
/// # Errors
/// Returns an error if another process listens on the address.
pub fn open(listener: &std::net::TcpListener, backlog: i32) -> io::Result<()> {
    SockRef::from(listener).listen(backlog)
}

/// Opens `count` listeners on one address, one for each worker.
///
/// # Errors
/// Returns an error if the address cannot be bound or another process listens on it, which port reuse alone would not
/// detect.
pub fn listen_shared(address: SocketAddr, count: usize, backlog: i32) -> io::Result<Vec<std::net::TcpListener>> {
    let listeners = bind_shared(address, count)?;
    listeners.iter().try_for_each(|listener| open(listener, backlog))?;
    Ok(listeners)
}

/// Binds `count` listeners like [`listen_shared`]. They refuse connections until [`open`] is called.
///
/// # Errors
/// Returns an error if the address cannot be bound or another process listens on it.
pub fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = bind(address, false)?;
    if count <= 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..count).map(|_| bind(address, true)).collect()
}

/// Connects, with Nagle's algorithm off.
///
/// # Errors
/// Returns an error if the connection fails or times out, or an option is refused.
pub async fn connect(address: SocketAddr, options: &Connect) -> io::Result<TcpStream> {
    // Non-blocking from the start: setting it later takes two system calls.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = options.mark {
        set_mark(&socket, mark)?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    if let Some(source) = options.source {
        bind_without_port(&socket, source)?;
    }
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    match tokio::time::timeout(options.timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("connecting to {address} timed out after {:?}", options.timeout),
        )),
    }
}

/// The connect timeout of [`connect_to_application`]: it is on the same machine.
const APPLICATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects a sidecar to its application, from [`INBOUND_SOURCE_V4`] or [`INBOUND_SOURCE_V6`], so that capture leaves the
/// connection alone.
///
/// # Errors
/// Returns an error in the cases of [`connect`].
pub async fn connect_to_application(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let source = if address.is_ipv4() { INBOUND_SOURCE_V4 } else { INBOUND_SOURCE_V6 };
    let options = Connect { mark, timeout: APPLICATION_TIMEOUT, source: Some(source), ..Connect::default() };
    match connect(address, &options).await {
        // Few pods have the second loopback address of IPv6.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            connect(address, &Connect { source: None, ..options }).await
        }
        connected => connected,
    }
}

/// Connects to a Unix socket of the application. The first byte of the path of an abstract socket is `@`.
///
/// The stream has the type of TCP streams, which the data path is made of: reading and writing are the same. Its
/// addresses and the options of TCP are errors.
///
/// # Errors
/// Returns an error if there is no such socket, nothing listens at it, or its queue is full.
pub fn connect_to_unix_socket(path: &str) -> io::Result<TcpStream> {
    let address = match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}"))?,
        None => SockAddr::unix(path)?,
    };
    // Such a connection is made at once, or not at all.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&address)?;
    TcpStream::from_std(socket.into())
}

/// Sets the mark of a socket.
///
/// # Errors
/// Returns an error if the kernel refuses; see [`Connect::mark`].
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    match SockRef::from(socket).set_mark(mark) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && rustix::process::geteuid().as_raw() == PROXY_UID => {
            Ok(())
        }
        other => other,
    }
}

/// Enables keep-alive probes, which detect a dead peer on an idle connection: after `idle`, every `interval`, `retries`
/// times. On a listener it applies to accepted connections.
///
/// # Errors
/// Returns an error if the descriptor is not a TCP socket.
pub fn keep_alive(socket: &impl AsFd, idle: Duration, interval: Duration, retries: u32) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

/// Raises this process's soft limit of open files to the hard limit, and returns it. A proxied connection takes two
/// descriptors, and up to four more while it is spliced.
///
/// # Errors
/// Returns an error if the kernel refuses the limit.
pub fn raise_open_files_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Converts an IPv4-mapped IPv6 address, which a dual-stack socket reports, to IPv4.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind_without_port(socket: &Socket, source: IpAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Sets an integer option that the libraries do not provide.
fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open during the call, and the value is a valid `c_int` of the given size.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
