//! Connections to endpoints for measurement: how long one takes, and which identity answers. Nothing is sent over them, and they
//! are closed at once. Gateways are also asked for a name that nothing has: they must refuse it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_rustls::rustls;

use super::explain::Explanation;
use crate::failure::ConnectError;
use crate::upstream::connect::{DialOptions, alpn_of, open};
use crate::upstream::{Candidate, ClusterKey, Target};
use crate::worker::Worker;

/// The number of endpoints that are measured. Those behind gateways come first.
const MEASURED: usize = 8;
/// A server name in the form of the mesh's that no service has: `.invalid` is reserved (RFC 2606).
const UNKNOWN: &str = "outbound_.1_._.check.isthmus.invalid";

/// A connection to an endpoint that was made for measurement.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The address.
    pub address: SocketAddr,
    /// The endpoint's cluster.
    pub cluster: Arc<str>,
    /// Whether the address is that of a gateway.
    pub through_gateway: bool,
    /// What came of it.
    pub outcome: Result<ProvenPeer, ConnectError>,
    /// What a gateway did with a name that no service has.
    pub unknown_name: Option<UnknownName>,
}

/// An endpoint that answered, as it was expected.
#[derive(Debug, Clone)]
pub struct ProvenPeer {
    /// The time for TCP and TLS.
    pub time: Duration,
    /// The SPIFFE ID in the certificate; `None` in plaintext.
    pub identity: Option<String>,
    /// The cluster whose intermediate signed it, if known.
    pub issuer: Option<Arc<str>>,
}

/// What a gateway does with a name that no service has.
#[derive(Debug, Clone)]
pub enum UnknownName {
    /// It ended the connection, as it must.
    Refused,
    /// A server answered.
    Answered,
    /// It cannot be reached.
    Unreachable(ConnectError),
}

/// Connects to the endpoints of an explanation.
pub async fn measure(explanation: &Explanation, worker: &Rc<Worker>) -> Vec<Measured> {
    let mut measured: Vec<(&Candidate, DialOptions)> = Vec::new();
    for destination in &explanation.destinations {
        let Ok(forecast) = &destination.forecast else { continue };
        let (hostname, port, subset) = (destination.host.clone(), destination.port, destination.subset.clone());
        let cluster = worker.clusters.get(ClusterKey { hostname, port, subset, ..ClusterKey::default() }, &worker.view);
        let dial = worker.dial_options(&cluster);
        let in_mesh = forecast.candidates.iter().filter(|candidate| candidate.target.tls.is_some());
        measured.extend(in_mesh.map(|candidate| (candidate, dial.clone())));
    }
    measured.sort_by_key(|(candidate, _)| !candidate.target.remote);
    let mut addresses = Vec::new();
    measured.retain(|(candidate, _)| {
        let new = !addresses.contains(&candidate.target.address);
        addresses.push(candidate.target.address);
        new
    });
    join_all(measured.iter().take(MEASURED).map(|(candidate, dial)| one(&candidate.target, dial))).await
}

async fn one(target: &Target, dial: &DialOptions) -> Measured {
    let began = Instant::now();
    let outcome = open(target, alpn_of(None), dial).await.map(|opened| ProvenPeer {
        time: began.elapsed(),
        identity: opened.peer.as_ref().map(|peer| peer.id.as_str().to_owned()),
        issuer: opened.peer.as_ref().and_then(|peer| peer.cluster.clone()),
    });
    let unknown_name = if target.remote { unknown_name(target, dial).await } else { None };
    let (address, cluster) = (target.address, target.cluster.clone());
    Measured { address, cluster, through_gateway: target.remote, outcome, unknown_name }
}

/// Returns whether whoever answered showed a certificate, which is not the expected one. An alert is a refusal.
fn shows_a_certificate(error: &std::io::Error) -> bool {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(of_tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)))
}

/// Asks a gateway for a name that no service has.
async fn unknown_name(target: &Target, dial: &DialOptions) -> Option<UnknownName> {
    let mut other = target.clone();
    other.tls.as_mut()?.sni = UNKNOWN.try_into().ok()?;
    Some(match open(&other, alpn_of(None), dial).await {
        Ok(_) => UnknownName::Answered,
        Err(ConnectError::Tls(error)) if shows_a_certificate(&error) => UnknownName::Answered,
        Err(ConnectError::Tls(_) | ConnectError::Http(_)) => UnknownName::Refused,
        Err(error) => UnknownName::Unreachable(error),
    })
}
