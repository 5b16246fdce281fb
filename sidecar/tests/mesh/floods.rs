//! Floods of HTTP/2 frames (CVE-2023-44487, CVE-2024-27919, CVE-2024-30255): the connection ends, and no other one suffers.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::discovery::Protocol;

use crate::app::{get, pod_of};
use crate::fixture::{TestMesh, until};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `GET http://reviews/` (RFC 7541): three entries of the static table, and a literal `:authority`.
const GET: &[u8] = b"\x82\x86\x84\x01\x07reviews";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends `flood`, after which the connection must end for one of these reasons. A reset may overtake the GOAWAY with the reason.
async fn ends(address: SocketAddr, flood: impl Iterator<Item = Vec<u8>>, reasons: &[u32]) {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut all)).await;
        (all, read.is_ok())
    });
    writer.write_all(PREFACE).await.unwrap();
    for frame in flood {
        if writer.write_all(&frame).await.is_err() {
            break;
        }
    }
    let (all, ended) = reading.await.unwrap();
    assert!(ended, "the connection stays open");
    let mut rest = &all[..];
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        if head[3] == GOAWAY {
            let code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap())).unwrap();
            assert!(reasons.contains(&code), "the connection ended with {code}");
        }
        rest = after;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_http2_frames_ends_its_connection_and_no_other() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    mesh.push_service("reviews", 1, Protocol::Http2);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    for address in [frontend.service_address(1), pod.gate.address] {
        assert_eq!(pod_of(&get(frontend.service_address(1)).await), "reviews-a");
        let before = pod.app.requests.load(Relaxed);
        // One request of this form is valid.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let one = [PREFACE, &frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)].concat();
        stream.write_all(&one).await.unwrap();
        until("the request arrives", async || pod.app.requests.load(Relaxed) == before + 1).await;

        // Each request is reset at once. Many are in one write, as an attacker has them.
        let resets = (0..200_u32).map(|batch| {
            let ids = (0..500).map(|at| (batch * 500 + at) * 2 + 1);
            let pair = |id| [frame(HEADERS, END_HEADERS | END_STREAM, id, GET), frame(RST_STREAM, 0, id, &[0; 4])];
            ids.flat_map(pair).flatten().collect()
        });
        ends(address, resets, &[ENHANCE_YOUR_CALM]).await;
        let reached = pod.app.requests.load(Relaxed) - before;
        assert!(reached < 1000, "{reached} of 100,000 requests reached the application");

        // A head without an end. Each frame has one literal of 16,000 bytes without indexing.
        let literal = [&b"\0\x01a\x7f\x81\x7c"[..], &[b'a'; 16_000]].concat();
        let endless = (0..10_000).map(|_| frame(CONTINUATION, 0, 1, &literal));
        let head = || std::iter::once(frame(HEADERS, 0, 1, GET));
        ends(address, head().chain(endless), &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await;
        // The same without a byte in them, as they cost no memory.
        let empty = (0..200).map(|_| frame(CONTINUATION, 0, 1, &[]).repeat(1000));
        ends(address, head().chain(empty), &[ENHANCE_YOUR_CALM]).await;
        assert_eq!(pod_of(&get(frontend.service_address(1)).await), "reviews-a", "others are served");
    }
}
