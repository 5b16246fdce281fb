//! TCP sockets as a proxy needs them: where a captured connection was going, listeners that several workers share,
//! outgoing connections that carry the proxy's mark, and accepting that outlives a shortage of descriptors.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

mod accept;
mod closing;
#[cfg(test)]
mod tests;

pub use accept::{Acceptor, accept_back_off};
pub use closing::refuse_new;

/// The socket mark of a proxy's own connections: capture lets them through. Needed beside [`PROXY_UID`] because a user
/// namespace without subordinate ids has one uid only.
pub const PROXY_MARK: u32 = 1337;

/// The user that a proxy runs as where more than one user exists (Istio's `istio-proxy`).
pub const PROXY_UID: u32 = 1337;

/// The source address by which an application sees connections that came through its own sidecar (Istio's
/// `InboundPassthroughCluster` bind address).
pub const INBOUND_SOURCE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 6));

/// The same for IPv6.
pub const INBOUND_SOURCE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Let other sockets of this user listen on the same address (`SO_REUSEPORT`); the kernel spreads connections.
    pub reuse_port: bool,
    /// Connections that may wait to be accepted.
    pub backlog: i32,
}

impl Default for Listen {
    fn default() -> Self {
        Self { reuse_port: false, backlog: 4096 }
    }
}

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Socket mark. Refusal by the kernel is an error unless this process runs as [`PROXY_UID`], by which capture
    /// knows it just as well.
    pub mark: Option<u32>,
    /// Time for the TCP handshake.
    pub timeout: Duration,
    /// Address to connect from; the port is chosen at connect time (`IP_BIND_ADDRESS_NO_PORT`), so one address may
    /// have more connections than there are ports, as long as their destinations differ.
    pub source: Option<IpAddr>,
    /// Give up a connection whose sent data stays unacknowledged this long (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

impl Default for Connect {
    fn default() -> Self {
        Self { mark: None, timeout: Duration::from_secs(10), source: None, user_timeout: None }
    }
}

/// Where a captured connection was going before the firewall redirected it; for one that was not redirected, the
/// address that it arrived at.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))?;
    let local = unmapped(local);
    let answer = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match answer {
        Ok(address) => address
            .as_socket()
            .map(unmapped)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the original destination is no address")),
        // No entry in connection tracking, or no connection tracking at all: nothing was rewritten.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => {
            Ok(local)
        }
        Err(error) => Err(error),
    }
}

/// A non-blocking listener. The address `[::]` takes IPv4 connections too. Accepted sockets inherit its options, so that
/// Nagle's algorithm is off for them, and keep-alive on if it is set here, without a call for each.
pub fn listen(address: SocketAddr, options: &Listen) -> io::Result<std::net::TcpListener> {
    let listener = bind(address, options.reuse_port)?;
    open(&listener, options.backlog)?;
    Ok(listener)
}

/// A listener as [`listen`] makes it, except that it refuses whoever connects until it is [`open`]ed.
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

/// From now on, connections are taken; `backlog` may wait to be accepted.
pub fn open(listener: &std::net::TcpListener, backlog: i32) -> io::Result<()> {
    SockRef::from(listener).listen(backlog)
}

/// `count` listeners on one address for as many workers. Refuses an address at which another process listens, which
/// port reuse alone would not notice.
pub fn listen_shared(address: SocketAddr, count: usize, backlog: i32) -> io::Result<Vec<std::net::TcpListener>> {
    let listeners = bind_shared(address, count)?;
    listeners.iter().try_for_each(|listener| open(listener, backlog))?;
    Ok(listeners)
}

/// The same, each still to be [`open`]ed. Another process is noticed once its listeners are open.
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
pub async fn connect(address: SocketAddr, options: &Connect) -> io::Result<TcpStream> {
    // Non-blocking from the start: setting it afterwards takes two calls.
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
            format!("no answer from {address} within {:?}", options.timeout),
        )),
    }
}

/// Marks a socket; see [`Connect::mark`] for when refusal is an error.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    match SockRef::from(socket).set_mark(mark) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && rustix::process::geteuid().as_raw() == PROXY_UID => {
            Ok(())
        }
        other => other,
    }
}

/// Notices a dead peer on an otherwise silent connection: probes after `idle`, every `interval`, `retries` times. On a
/// listener it holds for what is accepted.
pub fn keep_alive(socket: &impl AsFd, idle: Duration, interval: Duration, retries: u32) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

/// Raises this process's limit of open files to what it is allowed, and returns it. A proxied connection takes two,
/// and up to four more while it is spliced.
pub fn raise_open_files_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// An IPv4 address that a dual-stack socket shows as IPv6, as what it is.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind_without_port(socket: &Socket, source: IpAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Sets an option that is a number and that no library offers.
fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call's duration, and the option value is a live `c_int` of the given size.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
