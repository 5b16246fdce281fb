//! A connection that ends when it loses its place, or when its client takes too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::gate::Place;

/// How long a connection may last.
#[derive(Debug, Clone, Copy)]
pub enum Lifetime {
    /// The client must send its first bytes in this time. Afterwards the connection lasts, because its client is known.
    UntilFirstBytes(Duration),
    /// The connection ends after this time, whatever its client sends: for a client that makes one request.
    Whole(Duration),
    /// The connection lasts for as long as it has its place.
    Unlimited,
}

/// A connection with a guard. Reads and writes fail once it is over.
pub struct Guarded<S> {
    stream: S,
    lifetime: Lifetime,
    end: Option<Pin<Box<Sleep>>>,
    lost: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _place: Option<Place>,
    _held: Option<Box<dyn Send + Sync>>,
}

impl<S> Guarded<S> {
    /// Guards a connection from now on.
    pub fn new(stream: S, lifetime: Lifetime, place: Option<Place>) -> Self {
        let end = match lifetime {
            Lifetime::UntilFirstBytes(time) | Lifetime::Whole(time) => {
                Some(Box::pin(sleep_until(Instant::now() + time)))
            }
            Lifetime::Unlimited => None,
        };
        let lost = place.as_ref().map(|place| Box::pin(place.token().cancelled_owned()));
        Guarded { stream, lifetime, end, lost, _place: place, _held: None }
    }

    /// Holds a value for as long as the connection lasts.
    pub fn holding(mut self, held: Box<dyn Send + Sync>) -> Self {
        self._held = Some(held);
        self
    }

    /// Returns the connection without its guard.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns an error if the connection is over, and wakes the task when it will be.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.lost.as_mut().is_some_and(|lost| lost.as_mut().poll(context).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed in favour of another connection"));
        }
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client took too long"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before && matches!(self.lifetime, Lifetime::UntilFirstBytes(_)) {
            self.end = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// gRPC services see the connection as they would without its guard.
impl<S: Connected> Connected for Guarded<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use telemetry::metrics::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::ports::gate::Gate;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_connection_ends_with_its_time_or_its_place() {
        let time = Duration::from_millis(50);
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Guarded::new(server, Lifetime::UntilFirstBytes(time), None);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut sender, server) = tokio::io::duplex(64);
        let mut lasting = Guarded::new(server, Lifetime::UntilFirstBytes(time), None);
        sender.write_all(b"a").await.unwrap();
        assert_eq!(lasting.read_u8().await.unwrap(), b'a');
        tokio::time::sleep(time * 2).await;
        sender.write_all(b"b").await.unwrap();
        assert_eq!(lasting.read_u8().await.unwrap(), b'b', "known clients stay");

        let (mut slow, server) = tokio::io::duplex(64);
        let mut whole = Guarded::new(server, Lifetime::Whole(time), None);
        slow.write_all(b"a").await.unwrap();
        assert_eq!(whole.read_u8().await.unwrap(), b'a');
        assert_eq!(whole.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(whole.write_all(b"a").await.is_err());

        let gate = Gate::new("test", 1, &Registry::new());
        let (_idle, server) = tokio::io::duplex(64);
        let mut evicted = Guarded::new(server, Lifetime::Unlimited, Some(gate.admit(SOURCE)));
        let (read, _place) = tokio::join!(evicted.read_u8(), async { gate.admit(SOURCE) });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let _ = client.write_all(b"a").await;
    }
}
