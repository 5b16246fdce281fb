//! The byte streams of both sides: TCP or TLS, with what was read ahead of time put back in front.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

/// The other end of a connection. A listener for both families shows IPv4 addresses as IPv6; they are shown, logged and
/// matched by policies as what they are.
pub fn peer_of(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.peer_addr().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Either kind of stream. An enum and not a boxed trait: it is polled for every read and write.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Inside TLS. Boxed, because its buffers make it some twenty times as large.
    Tls(Box<TlsStream<Prefixed<TcpStream>>>),
}

/// What connections are made of here.
pub type Io = Prefixed<Stream>;

impl<S> Prefixed<S> {
    /// A stream from which `prefix` was read.
    pub fn new(prefix: BytesMut, stream: S) -> Self {
        Self { prefix, stream }
    }

    /// What was read ahead, and the stream.
    pub fn into_parts(self) -> (BytesMut, S) {
        (self.prefix, self.stream)
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What was read ahead and not yet taken.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads some bytes ahead, which stay to be read again. Says how many; 0 at the end of the stream.
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
        Prefixed::new(BytesMut::new(), Stream::Tls(Box::new(stream)))
    }
}

impl Io {
    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }
}

impl Io {
    /// Plain bytes of which some were read ahead.
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
            // Its allocation is not needed again.
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
            Stream::Tls(stream) => {
                // Many peers end TLS by closing the socket. Whether all was said is known from the framing of what is
                // carried (HTTP), or to the application alone.
                match ready!(Pin::new(&mut **stream).poll_read(cx, buf)) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
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
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
