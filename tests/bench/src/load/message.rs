//! A minimal parser of HTTP/1.1 (RFC 9112): it finds the end of a message, its status or path, and whether the connection closes.
//! It keeps no headers, and copies a head only if it arrives in several reads.

/// The defect of a message.
pub type Malformed = &'static str;

/// The limit on the length of a head.
const MAX_HEAD: usize = 64 * 1024;

/// The kind of messages to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Requests.
    Requests,
    /// Responses.
    Responses,
}

/// The parsed head of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageHead {
    /// The status of a response; the N of a request for `/bytes/N`, 0 for any other path.
    pub number: usize,
    /// Whether this is the last message on its connection.
    pub close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Head,
    /// In a body of known length, with the number of missing bytes.
    Sized(u64),
    /// In the line of a chunk's size, with the number so far.
    ChunkSize(u64),
    /// After the number in that line.
    ChunkExtension(u64),
    /// In a chunk, with the number of missing bytes, including the line end after the chunk.
    Chunk(u64),
    /// In the lines after the last chunk; whether the present line has any byte.
    Trailers(bool),
    /// In a body that ends with its connection.
    UntilClose,
    Done,
}

/// A parser of successive messages.
#[derive(Debug)]
pub struct Reader {
    reads: Reads,
    state: ReadState,
    /// The received part of an incomplete head.
    part: Vec<u8>,
    head: MessageHead,
    body: u64,
}

impl Reader {
    /// A parser of this kind of messages.
    pub fn new(reads: Reads) -> Self {
        Self { reads, state: ReadState::Head, part: Vec::new(), head: MessageHead::default(), body: 0 }
    }

    /// Begins the next message.
    pub fn next(&mut self) {
        self.state = ReadState::Head;
        self.part.clear();
        self.body = 0;
    }

    /// Returns whether the present message is complete.
    pub fn is_done(&self) -> bool {
        self.state == ReadState::Done
    }

    /// The head of the present message, once it is complete.
    pub fn head(&self) -> MessageHead {
        self.head
    }

    /// The number of received bytes of the present body.
    pub fn body(&self) -> u64 {
        self.body
    }

    /// The number of missing bytes of a body of known length; 0 for any other body.
    pub fn missing(&self) -> u64 {
        if let ReadState::Sized(missing) = self.state { missing } else { 0 }
    }

    /// Records that `length` bytes of [`Reader::missing`] were received and discarded.
    pub fn skip(&mut self, length: u64) {
        if let ReadState::Sized(missing) = self.state {
            self.body += length;
            self.state = sized(missing.saturating_sub(length));
        }
    }

    /// Records the end of the connection. Returns whether it completes the message.
    pub fn end(&mut self) -> bool {
        if self.state == ReadState::UntilClose {
            self.state = ReadState::Done;
        }
        self.is_done()
    }

    /// Parses received bytes up to the message's end. Returns the number of parsed bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != ReadState::Done {
            at += self.step(&bytes[at..])?;
        }
        Ok(at)
    }

    /// Parses at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let first = bytes[0];
        let (taken, state) = match self.state {
            ReadState::Head => return self.feed_head(bytes),
            ReadState::Sized(missing) => {
                let taken = at_most(missing, bytes.len());
                self.body += taken as u64;
                (taken, sized(missing - taken as u64))
            }
            ReadState::ChunkSize(size) => match char::from(first).to_digit(16) {
                Some(_) if size >= 1 << 40 => return Err("a chunk is too long"),
                Some(digit) => (1, ReadState::ChunkSize(size * 16 + u64::from(digit))),
                None => (1, after_size(size, first)),
            },
            ReadState::ChunkExtension(size) => (1, after_size(size, first)),
            ReadState::Chunk(missing) => {
                let taken = at_most(missing, bytes.len());
                let left = missing - taken as u64;
                // The last two bytes are the line end and not part of the body.
                self.body += missing.saturating_sub(2) - left.saturating_sub(2);
                (taken, if left == 0 { ReadState::ChunkSize(0) } else { ReadState::Chunk(left) })
            }
            ReadState::Trailers(any) => match first {
                b'\n' if !any => (1, ReadState::Done),
                b'\n' => (1, ReadState::Trailers(false)),
                b'\r' => (1, ReadState::Trailers(any)),
                _ => (1, ReadState::Trailers(true)),
            },
            ReadState::UntilClose => {
                self.body += bytes.len() as u64;
                (bytes.len(), ReadState::UntilClose)
            }
            ReadState::Done => (0, ReadState::Done),
        };
        self.state = state;
        Ok(taken)
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        if self.part.is_empty() {
            if let Some(end) = end_of_head(bytes) {
                self.begin_body(&bytes[..end])?;
                return Ok(end);
            }
            self.part.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let before = self.part.len();
        self.part.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let Some(end) = end_of_head(&self.part[from..]) else {
            return if self.part.len() > MAX_HEAD { Err("a head is too long") } else { Ok(bytes.len()) };
        };
        let part = std::mem::take(&mut self.part);
        self.begin_body(&part[..from + end])?;
        Ok(from + end - before)
    }

    fn begin_body(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().unwrap_or_default();
        let number = match self.reads {
            Reads::Responses => status(first).ok_or("no status line")?,
            Reads::Requests => wanted(first).ok_or("no request line")?,
        };
        let (mut length, mut chunked, mut close) = (None, false, false);
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            // The length is compared first, because most headers do not matter.
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    length = Some(decimal(value).ok_or("content-length is not a number")? as u64);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    chunked = value.eq_ignore_ascii_case(b"chunked")
                }
                10 if name.eq_ignore_ascii_case(b"connection") => close = value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        self.state = match (chunked, length, self.reads) {
            (_, _, Reads::Responses) if matches!(number, 204 | 304) => ReadState::Done,
            (true, ..) => ReadState::ChunkSize(0),
            (false, Some(length), _) => sized(length),
            (false, None, Reads::Requests) => ReadState::Done,
            (false, None, Reads::Responses) => ReadState::UntilClose,
        };
        self.head = MessageHead { number, close: close || self.state == ReadState::UntilClose };
        Ok(())
    }
}

