//! The ClientHello parser. It reads only the framing of records and handshake messages, the server name and the
//! application protocols.

use std::borrow::Cow;

/// RFC 8446 §5.1: a plaintext record carries at most 2^14 bytes.
const MAX_RECORD: usize = 1 << 14;
/// The maximum length of a DNS name (RFC 1035 §2.3.4).
const MAX_SERVER_NAME: usize = 255;

const RECORD_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

/// The server name and the application protocols of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloNames {
    /// The server name, in lower case and without a trailing dot.
    pub server_name: Option<String>,
    /// The offered application protocols.
    pub alpn: Vec<Vec<u8>>,
}

/// The result of parsing a prefix of a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloProgress {
    /// The ClientHello is complete.
    Done(HelloNames),
    /// The ClientHello is incomplete. The total number of bytes that the next attempt needs at least.
    Needs(usize),
}

/// Why bytes are not the beginning of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not a TLS handshake record.
    #[error("not TLS")]
    NotTls,
    /// A record is empty or longer than TLS permits.
    #[error("a record has an invalid length")]
    Record,
    /// The handshake message is of another type.
    #[error("the first handshake message is not a ClientHello")]
    Message,
    /// The length of a field exceeds the message.
    #[error("a field exceeds the message")]
    Field,
    /// An extension occurs twice.
    #[error("an extension occurs twice")]
    Duplicate,
    /// The server name is not a host name.
    #[error("the server name is not a host name of at most 255 bytes")]
    ServerName,
}

/// Parses the bytes that have arrived. Never panics.
///
/// # Errors
/// Returns an error if the bytes cannot be the beginning of a ClientHello, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<HelloProgress, Malformed> {
    match handshake_message(bytes)? {
        Ok(message) => client_hello(&message).map(HelloProgress::Done),
        Err(needed) => Ok(HelloProgress::Needs(needed)),
    }
}

/// Assembles the body of the first handshake message from its records. The inner error is the total number of bytes
/// needed.
fn handshake_message(bytes: &[u8]) -> Result<Result<Cow<'_, [u8]>, usize>, Malformed> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    loop {
        let header = &bytes[at..bytes.len().min(at + 5)];
        // Other protocols are refused by their first bytes, before their bytes are taken for a length.
        if header.first().is_some_and(|kind| *kind != RECORD_HANDSHAKE) || header.get(1).is_some_and(|v| *v != 3) {
            return Err(Malformed::NotTls);
        }
        let &[_, _, _, high, low] = header else { return Ok(Err(at + 5)) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Err(Malformed::Record);
        }
        let fragment = &bytes[at + 5..bytes.len().min(at + 5 + length)];
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        if message.first().is_some_and(|kind| *kind != MESSAGE_CLIENT_HELLO) {
            return Err(Malformed::Message);
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let body = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if message.len() >= 4 + body {
                return Ok(Ok(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[4..4 + body]),
                    Cow::Owned(mut message) => {
                        message.truncate(4 + body);
                        message.drain(..4);
                        Cow::Owned(message)
                    }
                }));
            }
            if fragment.len() < length {
                let missing = 4 + body - message.len();
                // The rest of this record, and a further header if the message continues in another record.
                let rest = length - fragment.len();
                return Ok(Err(bytes.len() + if missing <= rest { missing } else { missing + 5 }));
            }
        } else if fragment.len() < length {
            return Ok(Err(bytes.len() + (4 - message.len()).min(length - fragment.len())));
        }
        at += 5 + length;
    }
}

fn client_hello(body: &[u8]) -> Result<HelloNames, Malformed> {
    let mut body = FieldReader(body);
    body.take(2 + 32)?; // legacy_version, random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    let mut names = HelloNames::default();
    if body.0.is_empty() {
        return Ok(names); // TLS 1.2 without extensions
    }
    let mut extensions = FieldReader(body.vector16()?);
    let (mut seen_name, mut seen_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let value = extensions.vector16()?;
        match kind {
            EXTENSION_SERVER_NAME => {
                if std::mem::replace(&mut seen_name, true) {
                    return Err(Malformed::Duplicate);
                }
                names.server_name = server_name(value)?;
            }
            EXTENSION_ALPN => {
                if std::mem::replace(&mut seen_alpn, true) {
                    return Err(Malformed::Duplicate);
                }
                names.alpn = protocols(value)?;
            }
            _ => {}
        }
    }
    Ok(names)
}

fn server_name(value: &[u8]) -> Result<Option<String>, Malformed> {
    let mut value = FieldReader(value);
    let mut list = FieldReader(value.vector16()?);
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == NAME_TYPE_HOST {
            if found.is_some() {
                return Err(Malformed::Duplicate);
            }
            found = Some(host_name(name)?);
        }
    }
    Ok(found)
}

/// Normalises a host name to lower case without a trailing dot, as host names are compared.
fn host_name(name: &[u8]) -> Result<String, Malformed> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_SERVER_NAME || !name.iter().all(valid) {
        return Err(Malformed::ServerName);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

fn protocols(value: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut value = FieldReader(value);
    let mut list = FieldReader(value.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?;
        if protocol.is_empty() {
            return Err(Malformed::Field);
        }
        protocols.push(protocol.to_vec());
    }
    Ok(protocols)
}

/// A cursor over bytes. Reading beyond the end is an error.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Field)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
