//! TCP: messages to an echo service.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::socket::{self, Scratch, WORTH_DISCARDING};
use super::{Failure, drive};

/// Messages up to this length fit into any socket's buffers, so they can be written without reading at the same time.
const AT_ONCE: usize = 16 * 1024;

/// A caller over TCP: a connection with one message in flight.
#[derive(Debug)]
pub struct TcpCaller {
    target: SocketAddr,
    message: Bytes,
    scratch: Scratch,
    stream: Option<TcpStream>,
}

impl TcpCaller {
    /// A caller that sends `message` to an echo service for each exchange.
    pub fn new(target: SocketAddr, message: Bytes, scratch: &Scratch) -> Self {
        Self { target, message, scratch: scratch.clone(), stream: None }
    }

    /// Reads or discards the echoed bytes.
    async fn read(stream: &mut TcpStream, scratch: &Scratch, length: u64) -> Result<u64, Failure> {
        let mut arrived = 0;
        while arrived < length {
            let missing = length - arrived;
            let read = if missing >= WORTH_DISCARDING {
                socket::discard(stream, scratch, missing).await
            } else {
                socket::read_with(stream, scratch, |bytes| bytes.len() as u64).await
            };
            match read.map_err(Failure::Connection)? {
                0 => return Err(Failure::Closed),
                read => arrived += read,
            }
        }
        if arrived == length { Ok(arrived) } else { Err(Failure::Length { wanted: length, arrived }) }
    }
}

impl drive::Caller for TcpCaller {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => socket::connect(self.target).await?,
        };
        let length = self.message.len() as u64;
        let arrived = if self.message.len() <= AT_ONCE {
            write(&mut stream, &self.message).await?;
            Self::read(&mut stream, &self.scratch, length).await?
        } else {
            self.both_ways(&mut stream).await?
        };
        self.stream = Some(stream);
        Ok(arrived)
    }
}

impl TcpCaller {
    async fn both_ways(&self, stream: &mut TcpStream) -> Result<u64, Failure> {
        let (reader, mut writer) = stream.split();
        let length = self.message.len() as u64;
        let read = async {
            let mut arrived = 0;
            while arrived < length {
                let dropped = socket::discard(reader.as_ref(), &self.scratch, length - arrived).await;
                match dropped.map_err(Failure::Connection)? {
                    0 => return Err(Failure::Closed),
                    dropped => arrived += dropped,
                }
            }
            Ok(arrived)
        };
        let ((), arrived) = tokio::try_join!(write(&mut writer, &self.message), read)?;
        Ok(arrived)
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), Failure> {
    stream.write_all(message).await.map_err(Failure::Connection)
}
