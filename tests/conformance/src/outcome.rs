//! What came of a request, as it is recorded and compared.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A request that arrived at a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// The version that received it.
    pub version: String,
    /// Its method.
    pub method: String,
    /// Its `Host`.
    pub host: String,
    /// Its path with the query.
    pub path: String,
    /// The headers that the case observes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How the server was reached: `plaintext`, or `tls`, with the server name and whether there was a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The port of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What came of a request, or of all its repetitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outcome {
    /// Whether an object of the case is refused, so that nothing is sent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The status; 0 if there was no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no response; not recorded, since proxies and kernels differ in it.
    #[serde(skip)]
    pub error: Option<String>,
    /// The gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// The version that answered; none if a proxy did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The response headers that the case observes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Why a policy refuses the request: the response code details of the access log of the server's proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// The handshake of a client that speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<String>,
    /// The flags of the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// The time until the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// What arrived at servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<Arrival>,
    /// Of repetitions, the number of each status and version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u32>,
    /// Of repetitions, how many versions answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<u32>,
    /// Of repetitions, how many requests arrived at each version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arrived: BTreeMap<String, u32>,
}

/// The outcomes of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCase {
    /// The fingerprint of the case that was run.
    pub case: String,
    /// The outcome of each request.
    pub outcomes: Vec<Outcome>,
}

/// The outcomes of a kind: the content of one file of `recorded/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The version of istiod.
    pub istiod: String,
    /// The version of Envoy.
    pub envoy: String,
    /// The outcomes, by the name of the case.
    pub cases: BTreeMap<String, RecordedCase>,
}

impl Recording {
    /// Reads a kind's recording; an empty one if there is none.
    ///
    /// # Errors
    /// Returns an error if the file is not valid.
    pub fn read(directory: &Path, kind: &str) -> Result<Self> {
        let path = directory.join(format!("{kind}.yaml"));
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(Self::default()) };
        serde_saphyr::from_str_with_options(&text, crate::yaml_options()).with_context(|| path.display().to_string())
    }

    /// Writes a kind's recording.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, directory: &Path, kind: &str) -> Result<()> {
        let path = directory.join(format!("{kind}.yaml"));
        let head = "# Written by `isthmus-conformance record`: what Istio's own control plane and Envoy do.\n";
        std::fs::write(&path, format!("{head}{}", serde_saphyr::to_string(self)?))
            .with_context(|| path.display().to_string())
    }
}
