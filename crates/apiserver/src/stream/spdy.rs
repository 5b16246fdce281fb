//! The part of SPDY/3.1 that clients of Kubernetes use: streams with headers, data, pings.
//!
//! Frames follow the SPDY/3.1 draft, §2. There is no flow control, as in Kubernetes' implementation (moby/spdystream).

mod compression;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use compression::Deflater;
pub(super) use compression::{Inflater, InvalidBlock};

/// Largest frame.
const MAX_FRAME: usize = 1024 * 1024;

/// Most headers of a stream.
const MAX_HEADERS: u32 = 64;

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// A frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SpdyFrame {
    /// A new stream. The headers are compressed.
    Open {
        stream: u32,
        fin: bool,
        headers: Bytes,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates and other frames without an effect here.
    Other,
}

/// Why a frame is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a SPDY frame of {0} bytes exceeds the limit")]
    TooLong(usize),
    #[error("SPDY version {0} is not supported, only version 3")]
    Version(u16),
    #[error("a SPDY frame is shorter than its fields")]
    Short,
    #[error(transparent)]
    Compression(#[from] InvalidBlock),
    #[error("a SPDY header block is malformed")]
    Headers,
}

/// Takes the next complete frame from `buffer`, if there is one.
pub(super) fn next_frame(buffer: &mut BytesMut) -> Result<Option<SpdyFrame>, SpdyError> {
    const HEAD: usize = 8;
    let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
    if length > MAX_FRAME {
        return Err(SpdyError::TooLong(length));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let mut payload = buffer.split_to(length).freeze();
    let (high, type_) = ((first >> 16) as u16, (first & 0xffff) as u16);
    if high & CONTROL == 0 {
        return Ok(Some(SpdyFrame::Data { stream: first, fin: flags & FIN != 0, data: payload }));
    }
    if high & !CONTROL != VERSION {
        return Err(SpdyError::Version(high & !CONTROL));
    }
    let mut number = || payload.try_get_u32().map_err(|_| SpdyError::Short);
    Ok(Some(match type_ {
        SYN_STREAM => {
            let stream = number()? & 0x7fff_ffff;
            let _associated = number()?;
            let _priority_and_slot = payload.try_get_u16().map_err(|_| SpdyError::Short)?;
            SpdyFrame::Open { stream, fin: flags & FIN != 0, headers: payload }
        }
        RST_STREAM => SpdyFrame::Reset { stream: number()? & 0x7fff_ffff },
        PING => SpdyFrame::Ping { id: number()? },
        GOAWAY => SpdyFrame::GoAway,
        _ => SpdyFrame::Other,
    }))
}

/// Reads the next frame of a connection's bytes, or None at the end of the connection.
pub(super) async fn read_frame(
    pieces: &mut (impl Stream<Item = Bytes> + Unpin),
    buffer: &mut BytesMut,
) -> Result<Option<SpdyFrame>, SpdyError> {
    loop {
        match next_frame(buffer)? {
            Some(SpdyFrame::GoAway) => return Ok(None),
            Some(frame) => return Ok(Some(frame)),
            None => match pieces.next().await {
                Some(piece) => buffer.extend_from_slice(&piece),
                None => return Ok(None),
            },
        }
    }
}

/// Names and values of a decompressed header block.
pub(super) fn headers(mut block: Bytes) -> Result<Vec<(String, String)>, SpdyError> {
    let count = block.try_get_u32().map_err(|_| SpdyError::Headers)?;
    if count > MAX_HEADERS {
        return Err(SpdyError::Headers);
    }
    let mut text = || -> Result<String, SpdyError> {
        let length = block.try_get_u32().map_err(|_| SpdyError::Headers)? as usize;
        if length > block.len() {
            return Err(SpdyError::Headers);
        }
        String::from_utf8(block.split_to(length).to_vec()).map_err(|_| SpdyError::Headers)
    };
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// A writer of frames with headers. Their compression state belongs to the connection, so that each connection has a
/// writer.
#[derive(Debug)]
pub(super) struct SpdyWriter {
    deflater: Deflater,
}

impl SpdyWriter {
    pub(super) fn new() -> Self {
        Self { deflater: Deflater::new() }
    }

    /// The frame that accepts a stream, without headers.
    pub(super) fn reply(&mut self, stream: u32) -> Bytes {
        const NO_HEADERS: [u8; 4] = 0u32.to_be_bytes();
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(&self.deflater.deflate(&NO_HEADERS));
        control(SYN_REPLY, &payload)
    }
}

/// A data frame. `fin` ends the stream.
pub(super) fn data(stream: u32, data: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + data.len());
    frame.put_u32(stream & 0x7fff_ffff);
    frame.put_u32((u32::from(if fin { FIN } else { 0 }) << 24) | (data.len() as u32 & 0x00ff_ffff));
    frame.put_slice(data);
    frame.freeze()
}

/// The response to a ping.
pub(super) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// The frame that refuses a stream.
pub(super) fn reset(stream: u32) -> Bytes {
    const REFUSED_STREAM: u32 = 3;
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    payload.put_u32(REFUSED_STREAM);
    control(RST_STREAM, &payload)
}

fn control(type_: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(CONTROL | VERSION);
    frame.put_u16(type_);
    frame.put_u32(payload.len() as u32 & 0x00ff_ffff);
    frame.put_slice(payload);
    frame.freeze()
}