fn at_most(missing: u64, arrived: usize) -> usize {
    usize::try_from(missing).unwrap_or(usize::MAX).min(arrived)
}

fn sized(missing: u64) -> ReadState {
    if missing == 0 { ReadState::Done } else { ReadState::Sized(missing) }
}

fn after_size(size: u64, byte: u8) -> ReadState {
    match byte {
        b'\n' if size == 0 => ReadState::Trailers(false),
        b'\n' => ReadState::Chunk(size + 2),
        _ => ReadState::ChunkExtension(size),
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The number in `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<usize> {
    line.strip_prefix(b"HTTP/1.").and_then(|line| decimal(line.get(2..5)?))
}

/// The number in `GET /bytes/1024 HTTP/1.1`; 0 for any other path.
fn wanted(line: &[u8]) -> Option<usize> {
    let mut words = line.split(|byte| *byte == b' ');
    let (_method, path, version) = (words.next()?, words.next()?, words.next()?);
    version.starts_with(b"HTTP/1.").then(|| number_in(path))
}

/// The number in `/bytes/1024`; 0 for any other path.
pub fn number_in(path: &[u8]) -> usize {
    path.strip_prefix(b"/bytes/").and_then(decimal).unwrap_or(0)
}

fn decimal(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{MessageHead, Reader, Reads};

    /// Parses a message in one piece and byte by byte, and compares the results.
    fn read(reads: Reads, message: &[u8]) -> (usize, MessageHead, u64, bool) {
        let mut whole = Reader::new(reads);
        let taken = whole.feed(message).unwrap();
        let mut pieces = Reader::new(reads);
        let sum: usize = message.iter().map(|byte| pieces.feed(&[*byte]).unwrap()).sum();
        let of = |reader: &Reader| (reader.head(), reader.body(), reader.is_done());
        assert_eq!((taken, of(&whole)), (sum, of(&pieces)), "{}", message.escape_ascii());
        (taken, whole.head(), whole.body(), whole.is_done())
    }

    #[test]
    fn responses() {
        let ok = MessageHead { number: 200, close: false };
        let message = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1";
        assert_eq!(read(Reads::Responses, message), (message.len() - 8, ok, 5, true));
        let message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        assert_eq!(read(Reads::Responses, message), (message.len(), ok, 31, true));
        let message = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n";
        assert_eq!(read(Reads::Responses, message), (message.len(), ok, 0, true));
        let message = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nno";
        assert_eq!(
            read(Reads::Responses, message),
            (message.len(), MessageHead { number: 503, close: true }, 2, false)
        );
        let message = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(
            read(Reads::Responses, message),
            (message.len(), MessageHead { number: 204, close: false }, 0, true)
        );
    }

    #[test]
    fn requests() {
        let message = b"GET /bytes/1024 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert_eq!(read(Reads::Requests, message), (message.len(), MessageHead { number: 1024, close: true }, 0, true));
        let message = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(read(Reads::Requests, message), (message.len(), MessageHead { number: 0, close: false }, 3, true));
    }

    #[test]
    fn what_is_no_http_is_refused() {
        assert!(Reader::new(Reads::Responses).feed(b"220 mail\r\n\r\n").is_err());
        assert!(Reader::new(Reads::Requests).feed(b"hello\r\n\r\n").is_err());
    }
}
