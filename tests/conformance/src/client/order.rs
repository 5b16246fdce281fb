//! What a client is to send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::case::{ClientTls, Protocol};

/// Requests to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The `Host`.
    pub host: String,
    /// The path with the query.
    pub path: String,
    /// The headers. `{n}` stands for the number of a repetition.
    pub headers: BTreeMap<String, String>,
    /// Headers that follow those of the same name.
    pub repeated: BTreeMap<String, String>,
    /// Whether the head is sent as it is written.
    pub raw: bool,
    /// The body.
    pub body: String,
    /// The server name of TLS.
    pub sni: Option<String>,
    /// TLS of requests and lines.
    #[serde(default)]
    pub tls: Option<ClientTls>,
    /// The directory of certificates.
    #[serde(default)]
    pub directory: PathBuf,
    /// Whether a header of the PROXY protocol is sent first.
    #[serde(default)]
    pub proxied: bool,
    /// The name of the case and the request, without the number of the repetition.
    pub id: String,
    /// How often it is sent.
    pub times: u32,
    /// Whether repetitions are sent at the same time.
    pub concurrent: bool,
    /// Whether each repetition has a connection of its own.
    pub reconnect: bool,
    /// Whether cookies are kept.
    pub cookies: bool,
}

impl Order {
    /// A `GET /` without headers.
    pub fn get(address: SocketAddr, host: &str, id: &str) -> Self {
        Self {
            address,
            protocol: Protocol::Http1,
            method: "GET".to_owned(),
            host: host.to_owned(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            repeated: BTreeMap::new(),
            raw: false,
            body: String::new(),
            sni: None,
            tls: None,
            directory: PathBuf::new(),
            proxied: false,
            id: id.to_owned(),
            times: 1,
            concurrent: false,
            reconnect: false,
            cookies: false,
        }
    }
}
