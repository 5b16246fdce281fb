//! The decoded content of a response.

use bytes::Bytes;

use crate::Kind;
pub use crate::kinds::Body;

/// The changes that one response carries. All are of one resource type.
#[derive(Clone, PartialEq, Debug)]
pub struct Update {
    /// The resource type.
    pub kind: Kind,
    /// Resources that are new or whose content changed.
    pub changed: Vec<Changed>,
    /// Names of removed resources, and of subscriptions (aliases and collections) without any resource.
    pub removed: Vec<String>,
}

/// A resource that is new or whose content changed.
#[derive(Clone, PartialEq, Debug)]
pub struct Changed {
    /// The resource's name.
    pub name: String,
    /// The client's address subscriptions that match the resource: `@<cluster>/<ip>`.
    pub aliases: Vec<String>,
    /// The resource's content.
    pub body: Body,
}

/// Why a resource cannot be decoded.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The type URL of the resource differs from the type of the response.
    #[error("the response is of type {expected}, the resource of type {found:?}")]
    Type {
        /// The type of the response.
        expected: Kind,
        /// The type URL of the resource, at most 200 characters of it.
        found: String,
    },
    /// The bytes are not a message of the type.
    #[error("not a {kind}: {error}")]
    Bytes {
        /// The type of the response.
        kind: Kind,
        /// The decoder's error.
        error: prost::DecodeError,
    },
}

impl Body {
    /// Decodes a resource of this type. Byte fields share `bytes`.
    ///
    /// Returns an error if `type_url` is not that of `kind`, or if `bytes` is not a message of that type.
    pub fn decode(kind: Kind, type_url: &str, bytes: Bytes) -> Result<Body, Malformed> {
        if type_url != kind.url() {
            return Err(Malformed::Type { expected: kind, found: type_url.chars().take(200).collect() });
        }
        Body::decode_message(kind, bytes).map_err(|error| Malformed::Bytes { kind, error })
    }
}

/// The resources of an update that the client rejects. The client accepts all others of the same update.
#[derive(Clone, PartialEq, Eq, Debug, Default, thiserror::Error)]
#[error("{} resources rejected, first {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
pub struct Rejected(pub Vec<Rejection>);

/// One rejected resource.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct Rejection {
    /// The resource's name.
    pub name: String,
    /// What is wrong with the resource.
    pub reason: String,
}
