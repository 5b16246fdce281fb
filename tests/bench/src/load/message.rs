//! Just enough of HTTP/1.1 (RFC 9112) to know where a message ends and what it says: it keeps no header and copies
//! nothing unless a head arrives in pieces.

/// What is wrong with a message.
pub type Malformed = &'static str;

/// The longest head that is read.
const MAX_HEAD: usize = 64 * 1024;

/// Which messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests.
    Server,
    /// Responses.
    Client,
}

/// What a head says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Of a response, its status; of a request for `/bytes/N`, that N, else 0.
    pub number: usize,
    /// Nothing follows this message on its connection.
    pub close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// A body of known length, of which this much is missing.
    Sized(u64),
    /// In the line of a chunk's size.
    ChunkSize(u64),
    /// Behind the number in that line.
    ChunkExtension(u64),
    /// In a chunk, of which this much is missing, counting the line end behind it.
    Chunk(u64),
    /// In the lines behind the last chunk; whether the line at hand has anything in it.
    Trailers(bool),
    /// A body that ends with its connection.
    UntilClose,
    Done,
}

/// Reads one message after another.
#[derive(Debug)]
pub struct Reader {
    side: Side,
    state: State,
    /// A head of which only part has arrived.
    part: Vec<u8>,
    head: Head,
    body: u64,
}

impl Reader {
    /// Of the messages that this side reads.
    pub fn new(side: Side) -> Self {
        Self { side, state: State::Head, part: Vec::new(), head: Head::default(), body: 0 }
    }

    /// Begins the next message.
    pub fn next(&mut self) {
        self.state = State::Head;
        self.part.clear();
        self.body = 0;
    }

    /// Whether the message at hand is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What its head says, once that is complete.
    pub fn head(&self) -> Head {
        self.head
    }

    /// How much of its body has arrived.
    pub fn body(&self) -> u64 {
        self.body
    }

    /// How much of a body of known length is missing.
    pub fn missing(&self) -> u64 {
        if let State::Sized(missing) = self.state { missing } else { 0 }
    }

    /// Notes that `length` of [`Reader::missing`] has arrived.
    pub fn skip(&mut self, length: u64) {
        if let State::Sized(missing) = self.state {
            self.body += length;
            self.state = sized(missing.saturating_sub(length));
        }
    }

    /// Notes the end of the connection. Returns whether that completes the message.
    pub fn end(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// Takes what has arrived, up to the message's end. Returns how much it took.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            at += self.step(&bytes[at..])?;
        }
        Ok(at)
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let first = bytes[0];
        let (taken, state) = match self.state {
            State::Head => return self.feed_head(bytes),
            State::Sized(missing) => {
                let taken = at_most(missing, bytes.len());
                self.body += taken as u64;
                (taken, sized(missing - taken as u64))
            }
            State::ChunkSize(size) => match char::from(first).to_digit(16) {
                Some(_) if size >= 1 << 40 => return Err("a chunk is too long"),
                Some(digit) => (1, State::ChunkSize(size * 16 + u64::from(digit))),
                None => (1, after_size(size, first)),
            },
            State::ChunkExtension(size) => (1, after_size(size, first)),
            State::Chunk(missing) => {
                let taken = at_most(missing, bytes.len());
                let left = missing - taken as u64;
                // The last two are the line end, not the body's.
                self.body += missing.saturating_sub(2) - left.saturating_sub(2);
                (taken, if left == 0 { State::ChunkSize(0) } else { State::Chunk(left) })
            }
            State::Trailers(any) => match first {
                b'\n' if !any => (1, State::Done),
                b'\n' => (1, State::Trailers(false)),
                b'\r' => (1, State::Trailers(any)),
                _ => (1, State::Trailers(true)),
            },
            State::UntilClose => {
                self.body += bytes.len() as u64;
                (bytes.len(), State::UntilClose)
            }
            State::Done => (0, State::Done),
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
        let number = match self.side {
            Side::Client => status(first).ok_or("no status line")?,
            Side::Server => wanted(first).ok_or("no request line")?,
        };
        let (mut length, mut chunked, mut close) = (None, false, false);
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            // By length first: most names are of no interest.
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    length = Some(decimal(value).ok_or("content-length is no number")? as u64);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    chunked = value.eq_ignore_ascii_case(b"chunked")
                }
                10 if name.eq_ignore_ascii_case(b"connection") => close = value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        self.state = match (chunked, length, self.side) {
            (_, _, Side::Client) if matches!(number, 204 | 304) => State::Done,
            (true, ..) => State::ChunkSize(0),
            (false, Some(length), _) => sized(length),
            (false, None, Side::Server) => State::Done,
            (false, None, Side::Client) => State::UntilClose,
        };
        self.head = Head { number, close: close || self.state == State::UntilClose };
        Ok(())
    }
}

fn at_most(missing: u64, arrived: usize) -> usize {
    usize::try_from(missing).unwrap_or(usize::MAX).min(arrived)
}

fn sized(missing: u64) -> State {
    if missing == 0 { State::Done } else { State::Sized(missing) }
}

fn after_size(size: u64, byte: u8) -> State {
    match byte {
        b'\n' if size == 0 => State::Trailers(false),
        b'\n' => State::Chunk(size + 2),
        _ => State::ChunkExtension(size),
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
    use super::{Head, Reader, Side};

    /// The same in one piece and byte by byte.
    fn read(side: Side, message: &[u8]) -> (usize, Head, u64, bool) {
        let mut whole = Reader::new(side);
        let taken = whole.feed(message).unwrap();
        let mut pieces = Reader::new(side);
        let sum: usize = message.iter().map(|byte| pieces.feed(&[*byte]).unwrap()).sum();
        let of = |reader: &Reader| (reader.head(), reader.body(), reader.is_done());
        assert_eq!((taken, of(&whole)), (sum, of(&pieces)), "{}", message.escape_ascii());
        (taken, whole.head(), whole.body(), whole.is_done())
    }

    #[test]
    fn responses() {
        let ok = Head { number: 200, close: false };
        let message = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1";
        assert_eq!(read(Side::Client, message), (message.len() - 8, ok, 5, true));
        let message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        assert_eq!(read(Side::Client, message), (message.len(), ok, 31, true));
        let message = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n";
        assert_eq!(read(Side::Client, message), (message.len(), ok, 0, true));
        let message = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nno";
        assert_eq!(read(Side::Client, message), (message.len(), Head { number: 503, close: true }, 2, false));
        let message = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(Side::Client, message), (message.len(), Head { number: 204, close: false }, 0, true));
    }

    #[test]
    fn requests() {
        let message = b"GET /bytes/1024 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert_eq!(read(Side::Server, message), (message.len(), Head { number: 1024, close: true }, 0, true));
        let message = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(read(Side::Server, message), (message.len(), Head { number: 0, close: false }, 3, true));
    }

    #[test]
    fn what_is_no_http_is_refused() {
        assert!(Reader::new(Side::Client).feed(b"220 mail\r\n\r\n").is_err());
        assert!(Reader::new(Side::Server).feed(b"hello\r\n\r\n").is_err());
    }
}
