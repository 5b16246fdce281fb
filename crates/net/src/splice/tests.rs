use super::*;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Two connected streams.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

type Ended = (Result<(), Broken>, u64, u64, usize);

/// A client and a server with a relay between them.
struct Rig {
    client: TcpStream,
    server: TcpStream,
    ended: JoinHandle<Ended>,
}

async fn rig(relay: Relay) -> Rig {
    let ((client, first), (second, server)) = (pair().await, pair().await);
    let ended = tokio::task::spawn_local(async move {
        let (carrier, carried) = (Carrier::new(), Carried::default());
        let ended = both_ways(&first, &second, &carrier, &relay, &carried).await;
        (ended, carried.forth.get(), carried.back.get(), carrier.pipes().idle())
    });
    Rig { client, server, ended }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") })
}

/// Pseudo-random bytes.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

async fn send(mut stream: tokio::net::tcp::OwnedWriteHalf, bytes: Vec<u8>) {
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn receive(mut stream: tokio::net::tcp::OwnedReadHalf) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn relays_large_streams_in_both_directions() {
    for threshold in [0, 64 * 1024, u64::MAX] {
        run(async {
            let rig = rig(Relay { threshold, ..Relay::default() }).await;
            let (request, response) = (pattern(20 << 20, 1), pattern(30 << 20, 2));
            let (client_reads, client_writes) = rig.client.into_split();
            let (server_reads, server_writes) = rig.server.into_split();
            let sending = tokio::spawn(send(client_writes, request.clone()));
            let answering = tokio::spawn(send(server_writes, response.clone()));
            let received = tokio::spawn(receive(client_reads));
            assert!(receive(server_reads).await == request, "request differs at threshold {threshold}");
            assert!(received.await.unwrap() == response, "response differs at threshold {threshold}");
            sending.await.unwrap();
            answering.await.unwrap();
            let (ended, forth, back, pipes) = rig.ended.await.unwrap();
            ended.unwrap();
            assert_eq!((forth, back), (20 << 20, 30 << 20));
            assert_eq!(pipes > 0, threshold != u64::MAX, "{pipes} pipes at threshold {threshold}");
        });
    }
}

#[test]
fn small_messages_are_never_spliced() {
    run(async {
        let mut rig = rig(Relay { threshold: 0, ..Relay::default() }).await;
        let mut answer = [0; 1024];
        for _ in 0..200 {
            rig.client.write_all(&[1; 1024]).await.unwrap();
            rig.server.read_exact(&mut answer).await.unwrap();
            rig.server.write_all(&[2; 1024]).await.unwrap();
            rig.client.read_exact(&mut answer).await.unwrap();
        }
        drop((rig.client, rig.server));
        let (ended, forth, back, pipes) = rig.ended.await.unwrap();
        ended.unwrap();
        assert_eq!((forth, back, pipes), (200 << 10, 200 << 10, 0));
    });
}

#[test]
fn a_half_close_leaves_the_other_half_open() {
    for threshold in [0, u64::MAX] {
        run(async {
            let mut rig = rig(Relay { threshold, ..Relay::default() }).await;
            rig.client.write_all(b"all of it").await.unwrap();
            rig.client.shutdown().await.unwrap();
            let mut request = Vec::new();
            rig.server.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"all of it");
            // The server responds after the half-close.
            rig.server.write_all(b"done").await.unwrap();
            drop(rig.server);
            let mut answer = Vec::new();
            rig.client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"done");
            let (ended, forth, back, _) = rig.ended.await.unwrap();
            ended.unwrap();
            assert_eq!((forth, back), (9, 4));
        });
    }
}

#[test]
fn a_reset_is_forwarded_as_a_reset() {
    run(async {
        let mut rig = rig(Relay::default()).await;
        rig.server.write_all(b"beginning").await.unwrap();
        let mut bytes = [0; 9];
        rig.client.read_exact(&mut bytes).await.unwrap();
        rig.server.set_zero_linger().unwrap();
        drop(rig.server);
        let (ended, _, back, _) = rig.ended.await.unwrap();
        assert!(matches!(ended, Err(Broken::Failed(Side::Second, _))), "{ended:?}");
        assert_eq!(back, 9);
        let error = rig.client.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn idle_connections_are_closed() {
    run(async {
        let mut rig = rig(Relay { idle: Duration::from_millis(200), ..Relay::default() }).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.client.write_all(b".").await.unwrap();
        }
        let begun = Instant::now();
        let (ended, forth, ..) = rig.ended.await.unwrap();
        assert!(matches!(ended, Err(Broken::Idle)), "{ended:?}");
        assert_eq!(forth, 4);
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_pipe_with_bytes_is_never_reused() {
    run(async {
        let pipes = Pipes::default();
        let ((mut writer, reader), (out, mut far)) = (pair().await, pair().await);
        writer.write_all(b"left").await.unwrap();
        reader.readable().await.unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&reader).unwrap(), 4);
        drop(pipe);
        assert_eq!(pipes.idle(), 0, "a pipe with bytes returned to the pool");

        writer.write_all(b"next").await.unwrap();
        let mut pipe = pipes.take().unwrap();
        while pipe.holds() == 0 {
            let _ = pipe.fill(&reader);
            tokio::task::yield_now().await;
        }
        assert_eq!(pipe.drain(&out).unwrap(), 4);
        drop(pipe);
        assert_eq!(pipes.idle(), 1);
        let mut seen = [0; 4];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"next");
    });
}

#[test]
fn a_receiver_that_does_not_read_blocks_the_sender() {
    run(async {
        let rig = rig(Relay { threshold: 0, ..Relay::default() }).await;
        let (_reads, mut writes) = rig.client.into_split();
        let mut sent = 0;
        let chunk = vec![7; 1 << 16];
        while tokio::time::timeout(Duration::from_millis(300), writes.write_all(&chunk)).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 64 << 20, "the sender is not blocked");
        }
        drop(rig.server);
        let (ended, ..) = rig.ended.await.unwrap();
        assert!(matches!(ended, Err(Broken::Failed(Side::Second, _))), "{ended:?}");
    });
}
