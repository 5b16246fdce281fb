//! Compression of SPDY header blocks: one zlib stream for each direction of a connection (RFC 1950), with a preset
//! dictionary and a sync flush after each block.
//!
//! `flate2` uses `zlib-rs` here, because its default backend has no preset dictionaries.

use std::sync::LazyLock;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Initial size of the buffer for a header block. Blocks of port forwarding have some dozens of bytes.
const INITIAL_CAPACITY: usize = 512;

/// Limit of a decompressed header block, which must be shorter.
const MAX_BLOCK: usize = 64 * 1024;

/// The dictionary's words. In the dictionary each word follows its length as 32 bits, and `_` is a space.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age \
    allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// The rest of the dictionary, which has no lengths.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

/// The preset dictionary: common header names and values (SPDY/3 draft §2.6.10.1).
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.replace('_', " ").bytes());
    }
    dictionary.extend(TAIL.bytes());
    dictionary
});

/// The header block is invalid or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SPDY header block cannot be decompressed")]
pub(in crate::stream) struct InvalidBlock;

/// Decompressor of the header blocks from a client.
#[derive(Debug)]
pub(in crate::stream) struct Inflater(Decompress);

impl Inflater {
    pub(in crate::stream) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Decompresses one header block. After an error the stream cannot be continued.
    pub(in crate::stream) fn inflate(&mut self, block: &[u8]) -> Result<Bytes, InvalidBlock> {
        let start = self.0.total_in();
        let mut output = Vec::with_capacity(INITIAL_CAPACITY);
        loop {
            let rest = &block[(self.0.total_in() - start) as usize..];
            match self.0.decompress_vec(rest, &mut output, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) if output.len() == output.capacity() => {
                    if output.len() >= MAX_BLOCK {
                        return Err(InvalidBlock);
                    }
                    output.reserve_exact(output.len());
                }
                Ok(Status::Ok) if (self.0.total_in() - start) as usize == block.len() => return Ok(output.into()),
                Ok(Status::BufError) if rest.is_empty() => return Ok(output.into()),
                // The end of the zlib stream, which no header block contains.
                Ok(_) => return Err(InvalidBlock),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| InvalidBlock)?;
                }
                Err(_) => return Err(InvalidBlock),
            }
        }
    }
}

/// Compressor of the header blocks to a client.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        // The server's header blocks are empty, so that compression saves nothing.
        let mut compress = Compress::new(Compression::none(), true);
        compress.set_dictionary(&DICTIONARY).expect("a stream that has not started takes a dictionary");
        Self(compress)
    }

    /// Compresses one header block of at most [`INITIAL_CAPACITY`] bytes.
    pub(super) fn deflate(&mut self, block: &[u8]) -> Bytes {
        let mut output = Vec::with_capacity(2 * INITIAL_CAPACITY);
        self.0.compress_vec(block, &mut output, FlushCompress::Sync).expect("the output has room for the block");
        output.into()
    }
}
