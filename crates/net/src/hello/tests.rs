//! The fixtures are ClientHellos of rustls 0.23; `cargo test -p isthmus-net -- --ignored write_fixtures` writes them.

use super::*;

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const EAST_WEST: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
const POST_QUANTUM: &[u8] = include_bytes!("testdata/tls13_post_quantum.bin");
const CLASSIC: &[u8] = include_bytes!("testdata/tls13_x25519.bin");
const TLS12: &[u8] = include_bytes!("testdata/tls12.bin");
const WITHOUT_NAME: &[u8] = include_bytes!("testdata/tls13_without_name.bin");

fn names(bytes: &[u8]) -> HelloNames {
    match parse(bytes).unwrap() {
        HelloProgress::Done(names) => names,
        HelloProgress::Needs(total) => panic!("{} bytes are not enough, {total} are needed", bytes.len()),
    }
}

fn istio() -> Vec<Vec<u8>> {
    vec![b"istio-peer-exchange".to_vec(), b"istio".to_vec()]
}

/// Splits a handshake message into records of at most `size` bytes.
fn in_records_of(hello: &[u8], size: usize) -> Vec<u8> {
    hello[5..]
        .chunks(size)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect()
}

/// Builds a ClientHello with the given extensions.
fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, value)| [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat())
        .collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

