//! Requests of cases, and their tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The protocol of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC: an empty call.
    Grpc,
    /// A line, answered by a line.
    Tcp,
    /// A line in TLS.
    Tls,
}

/// How the outcomes of a repeated request are summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    /// The number of each status and version.
    #[default]
    Counts,
    /// The number of each status, and how many versions answered.
    Distinct,
}

/// A request, or several equal ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CaseRequest {
    /// The client's namespace and name.
    #[serde(default = "frontend")]
    pub from: String,
    /// The Service to connect to, as `NAME` or `NAME.NAMESPACE`: the case's by default.
    #[serde(default)]
    pub to: Option<String>,
    /// The port to connect to.
    #[serde(default = "http_port_number")]
    pub port: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The `Host`: the Service by default, with a port other than 80. `ADDRESS` in it stands for the Service's address.
    #[serde(default)]
    pub host: Option<String>,
    /// The path with a query.
    #[serde(default = "root")]
    pub path: String,
    /// The headers. `{n}` in a value stands for the number of a repetition.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers that are sent a second time, with another value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repeated: BTreeMap<String, String>,
    /// Whether the head of the request is sent as it is written, without a client that checks it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// Whether the token of the request is at a place that no rule reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// What the server does, by attempt: see [`crate::server::script`].
    #[serde(default)]
    pub script: Option<String>,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// The server name of protocol `tls`.
    #[serde(default)]
    pub sni: Option<String>,
    /// TLS of the client, for requests and lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Whether the client sends a header of the PROXY protocol first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxied: bool,
    /// How often the request is sent.
    #[serde(default = "once")]
    pub times: u32,
    /// Whether repetitions are sent at the same time, each on a connection of its own.
    #[serde(default)]
    pub concurrent: bool,
    /// Whether each repetition has a connection of its own.
    #[serde(default)]
    pub reconnect: bool,
    /// Whether cookies that are received are sent with further repetitions.
    #[serde(default)]
    pub cookies: bool,
    /// Milliseconds to wait before the request.
    #[serde(default)]
    pub pause: u64,
    /// How repetitions are summed up.
    #[serde(default)]
    pub summary: Summary,
    /// The share of repetitions by which a count may differ.
    #[serde(default)]
    pub tolerance: f64,
}

/// How a client speaks TLS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientTls {
    /// The server name: the request's `sni` or its `Host` by default; an empty one is none.
    pub server_name: Option<String>,
    /// The name of the files of the client's certificate and key.
    pub certificate: Option<String>,
    /// The protocols that it offers; that of the request by default.
    pub alpn: Option<Vec<String>>,
    /// The only version that it speaks: `1.2` or `1.3`.
    pub version: Option<String>,
    /// The only cipher suite that it offers, by the name of IANA.
    pub cipher_suite: Option<String>,
}

/// A token of a case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CaseToken {
    /// The key that signs it: `rsa` by default.
    pub key: Option<String>,
    /// Members of its header beside `alg` and `kid`, or instead of them; those that are null are absent.
    pub header: Map<String, Value>,
    /// Claims beside `iss`, `sub` and `exp`, or instead of them; those that are null are absent. A text such as `now-90` is a time in
    /// seconds.
    pub claims: Map<String, Value>,
    /// Its signature, if it is not the key's.
    pub signature: Option<String>,
    /// The whole token, if it is none.
    pub text: Option<String>,
}

fn http_port_number() -> u16 {
    80
}

fn frontend() -> String {
    "shop/frontend".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn once() -> u32 {
    1
}
