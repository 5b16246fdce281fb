use super::*;

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

#[tokio::test]
async fn the_original_destination_of_a_direct_connection_is_its_address() {
    let listener = listen(local(), &Listen::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let client = connect(address, &Connect::default()).await.unwrap();
    let (server, peer) = acceptor.next().await.unwrap();
    assert_eq!(original_destination(&server).unwrap(), address);
    assert_eq!(peer, client.local_addr().unwrap());
    assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
}

#[tokio::test]
async fn a_dual_stack_listener_sees_ipv4_destinations_as_ipv4() {
    let listener = match listen((Ipv6Addr::UNSPECIFIED, 0).into(), &Listen::default()) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("not checked: this machine has no IPv6: {error}");
            return;
        }
    };
    let port = listener.local_addr().unwrap().port();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let _client = connect(address, &Connect::default()).await.unwrap();
    let (server, _) = acceptor.next().await.unwrap();
    assert_eq!(original_destination(&server).unwrap(), address);
}

#[tokio::test]
async fn connects_from_the_given_address() {
    let listener = listen(local(), &Listen::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let options = Connect { source: Some(INBOUND_SOURCE_V4), ..Connect::default() };
    let mut client = connect(address, &options).await.unwrap();
    let (mut server, peer) = acceptor.next().await.unwrap();
    assert_eq!(peer.ip(), INBOUND_SOURCE_V4);
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn accepted_connections_inherit_keep_alive() {
    let listener = listen(local(), &Listen::default()).unwrap();
    keep_alive(&listener, Duration::from_secs(77), Duration::from_secs(11), 3).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let _client = connect(address, &Connect::default()).await.unwrap();
    let (server, _) = acceptor.next().await.unwrap();
    let server = SockRef::from(&server);
    assert!(server.keepalive().unwrap());
    assert_eq!(server.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
}

#[tokio::test]
async fn a_refused_connection_fails_at_once() {
    let closed = bind(local(), false).unwrap();
    let error = connect(closed.local_addr().unwrap(), &Connect::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_silent_destination_times_out() {
    // A full backlog: the kernel drops further handshakes.
    let listener = listen(local(), &Listen { reuse_port: false, backlog: 0 }).unwrap();
    let address = listener.local_addr().unwrap();
    let options = Connect { timeout: Duration::from_millis(200), ..Connect::default() };
    let mut held = Vec::new();
    for _ in 0..8 {
        match connect(address, &options).await {
            Ok(stream) => held.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
                return;
            }
        }
    }
    panic!("a backlog of 0 took {} connections", held.len());
}

#[tokio::test]
async fn the_mark_is_set_or_an_error() {
    let listener = listen(local(), &Listen::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let options = Connect { mark: Some(PROXY_MARK), ..Connect::default() };
    match connect(address, &options).await {
        Ok(stream) => assert_eq!(SockRef::from(&stream).mark().unwrap(), PROXY_MARK),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn shared_listeners_have_one_address_and_detect_another_process() {
    let listeners = listen_shared(local(), 3, 16).unwrap();
    let address = listeners[0].local_addr().unwrap();
    assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
    let error = listen_shared(address, 3, 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn bound_listeners_refuse_connections_until_they_are_open() {
    let listeners = bind_shared(local(), 2).unwrap();
    let address = listeners[0].local_addr().unwrap();
    assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
    let refused = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    open(&listeners[1], 16).unwrap();
    std::net::TcpStream::connect(address).unwrap();
    assert_eq!(bind_shared(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_unix_socket_is_read_and_written_as_one_of_tcp() {
    use std::io::{Read as _, Write as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let directory = std::env::temp_dir().join(format!("isthmus-unix-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("app.sock").display().to_string();
    let name = format!("isthmus-test-{}", std::process::id());
    let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
    let listeners = [UnixListener::bind(&path).unwrap(), UnixListener::bind_addr(&abstract_address).unwrap()];
    for (listener, path) in listeners.into_iter().zip([path.clone(), format!("@{name}")]) {
        let mut stream = connect_to_unix_socket(&path).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut received = [0; 4];
        accepted.read_exact(&mut received).unwrap();
        accepted.write_all(b"pong").unwrap();
        drop(accepted);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&received, &*answer), (b"ping", &b"pong"[..]));
    }
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(connect_to_unix_socket(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn backoff_grows_with_lack_of_resources_and_skips_lost_connections() {
    let shortage = io::Error::from_raw_os_error(libc::EMFILE);
    assert_eq!(accept_backoff(&shortage, None), Some(Duration::from_millis(5)));
    assert_eq!(accept_backoff(&shortage, Some(Duration::from_millis(5))), Some(Duration::from_millis(10)));
    assert_eq!(accept_backoff(&shortage, Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
    let lost = io::Error::from_raw_os_error(libc::ECONNABORTED);
    assert_eq!(accept_backoff(&lost, None), Some(Duration::ZERO));
    assert_eq!(accept_backoff(&io::Error::from_raw_os_error(libc::EBADF), None), None);
}

#[test]
fn the_open_files_limit_is_raised() {
    assert!(raise_open_files_limit().unwrap() > 0);
}