fn name_extension(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> =
        names.iter().flat_map(|name| [&[0][..], &(name.len() as u16).to_be_bytes(), name].concat()).collect();
    (0, [&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

#[test]
fn server_name_and_protocols_of_real_hellos_are_read() {
    assert!(POST_QUANTUM.len() > 1400, "{} bytes", POST_QUANTUM.len());
    for hello in [POST_QUANTUM, CLASSIC, TLS12] {
        assert_eq!(names(hello), HelloNames { server_name: Some(EAST_WEST.into()), alpn: istio() });
    }
    assert_eq!(names(WITHOUT_NAME), HelloNames { server_name: None, alpn: istio() });
}

#[test]
fn every_prefix_needs_more_bytes_up_to_the_length() {
    for hello in [POST_QUANTUM.to_vec(), in_records_of(CLASSIC, 1), in_records_of(CLASSIC, 7)] {
        for end in 0..hello.len() {
            match parse(&hello[..end]).unwrap() {
                HelloProgress::Needs(total) => {
                    assert!(total > end && total <= hello.len(), "{end} bytes asked for {total}")
                }
                HelloProgress::Done(_) => panic!("done after {end} of {} bytes", hello.len()),
            }
        }
        assert_eq!(names(&hello).server_name.as_deref(), Some(EAST_WEST));
    }
}

#[test]
fn records_can_split_the_message_anywhere() {
    for size in [1, 2, 3, 4, 5, 100, 511, 512, 1400] {
        let hello = in_records_of(POST_QUANTUM, size);
        assert_eq!(names(&hello).server_name.as_deref(), Some(EAST_WEST), "records of {size} bytes");
    }
}

#[test]
fn bytes_after_the_hello_are_ignored() {
    let mut bytes = CLASSIC.to_vec();
    bytes.extend(b"\x17\x03\x03\x00\x05early and more");
    assert_eq!(names(&bytes).server_name.as_deref(), Some(EAST_WEST));
}

#[test]
fn server_names_are_normalised() {
    for name in [&b"Ratings.Default.SVC"[..], b"ratings.default.svc.", b"ratings.default.svc"] {
        let hello = hello_with(&[name_extension(&[name])]);
        assert_eq!(names(&hello).server_name.as_deref(), Some("ratings.default.svc"));
    }
}

#[test]
fn extensions_are_optional() {
    let mut hello = hello_with(&[]);
    hello.truncate(hello.len() - 2);
    hello[4] -= 2;
    hello[8] -= 2;
    assert_eq!(names(&hello), HelloNames::default());
}

#[test]
fn malformed_hellos_are_refused() {
    let long = vec![b'a'; 300];
    let whole = hello_with(&[name_extension(&[b"a"])]);
    let mut overlong = whole.clone();
    overlong[5 + 4 + 34] = 250; // session id
    let cases: Vec<(&str, Vec<u8>, Malformed)> = vec![
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Malformed::NotTls),
        ("one byte of http", b"G".to_vec(), Malformed::NotTls),
        ("zeros", vec![0; 64], Malformed::NotTls),
        ("sslv2", vec![0x80, 0x2e, 1, 3, 1], Malformed::NotTls),
        ("tls alert", vec![21, 3, 3, 0, 2, 2, 40], Malformed::NotTls),
        ("wrong version", vec![22, 9, 9, 0, 1], Malformed::NotTls),
        ("empty record", vec![22, 3, 1, 0, 0], Malformed::Record),
        ("record too long", vec![22, 3, 1, 0x40, 1], Malformed::Record),
        ("server hello", vec![22, 3, 3, 0, 4, 2, 0, 0, 0], Malformed::Message),
        ("session id too long", overlong, Malformed::Field),
        ("name of 300 bytes", hello_with(&[name_extension(&[&long])]), Malformed::ServerName),
        ("empty name", hello_with(&[name_extension(&[b""])]), Malformed::ServerName),
        ("only a dot", hello_with(&[name_extension(&[b"."])]), Malformed::ServerName),
        ("name with a line break", hello_with(&[name_extension(&[b"a\nb"])]), Malformed::ServerName),
        ("name with a NUL", hello_with(&[name_extension(&[b"a\0"])]), Malformed::ServerName),
        ("two names", hello_with(&[name_extension(&[b"a", b"b"])]), Malformed::Duplicate),
        ("two name extensions", hello_with(&[name_extension(&[b"a"]), name_extension(&[b"b"])]), Malformed::Duplicate),
        ("list longer than its extension", hello_with(&[(0, vec![0, 9, 0])]), Malformed::Field),
        ("empty protocol", hello_with(&[(16, vec![0, 1, 0])]), Malformed::Field),
        ("cut extension", hello_with(&[(16, vec![0])]), Malformed::Field),
    ];
    for (case, bytes, expected) in cases {
        assert_eq!(parse(&bytes), Err(expected), "{case}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn never_panics_on_a_damaged_hello(at in 0..POST_QUANTUM.len(), value: u8, records in 1usize..2000) {
        let mut bytes = in_records_of(POST_QUANTUM, records);
        let at = at % bytes.len();
        bytes[at] = value;
        for end in [bytes.len(), at, at / 2] {
            if let Ok(HelloProgress::Needs(total)) = parse(&bytes[..end]) {
                prop_assert!(total > end);
            }
        }
    }
}

/// Reads the bytes that `write` sends as a ClientHello.
async fn exchange<F>(limits: Limits, write: impl FnOnce(TcpStream) -> F) -> Result<Hello, HelloError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let writing = tokio::spawn(write(client));
    let hello = read(&mut server, limits).await;
    writing.abort();
    hello
}

fn quick(max_bytes: usize) -> Limits {
    Limits { max_bytes, deadline: Duration::from_secs(5) }
}

#[tokio::test]
async fn a_hello_can_arrive_in_parts() {
    for bytes in [POST_QUANTUM.to_vec(), in_records_of(POST_QUANTUM, 64)] {
        let sent = bytes.clone();
        let hello = exchange(quick(16384), async move |mut client: TcpStream| {
            for piece in sent.chunks(300) {
                client.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::future::pending::<()>().await;
        })
        .await
        .unwrap();
        assert_eq!(hello.server_name.as_deref(), Some(EAST_WEST));
        assert_eq!(hello.alpn, istio());
        assert_eq!(&hello.bytes[..], &bytes[..]);
    }
}

#[tokio::test]
async fn an_early_close_is_an_error() {
    let nothing = exchange(quick(16384), async |client: TcpStream| drop(client)).await;
    assert!(matches!(nothing, Err(HelloError::Empty)), "{nothing:?}");
    let half =
        exchange(quick(16384), async |mut client: TcpStream| client.write_all(&CLASSIC[..100]).await.unwrap()).await;
    assert!(matches!(half, Err(HelloError::Closed(100))), "{half:?}");
}

#[tokio::test]
async fn a_slow_peer_is_an_error() {
    let limits = Limits { max_bytes: 16384, deadline: Duration::from_millis(150) };
    let slow = exchange(limits, async |mut client: TcpStream| {
        for byte in POST_QUANTUM {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(matches!(slow, Err(HelloError::Slow(1..200))), "{slow:?}");
}

#[tokio::test]
async fn a_hello_above_the_size_limit_is_an_error() {
    // A ClientHello that announces 60,000 bytes is refused at once, endless small records at the limit.
    let claimed = exchange(quick(16384), async |mut client: TcpStream| {
        client.write_all(&[22, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60]).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(claimed, Err(HelloError::TooLarge(16384))), "{claimed:?}");
    let endless = exchange(quick(4096), async |mut client: TcpStream| {
        client.write_all(&[22, 3, 1, 0, 4, 1, 0, 0x0f, 0xa0]).await.unwrap();
        while client.write_all(&[22, 3, 1, 0, 1, 0]).await.is_ok() {}
    })
    .await;
    assert!(matches!(endless, Err(HelloError::TooLarge(4096))), "{endless:?}");
}

#[tokio::test]
async fn too_many_parts_are_an_error() {
    let pieces = exchange(quick(16384), async |mut client: TcpStream| {
        for record in in_records_of(POST_QUANTUM, 1).chunks(6) {
            if client.write_all(record).await.is_err() {
                return;
            }
            // Time for the reader, so that it parses each record on its own.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(pieces, Err(HelloError::Pieces)), "{pieces:?}");
    // Sent at once, the records are one part.
    let whole = exchange(quick(16384), async |mut client: TcpStream| {
        client.write_all(&in_records_of(POST_QUANTUM, 1)).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(whole.unwrap().server_name.as_deref(), Some(EAST_WEST));
}

#[tokio::test]
async fn other_protocols_are_refused_by_their_first_byte() {
    let garbage = exchange(quick(16384), async |mut client: TcpStream| {
        client.write_all(b"S").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(garbage, Err(HelloError::Malformed(Malformed::NotTls))), "{garbage:?}");
}

fn rustls_hello(name: &str, versions: &[&'static rustls::SupportedProtocolVersion], groups: usize) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = provider.kx_groups.split_off(groups);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = istio();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn current_hellos_of_rustls_are_read() {
    let hello = rustls_hello(EAST_WEST, rustls::ALL_VERSIONS, 0);
    assert_eq!(names(&hello), HelloNames { server_name: Some(EAST_WEST.into()), alpn: istio() });
}

#[test]
#[ignore = "writes the fixtures"]
fn write_fixtures() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/hello/testdata");
    for (file, bytes) in [
        ("tls13_post_quantum.bin", rustls_hello(EAST_WEST, rustls::ALL_VERSIONS, 0)),
        ("tls13_x25519.bin", rustls_hello(EAST_WEST, &[&rustls::version::TLS13], 1)),
        ("tls12.bin", rustls_hello(EAST_WEST, &[&rustls::version::TLS12], 1)),
        // rustls sends no server name for an IP address.
        ("tls13_without_name.bin", rustls_hello("192.0.2.1", rustls::ALL_VERSIONS, 1)),
    ] {
        std::fs::write(format!("{directory}/{file}"), bytes).unwrap();
    }
}
