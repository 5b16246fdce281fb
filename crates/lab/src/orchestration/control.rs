//! What can be asked of a running lab beside Kubernetes: faults, and looking at the wire.
//!
//! One request per connection to `control.sock` in the lab's directory: a JSON line each way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The socket's name in the lab's directory.
pub const SOCKET: &str = "control.sock";

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Ends a cluster's API server at once. Its pods go on.
    KillApi {
        /// The cluster.
        cluster: String,
    },
    /// Stops (`hold`) a cluster's API server in its tracks, or lets it go on.
    HoldApi {
        /// The cluster.
        cluster: String,
        /// Stop it, or let it go on.
        hold: bool,
    },
    /// Ends every process of the pods of a node at once; the node agent does not report it and starts nothing there.
    KillNode {
        /// The cluster.
        cluster: String,
        /// The node.
        node: String,
    },
    /// Lets a killed node come back.
    ReviveNode {
        /// The cluster.
        cluster: String,
        /// The node.
        node: String,
    },
    /// Begins a handshake with a gateway from the wire between clusters.
    Reach {
        /// The gateway.
        gateway: SocketAddrV4,
        /// The server name.
        server_name: String,
    },
    /// Reads what passes between clusters.
    Capture {
        /// For how long.
        milliseconds: u64,
        /// Of which cluster's link alone; all if absent.
        cluster: Option<String>,
        /// A file that the frames are written to, in the pcap format. Absolute.
        write: Option<PathBuf>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// It was done.
    Done,
    /// It was not done, and why.
    Failed(String),
    /// What passed between clusters.
    Captured(Capture),
}

/// What passed between clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Frames with TCP payload that were seen.
    pub frames: u64,
    /// Server names asked for in ClientHellos, with how often.
    pub server_names: std::collections::BTreeMap<String, u64>,
    /// ClientHellos without a server name.
    pub hellos_without_name: u64,
    /// Payloads that are no TLS record and do not continue one: port, and the first bytes as text.
    pub plaintext: Vec<String>,
}

/// The lab could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No connection, or it broke.
    #[error("the lab does not answer on {path}: {source}", path = .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The lab refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks the lab in `directory`.
///
/// # Errors
/// When it does not answer or refuses.
pub fn ask(directory: &Path, request: &Request) -> Result<Reply, ControlError> {
    let path = directory.join(SOCKET);
    let asked = (|| {
        let mut stream = UnixStream::connect(&path)?;
        let patience = match request {
            Request::Capture { milliseconds, .. } => Duration::from_millis(*milliseconds),
            _ => Duration::ZERO,
        };
        stream.set_read_timeout(Some(patience + Duration::from_secs(10)))?;
        serde_json::to_writer(&mut stream, request)?;
        stream.write_all(b"\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(std::io::Error::from)
    })();
    match asked {
        Ok(Reply::Failed(why)) => Err(ControlError::Refused(why)),
        Ok(reply) => Ok(reply),
        Err(source) => Err(ControlError::Io { path, source }),
    }
}

/// A file of frames, as `tcpdump -r` and Wireshark read it (<https://www.tcpdump.org/manpages/pcap-savefile.5.html>).
#[derive(Debug)]
pub struct FrameFile {
    file: std::io::BufWriter<std::fs::File>,
}

impl FrameFile {
    /// Makes the file, in place of one that is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        // Magic number of microsecond stamps, version 2.4, two unused words, longest frame, Ethernet.
        for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 1 << 16, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { file })
    }

    /// Adds a frame that was seen now.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn add(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_micros(), length, length] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)
    }

    /// Puts everything on disk.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Capture {
    /// Takes in one frame. `ports` are those of the lab's API servers, whose TLS is not the mesh's and is left out.
    pub fn take_in(&mut self, frame: &[u8], ignored_ports: &[u16]) {
        let Some((from, to, payload)) = net::capture::tcp_payload(frame) else { return };
        if ignored_ports.contains(&from) || ignored_ports.contains(&to) {
            return;
        }
        self.frames += 1;
        if let Some(text) = plain_text(payload)
            && self.plaintext.len() < 100
        {
            self.plaintext.push(format!("{from} -> {to}: {text}"));
        }
        if is_client_hello(payload) {
            match server_name(payload) {
                Some(name) => *self.server_names.entry(name).or_default() += 1,
                None => self.hellos_without_name += 1,
            }
        }
    }
}

/// The beginning of a payload that people could read: what encrypted bytes are not, but for a chance of one in billions.
fn plain_text(payload: &[u8]) -> Option<String> {
    let start = payload.get(..payload.len().min(24)).filter(|start| start.len() >= 8)?;
    let readable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\r' | b'\n' | b'\t');
    start.iter().all(readable).then(|| String::from_utf8_lossy(start).trim().to_owned())
}

fn is_client_hello(payload: &[u8]) -> bool {
    matches!(payload, [22, 3, _, _, _, 1, ..])
}

/// The server name of a ClientHello, as far as the first segment holds it (RFC 8446 §4.1.2, RFC 6066 §3).
fn server_name(payload: &[u8]) -> Option<String> {
    let mut rest = Bytes(payload.get(9..)?);
    rest.skip(2 + 32)?;
    let session = rest.number(1)?;
    rest.skip(session)?;
    let suites = rest.number(2)?;
    rest.skip(suites)?;
    let compressions = rest.number(1)?;
    rest.skip(compressions)?;
    rest.number(2)?;
    loop {
        let kind = rest.number(2)?;
        let length = rest.number(2)?;
        if kind == 0 {
            rest.skip(3)?;
            let length = rest.number(2)?;
            let name = rest.0.get(..length)?;
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        rest.skip(length)?;
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let value = self.0.get(..bytes)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
        self.skip(bytes)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with IPv4 and TCP around `payload`.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(40 + payload.len()).expect("short").to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 203, 0, 113, 1, 203, 0, 113, 20]);
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend(15443_u16.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn hello(name: &str) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let config = rustls::ClientConfig::builder_with_provider(identity::provider().clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = name.to_owned().try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(config.into(), server).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    }

    #[test]
    fn hellos_and_plaintext_are_told_apart() {
        let name = "outbound_.9080_._.ratings.default.svc.cluster.local";
        let mut capture = Capture::default();
        capture.take_in(&frame(&hello(name)), &[]);
        capture.take_in(&frame(b"GET / HTTP/1.1\r\nHost: ratings\r\n\r\n"), &[]);
        capture.take_in(&frame(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]), &[]);
        capture.take_in(&frame(b""), &[]);
        capture.take_in(&frame(b"GET / HTTP/1.1\r\n"), &[15443]);
        assert_eq!(capture.frames, 3);
        assert_eq!(capture.server_names.get(name), Some(&1));
        assert_eq!(capture.plaintext, ["40000 -> 15443: GET / HTTP/1.1\r\nHost: ra"]);
    }

    #[test]
    fn frames_are_filed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("some.pcap");
        let mut file = FrameFile::create(&path).expect("a file");
        file.add(&frame(b"hello")).expect("written");
        file.finish().expect("written");
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(bytes.len(), 24 + 16 + frame(b"hello").len());
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        assert!(bytes.ends_with(b"hello"));
    }

    #[test]
    fn broken_hellos_have_no_name() {
        let whole = hello("a.test");
        for end in 0..whole.len() {
            let mut capture = Capture::default();
            capture.take_in(&frame(&whole[..end]), &[]);
            assert!(capture.plaintext.is_empty());
        }
    }
}
