//! What a response tells a client, decoded.

use bytes::Bytes;
use prost::Message;

use crate::Kind;
use crate::discovery;

/// One response's news of one kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Update {
    /// The kind of all that follows.
    pub kind: Kind,
    /// Resources that are new or have another content.
    pub changed: Vec<Changed>,
    /// Resources that are no more, and subscriptions (aliases, collections) to which nothing answers.
    pub removed: Vec<String>,
}

/// A resource in its new form.
#[derive(Clone, PartialEq, Debug)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// Those of the client's address subscriptions that it answers: `@<cluster>/<ip>`.
    pub aliases: Vec<String>,
    /// Its content.
    pub body: Body,
}

/// A decoded resource.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Body {
    Trust(discovery::Trust),
    MeshConfig(discovery::MeshConfig),
    PeerAuthentication(discovery::PeerAuthentication),
    AuthorizationPolicy(discovery::AuthorizationPolicy),
    Workload(discovery::Workload),
    NetworkGateway(discovery::NetworkGateway),
    Service(discovery::Service),
    Endpoint(discovery::Endpoint),
}

/// A resource that is not of its type.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The body's type URL is another than the response's.
    #[error("the response is of type {expected}, the resource of {found:?}")]
    Type {
        /// The response's.
        expected: Kind,
        /// The resource's.
        found: String,
    },
    /// The bytes are not a message of that type.
    #[error("not a {kind}: {error}")]
    Bytes {
        /// The type.
        kind: Kind,
        /// What the decoder says.
        error: prost::DecodeError,
    },
}

impl Body {
    /// Decodes a body of this kind. Byte fields share `bytes`.
    pub fn decode(kind: Kind, type_url: &str, bytes: Bytes) -> Result<Body, Malformed> {
        if type_url != kind.url() {
            return Err(Malformed::Type { expected: kind, found: type_url.chars().take(200).collect() });
        }
        let decoded = match kind {
            Kind::Trust => discovery::Trust::decode(bytes).map(Body::Trust),
            Kind::MeshConfig => discovery::MeshConfig::decode(bytes).map(Body::MeshConfig),
            Kind::PeerAuthentication => discovery::PeerAuthentication::decode(bytes).map(Body::PeerAuthentication),
            Kind::AuthorizationPolicy => discovery::AuthorizationPolicy::decode(bytes).map(Body::AuthorizationPolicy),
            Kind::Workload => discovery::Workload::decode(bytes).map(Body::Workload),
            Kind::NetworkGateway => discovery::NetworkGateway::decode(bytes).map(Body::NetworkGateway),
            Kind::Service => discovery::Service::decode(bytes).map(Body::Service),
            Kind::Endpoint => discovery::Endpoint::decode(bytes).map(Body::Endpoint),
        };
        decoded.map_err(|error| Malformed::Bytes { kind, error })
    }
}

/// Resources that the client did not accept. All others of the same update were.
#[derive(Clone, PartialEq, Eq, Debug, Default, thiserror::Error)]
#[error("{} resources rejected, first {}", .0.len(), .0.first().map(|r| format!("{}: {}", r.name, r.reason)).unwrap_or_default())]
pub struct Rejected(pub Vec<Rejection>);

/// One resource that was not accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}
