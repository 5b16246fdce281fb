//! Decompresses SPDY header blocks: one zlib stream per connection (RFC 1950, RFC 1951), flushed after each block, whose window
//! starts out as a dictionary of common header names (SPDY/3 draft §2.6.10.1).

use std::sync::LazyLock;

use bytes::Bytes;

use super::Malformed;

/// Deflate with a window of 32 KiB, with a dictionary (RFC 1950 §2.2).
pub(super) const ZLIB_HEAD: [u8; 2] = [0x78, 0xbb];

/// The `FDICT` flag of the second byte.
const HAS_DICTIONARY: u8 = 0x20;

/// How far back copies may reach.
const WINDOW: usize = 32 * 1024;

/// Largest header block. Ours are some dozens of bytes.
const MOST: usize = 64 * 1024;

/// Each word of the dictionary follows its length as 32 bits.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age \
    allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// The rest of the dictionary.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.replace('_', " ").bytes());
    }
    dictionary.extend(TAIL.bytes());
    dictionary
});

/// Adler-32 of the dictionary, by which a zlib stream names it.
pub(super) fn dictionary_checksum() -> u32 {
    const MODULUS: u32 = 65_521;
    let (low, high) = DICTIONARY.iter().fold((1, 0), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % MODULUS;
        (low, (high + low) % MODULUS)
    });
    (high << 16) | low
}

/// The state of one direction of a connection.
#[derive(Debug)]
pub(in crate::stream) struct Inflater {
    /// The dictionary and what came out so far, at most a window of it.
    window: Vec<u8>,
    started: bool,
}

impl Inflater {
    pub(in crate::stream) fn new() -> Self {
        Self { window: DICTIONARY.clone(), started: false }
    }

    /// Decompresses one flushed piece of the stream.
    pub(in crate::stream) fn inflate(&mut self, piece: &[u8]) -> Result<Bytes, Malformed> {
        let mut piece = piece;
        if !self.started {
            self.started = true;
            let (head, rest) = piece.split_first_chunk::<6>().ok_or(Malformed::Compression)?;
            let deflate = head[0] & 0x0f == 8 && u16::from_be_bytes([head[0], head[1]]) % 31 == 0;
            let checksum = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
            if !deflate || head[1] & HAS_DICTIONARY == 0 || checksum != dictionary_checksum() {
                return Err(Malformed::Compression);
            }
            piece = rest;
        }
        let before = self.window.len();
        let mut bits = Bits { bytes: piece, held: 0, count: 0 };
        let limit = before + MOST;
        while !bits.is_at_end() {
            block(&mut bits, &mut self.window, limit)?;
        }
        let produced = Bytes::copy_from_slice(&self.window[before..]);
        let excess = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..excess);
        Ok(produced)
    }
}

/// Bits of the input, least significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Result<u32, Malformed> {
        while self.count < count {
            let (byte, rest) = self.bytes.split_first().ok_or(Malformed::Compression)?;
            self.held |= u32::from(*byte) << self.count;
            self.count += 8;
            self.bytes = rest;
        }
        let value = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Ok(value)
    }

    fn align(&mut self) {
        self.held = 0;
        self.count = 0;
    }

    /// Flushed pieces end on a byte boundary, after an empty stored block.
    fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// One block of DEFLATE (RFC 1951 §3.2.3).
fn block(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize) -> Result<(), Malformed> {
    let _last = bits.take(1)?;
    match bits.take(2)? {
        0 => stored(bits, out, limit),
        1 => {
            let (literals, distances) = fixed();
            compressed(bits, out, &literals, &distances, limit)
        }
        2 => {
            let (literals, distances) = dynamic(bits)?;
            compressed(bits, out, &literals, &distances, limit)
        }
        _ => Err(Malformed::Compression),
    }
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize) -> Result<(), Malformed> {
    bits.align();
    let (head, rest) = bits.bytes.split_first_chunk::<4>().ok_or(Malformed::Compression)?;
    let (length, complement) = (u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]]));
    let length = usize::from(length);
    if usize::from(!complement) != length || rest.len() < length || out.len() + length > limit {
        return Err(Malformed::Compression);
    }
    out.extend_from_slice(&rest[..length]);
    bits.bytes = &rest[length..];
    Ok(())
}

