//! Requests to a running lab beside Kubernetes: faults and captures.
//!
//! Each connection to `control.sock` in the lab's directory carries one request and one reply, each a line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use install::client_error;
use serde::{Deserialize, Serialize};

/// Name of the socket in the lab's directory.
pub const SOCKET: &str = "control.sock";
/// How long a lab may take to answer, beside the length of a capture.
const ANSWER: Duration = Duration::from_secs(10);

/// A request to a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlRequest {
    /// Kills a cluster's API server. Its pods keep running.
    KillApi {
        /// Name of the cluster.
        cluster: String,
    },
    /// Starts a cluster's API server again that was killed, with its objects.
    ReviveApi {
        /// Name of the cluster.
        cluster: String,
    },
    /// Suspends (`hold`) or resumes a cluster's API server.
    HoldApi {
        /// Name of the cluster.
        cluster: String,
        /// Whether to suspend it.
        hold: bool,
    },
    /// Kills every process of a node's pods. The node agent reports nothing and starts nothing on the node.
    KillNode {
        /// Name of the cluster.
        cluster: String,
        /// Name of the node.
        node: String,
    },
    /// Revives a killed node.
    ReviveNode {
        /// Name of the cluster.
        cluster: String,
        /// Name of the node.
        node: String,
    },
    /// Drops the packets of a cluster's connections to another cluster (`cut`), or lets them pass again.
    Cut {
        /// Name of the cluster that the connections come from.
        from: String,
        /// Name of the cluster that they go to.
        to: String,
        /// Which of them; `None` for all.
        only: Option<CutPath>,
        /// Whether to drop them.
        cut: bool,
    },
    /// Begins a TLS handshake with a gateway from the bridge between clusters.
    Reach {
        /// Address of the gateway.
        gateway: SocketAddr,
        /// Server name of the handshake.
        server_name: String,
    },
    /// Captures the traffic between clusters.
    Capture {
        /// Length of the capture.
        milliseconds: u64,
        /// Name of the cluster whose link to capture; `None` captures all links.
        cluster: Option<String>,
        /// Absolute path of a file to write the frames to, in the pcap format.
        write: Option<PathBuf>,
    },
}

/// The connections from one cluster to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum CutPath {
    /// To its API server
    Api,
    /// To its east-west gateway
    Data,
}

/// A reply of a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlReply {
    /// The request succeeded.
    Done,
    /// The request failed, with the reason.
    Failed(String),
    /// A summary of the captured traffic.
    Captured(CaptureSummary),
}

/// What passed between clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureSummary {
    /// Number of frames with TCP payload.
    pub frames: u64,
    /// Number of ClientHellos by server name.
    pub server_names: std::collections::BTreeMap<String, u64>,
    /// Number of ClientHellos without a server name.
    pub hellos_without_name: u64,
    /// Payloads in plain text: ports, and the first bytes.
    pub plaintext: Vec<String>,
}

/// A request to a lab failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The lab does not answer.
    #[error("the lab does not answer on {path}: {}\n  check that it runs: isthmus lab status", client_error::system(.source), path = .path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The lab answers nothing.
    #[error("the lab does not answer within {0:?}\n  check that it runs: isthmus lab status")]
    NoAnswer(Duration),
    /// The lab's answer cannot be understood.
    #[error(
        "the lab's answer has another form, or none: the lab has just ended, or it and this command differ in version\n  check that it runs: isthmus lab status"
    )]
    Unreadable,
    /// The lab refused the request, with the reason.
    #[error("{0}")]
    Refused(String),
}

/// Sends a request to the lab in `directory` and returns the reply.
///
/// # Errors
/// Returns an error if the lab does not answer or refuses the request.
pub fn send(directory: &Path, request: &ControlRequest) -> Result<ControlReply, ControlError> {
    let path = directory.join(SOCKET);
    let limit = match request {
        ControlRequest::Capture { milliseconds, .. } => ANSWER + Duration::from_millis(*milliseconds),
        _ => ANSWER,
    };
    let line = exchange(&path, request, limit).map_err(|source| match source.kind() {
        // The kernel's answer to a read that has timed out.
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => ControlError::NoAnswer(limit),
        _ => ControlError::Io { path, source },
    })?;
    match serde_json::from_str(&line).map_err(|_| ControlError::Unreadable)? {
        ControlReply::Failed(why) => Err(ControlError::Refused(why)),
        reply => Ok(reply),
    }
}

