//! Connections that begin with a header of the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Reached, Server, bind, talk};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Serves requests or lines after a header.
pub(super) async fn listen(port: u16, lines: bool, server: Arc<Server>) -> Result<()> {
    let listener = bind(port).await?;
    loop {
        let (mut stream, peer) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let how = header(&mut stream, peer.ip()).await?;
            talk(stream, Reached { how, port }, lines, server).await
        });
    }
}

/// Reads a header, and returns what it says, without what differs from one lab to another.
async fn header(stream: &mut (impl AsyncRead + Unpin), peer: IpAddr) -> Result<String> {
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await?;
    let (version, from, to, port): (u8, IpAddr, IpAddr, u16) = if begin == *SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        ensure!(rest[..2] == [0x21, 0x11], "neither PROXY nor TCP over IPv4: {rest:?}");
        let mut addresses = vec![0; usize::from(u16::from_be_bytes([rest[2], rest[3]]))];
        stream.read_exact(&mut addresses).await?;
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(addresses.get(at..at + 4)?).ok()?));
        let port = addresses.get(10..12).map(|port| u16::from_be_bytes([port[0], port[1]]));
        (2, address(0).context("no source")?, address(4).context("no destination")?, port.context("no port")?)
    } else {
        let mut line = begin.to_vec();
        while !line.ends_with(b"\r\n") {
            ensure!(line.len() < 107, "no end of the line");
            line.push(stream.read_u8().await?);
        }
        let line = String::from_utf8(line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["PROXY", "TCP4", from, to, _, port] = words.as_slice() else { bail!("{line:?} is no header") };
        (1, from.parse()?, to.parse()?, port.parse()?)
    };
    let from = if from == peer { "the client" } else { "another address" };
    let to = match to {
        IpAddr::V4(to) if Ipv4Addr::octets(&to)[1] == 96 => "the service",
        _ => "a pod",
    };
    Ok(format!("PROXY version {version}, from {from} to {to}, port {port}"))
}
