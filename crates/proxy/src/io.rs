//! Byte streams: TCP or TLS, with data that was read ahead.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A stream whose first bytes have been read ahead.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

/// Returns the peer's address. A dual-stack listener shows IPv4 addresses as IPv6; here they are IPv4, for logs and policies.
pub fn peer_address(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.peer_addr().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// A plain or TLS stream. An enum instead of a boxed trait: it is polled for every read and write.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls {
        /// The stream. Boxed, because its buffers make it some twenty times as large.
        stream: Box<TlsStream<Prefixed<TcpStream>>>,
        /// An end without `close_notify` is an error.
        complete: bool,
    },
}

/// The byte stream of a connection.
pub type Io = Prefixed<Stream>;

impl<S> Prefixed<S> {
    /// Wraps a stream from which `prefix` was read ahead.
    pub fn new(prefix: BytesMut, stream: S) -> Self {
        Self { prefix, stream }
    }

    /// Returns the data that was read ahead, and the stream.
    pub fn into_parts(self) -> (BytesMut, S) {
        (self.prefix, self.stream)
    }

    /// Returns the stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the data that was read ahead.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads data ahead. Returns the number of bytes; 0 at the end of the stream.
    pub async fn read_ahead(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.prefix).await
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Prefixed::new(BytesMut::new(), Stream::Plain(stream))
    }
}

impl From<TlsStream<Prefixed<TcpStream>>> for Io {
    fn from(stream: TlsStream<Prefixed<TcpStream>>) -> Self {
        Prefixed::new(BytesMut::new(), Stream::Tls { stream: Box::new(stream), complete: false })
    }
}

impl Io {
    /// Returns the socket.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls { stream, .. } => stream.get_ref().0.get_ref(),
        }
    }

    /// Makes the end of TLS without `close_notify` an error. To be called for content that does not show its own end, because
    /// otherwise a proxy that was killed, or an attacker between the proxies, could cut it unnoticed (RFC 8446 §6.1). Proxies of
    /// the mesh, Envoy's as well, end with `close_notify`.
    pub fn require_complete(&mut self) {
        if let Stream::Tls { complete, .. } = &mut self.stream {
            *complete = true;
        }
    }

    /// Returns whether the stream has TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls { .. })
    }
}

impl Io {
    /// Returns a plain stream with data that was read ahead.
    pub fn from_prefixed(stream: Prefixed<TcpStream>) -> Self {
        let (prefix, stream) = stream.into_parts();
        Prefixed::new(prefix, Stream::Plain(stream))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // The allocation is no longer needed.
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls { stream, complete } => {
                // Many peers end TLS by closing the socket. HTTP shows where its content ends.
                match ready!(Pin::new(&mut **stream).poll_read(cx, buf)) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !*complete => Poll::Ready(Ok(())),
                    other => Poll::Ready(other),
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls { stream, .. } => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls { stream, .. } => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls { stream, .. } => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls { stream, .. } => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