/// Sends a request, and returns the line of the answer.
fn exchange(path: &Path, request: &ControlRequest, limit: Duration) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    serde_json::to_writer(&mut stream, request)?;
    stream.write_all(b"\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// A pcap file of frames, for `tcpdump -r` and Wireshark (<https://www.tcpdump.org/manpages/pcap-savefile.5.html>).
#[derive(Debug)]
pub struct FrameFile {
    file: std::io::BufWriter<std::fs::File>,
}

impl FrameFile {
    /// Creates the file, or truncates it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        // Magic number of microsecond timestamps, version 2.4, two unused words, longest frame, Ethernet.
        for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 1 << 16, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { file })
    }

    /// Adds a frame with the current time.
    ///
    /// # Errors
    /// Returns an error if the disk is full.
    pub fn add(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_micros(), length, length] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)
    }

    /// Flushes the file.
    ///
    /// # Errors
    /// Returns an error if the disk is full.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl CaptureSummary {
    /// Adds one frame to the summary. Frames of `ignored_ports` are skipped: those of the lab's API servers, whose TLS
    /// is not the mesh's.
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

/// The first bytes of a payload if all of them are readable. For encrypted bytes the probability of that is below one
/// in billions.
fn plain_text(payload: &[u8]) -> Option<String> {
    let start = payload.get(..payload.len().min(24)).filter(|start| start.len() >= 8)?;
    let readable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\r' | b'\n' | b'\t');
    start.iter().all(readable).then(|| String::from_utf8_lossy(start).trim().to_owned())
}

fn is_client_hello(payload: &[u8]) -> bool {
    matches!(payload, [22, 3, _, _, _, 1, ..])
}

/// The server name of a ClientHello, if its first segment contains it (RFC 8446 §4.1.2, RFC 6066 §3).
fn server_name(payload: &[u8]) -> Option<String> {
    let mut rest = HelloReader(payload.get(9..)?);
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

struct HelloReader<'a>(&'a [u8]);

impl HelloReader<'_> {
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

    /// An Ethernet frame with IPv4, TCP and `payload`.
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

    /// An Ethernet frame with IPv6, TCP and `payload`.
    fn frame6(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(20 + payload.len()).expect("short").to_be_bytes());
        frame.extend([6, 64]);
        for host in ["2001:db8:113::1", "2001:db8:113::20"] {
            frame.extend(host.parse::<std::net::Ipv6Addr>().expect("an address").octets());
        }
        frame.extend(&self::frame(payload)[34..]);
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
    fn hellos_and_plaintext_are_distinguished() {
        let name = "outbound_.9080_._.ratings.default.svc.cluster.local";
        let mut capture = CaptureSummary::default();
        capture.take_in(&frame(&hello(name)), &[]);
        capture.take_in(&frame6(&hello(name)), &[]);
        capture.take_in(&frame(b"GET / HTTP/1.1\r\nHost: ratings\r\n\r\n"), &[]);
        capture.take_in(&frame6(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n"), &[]);
        capture.take_in(&frame(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]), &[]);
        capture.take_in(&frame(b""), &[]);
        capture.take_in(&frame(b"GET / HTTP/1.1\r\n"), &[15443]);
        assert_eq!(capture.frames, 5);
        assert_eq!(capture.server_names.get(name), Some(&2));
        assert_eq!(
            capture.plaintext,
            ["40000 -> 15443: GET / HTTP/1.1\r\nHost: ra", "40000 -> 15443: GET / HTTP/1.1\r\nHost: re"]
        );
    }

    #[test]
    fn frames_are_written_as_pcap() {
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
            let mut capture = CaptureSummary::default();
            capture.take_in(&frame(&whole[..end]), &[]);
            assert!(capture.plaintext.is_empty());
        }
    }
}
