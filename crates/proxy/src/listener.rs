//! Accepting connections, until the drain and through it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use net::socket::Acceptor;
use runtime::admission::{Admission, Admitted};
use runtime::drain::Watch;
use tokio::net::TcpStream;

/// The number of connections accepted before open connections run. A connection costs 100 µs to set up, 200 µs with a TLS
/// handshake, so a burst of new connections delays open ones by a few milliseconds instead of by the whole burst.
const BATCH: usize = 16;
/// How long connections are accepted whose TCP handshake had begun when accepting was to stop: some round trips to anywhere.
const LAST_HANDSHAKES: Duration = Duration::from_millis(300);
/// The largest number of connections that can wait to be accepted ([`BACKLOG`]), in batches.
const MAX_BATCHES: usize = BACKLOG as usize / BATCH;

/// The number of connections that may wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// Accepts connections until `stop` resolves, then those whose handshake had begun by then, so that none is reset. Each
/// connection that `admission` admits is served by a task of its own. The drain waits for this function and for the tasks.
/// Must be called within a `LocalSet`.
///
/// # Errors
/// Returns an error if the listener fails. A worker that cannot accept connections would leave its share of them waiting, so
/// callers end the process.
pub async fn accept<F>(
    listener: std::net::TcpListener,
    stop: impl Future<Output = ()>,
    drain: &Watch,
    admission: &Admission,
    serve: impl Fn(TcpStream, SocketAddr, Admitted) -> F,
) -> io::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let _accepting = drain.guard();
    let mut accepting = Accepting { acceptor: Acceptor::new(listener)?, drain, admission, serve };
    accepting.until(stop).await?;
    if let Err(error) = net::socket::refuse_new(&accepting.acceptor) {
        tracing::warn!(%error, "cannot keep out new connections; a connection that arrives now may be reset");
    }
    accepting.until(tokio::time::sleep(LAST_HANDSHAKES)).await?;
    accepting.rest().await
}

struct Accepting<'a, S> {
    acceptor: Acceptor,
    drain: &'a Watch,
    admission: &'a Admission,
    serve: S,
}

impl<S, F> Accepting<'_, S>
where
    S: Fn(TcpStream, SocketAddr, Admitted) -> F,
    F: Future<Output = ()> + 'static,
{
    async fn until(&mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let mut stop = pin!(stop);
        loop {
            for _ in 0..BATCH {
                let accepted = tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    accepted = self.acceptor.next() => accepted?,
                };
                self.begin(accepted);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Accepts the connections that wait: closing the listener would reset them.
    async fn rest(&mut self) -> io::Result<()> {
        for _ in 0..MAX_BATCHES {
            for _ in 0..BATCH {
                match self.acceptor.next().now_or_never() {
                    Some(accepted) => self.begin(accepted?),
                    None => return Ok(()),
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn begin(&self, (stream, peer): (TcpStream, SocketAddr)) {
        // A dual-stack listener shows IPv4 addresses as IPv6.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.admission.admit(peer.ip(), |admitted| {
            let (served, guard) = ((self.serve)(stream, peer, admitted), self.drain.guard());
            let task = tokio::task::spawn_local(async move {
                served.await;
                drop(guard);
            });
            task.abort_handle()
        });
    }
}
