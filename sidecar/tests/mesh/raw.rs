//! Raw HTTP: clients and applications that send exactly these bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts an application that runs `serve` for each connection.
pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Starts an application that answers each request without a body with `answer`.
pub(crate) async fn start_answering(answer: &'static str) -> SocketAddr {
    start(move |mut stream| async move {
        while read_until(&mut stream, "\r\n\r\n").await.is_some() {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Reads until `end` has arrived, and returns what has arrived; `None` if the stream ends before.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> Option<String> {
    let mut all = Vec::new();
    let reading = async {
        while !all.windows(end.len()).any(|window| window == end.as_bytes()) {
            if stream.read_buf(&mut all).await.ok()? == 0 {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {end:?} in time"))?;
    Some(String::from_utf8_lossy(&all).into_owned())
}

/// Reads the head of a response and a body of the length that it announces.
pub(crate) async fn read_response(stream: &mut TcpStream) -> Option<String> {
    let mut all = read_until(stream, "\r\n\r\n").await?;
    let (head, body) = all.split_once("\r\n\r\n")?;
    let mut lengths = head
        .lines()
        .rev()
        .filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let length: usize = lengths.next().map_or(0, |length| length.parse().unwrap());
    let mut rest = vec![0; length.saturating_sub(body.len())];
    stream.read_exact(&mut rest).await.ok()?;
    all.push_str(&String::from_utf8_lossy(&rest));
    Some(all)
}

/// Sends bytes on a new connection and returns the response, empty if there is none.
pub(crate) async fn send(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    read_response(&mut stream).await.unwrap_or_default()
}

/// The status of a response; 0 if there is none.
pub(crate) fn status(response: &str) -> u16 {
    response
        .strip_prefix("HTTP/1.1 ")
        .or(response.strip_prefix("HTTP/1.0 "))
        .map_or(0, |rest| rest[..3].parse().unwrap())
}

/// The value of a header of a response.
pub(crate) fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    response.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