fn compressed(
    bits: &mut Bits<'_>,
    out: &mut Vec<u8>,
    literals: &Code,
    distances: &Code,
    limit: usize,
) -> Result<(), Malformed> {
    /// Base and extra bits of match lengths and distances (RFC 1951 §3.2.5).
    const LENGTHS: [(u16, u8); 29] = [
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 0),
        (7, 0),
        (8, 0),
        (9, 0),
        (10, 0),
        (11, 1),
        (13, 1),
        (15, 1),
        (17, 1),
        (19, 2),
        (23, 2),
        (27, 2),
        (31, 2),
        (35, 3),
        (43, 3),
        (51, 3),
        (59, 3),
        (67, 4),
        (83, 4),
        (99, 4),
        (115, 4),
        (131, 5),
        (163, 5),
        (195, 5),
        (227, 5),
        (258, 0),
    ];
    const DISTANCES: [(u16, u8); 30] = [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 1),
        (7, 1),
        (9, 2),
        (13, 2),
        (17, 3),
        (25, 3),
        (33, 4),
        (49, 4),
        (65, 5),
        (97, 5),
        (129, 6),
        (193, 6),
        (257, 7),
        (385, 7),
        (513, 8),
        (769, 8),
        (1025, 9),
        (1537, 9),
        (2049, 10),
        (3073, 10),
        (4097, 11),
        (6145, 11),
        (8193, 12),
        (12289, 12),
        (16385, 13),
        (24577, 13),
    ];
    let number = |bits: &mut Bits<'_>, table: &[(u16, u8)], index: usize| -> Result<usize, Malformed> {
        let (base, extra) = table.get(index).ok_or(Malformed::Compression)?;
        Ok(usize::from(*base) + bits.take(u32::from(*extra))? as usize)
    };
    loop {
        match literals.next(bits)? {
            literal @ 0..=255 => out.push(literal as u8),
            256 => return Ok(()),
            symbol => {
                let length = number(bits, &LENGTHS, usize::from(symbol) - 257)?;
                let symbol = distances.next(bits)?;
                let distance = number(bits, &DISTANCES, usize::from(symbol))?;
                let start = out.len().checked_sub(distance).ok_or(Malformed::Compression)?;
                if out.len() + length > limit {
                    return Err(Malformed::Compression);
                }
                // Copies may overlap what they write, so bytes go one at a time.
                for index in start..start + length {
                    out.push(out[index]);
                }
            }
        }
        if out.len() > limit {
            return Err(Malformed::Compression);
        }
    }
}

/// A canonical Huffman code: how many codes there are of each length, and their symbols in order.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        for length in lengths.iter().filter(|length| **length > 0) {
            counts[usize::from(*length & 15)] += 1;
        }
        let mut symbols: Vec<u16> =
            (0..lengths.len() as u16).filter(|symbol| lengths[usize::from(*symbol)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Self { counts, symbols }
    }

    fn next(&self, bits: &mut Bits<'_>) -> Result<u16, Malformed> {
        let (mut code, mut first, mut index) = (0u32, 0u32, 0u32);
        for count in &self.counts[1..] {
            let count = u32::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                let symbol = self.symbols.get((index + code - first) as usize);
                return symbol.copied().ok_or(Malformed::Compression);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Malformed::Compression)
    }
}

/// The codes of a block that brings none (RFC 1951 §3.2.6).
fn fixed() -> (Code, Code) {
    let lengths: Vec<u8> = (0..288u16)
        .map(|symbol| match symbol {
            0..=143 => 8,
            144..=255 => 9,
            256..=279 => 7,
            _ => 8,
        })
        .collect();
    (Code::new(&lengths), Code::new(&[5; 30]))
}

/// Reads the codes of a block that brings its own (RFC 1951 §3.2.7).
fn dynamic(bits: &mut Bits<'_>) -> Result<(Code, Code), Malformed> {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let literals = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    let mut meta = [0; 19];
    let given = bits.take(4)? as usize + 4;
    for position in &ORDER[..given] {
        meta[*position] = bits.take(3)? as u8;
    }
    let meta = Code::new(&meta);
    let mut lengths: Vec<u8> = Vec::with_capacity(literals + distances);
    while lengths.len() < literals + distances {
        let (value, times) = match meta.next(bits)? {
            length @ 0..=15 => (length as u8, 1),
            16 => (*lengths.last().ok_or(Malformed::Compression)?, bits.take(2)? + 3),
            17 => (0, bits.take(3)? + 3),
            _ => (0, bits.take(7)? + 11),
        };
        lengths.extend(std::iter::repeat_n(value, times as usize));
    }
    if lengths.len() > literals + distances {
        return Err(Malformed::Compression);
    }
    Ok((Code::new(&lengths[..literals]), Code::new(&lengths[literals..])))
}
