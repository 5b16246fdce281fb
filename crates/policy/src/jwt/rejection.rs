//! Why a token is refused.

/// The reason why a token is refused. The texts are Envoy's, except those of what Envoy does not check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRejection {
    /// The token does not consist of three parts.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Format,
    /// The token is longer than [`super::MAX_TOKEN_BYTES`].
    #[error("Jwt is too long")]
    TooLong,
    /// The request has more than [`super::MAX_TOKENS`] tokens.
    #[error("The request has too many Jwts")]
    TooMany,
    /// The header is not base64url.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderEncoding,
    /// The header is not a JSON object, or has a member twice.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// The header names no algorithm.
    #[error("Jwt header [alg] field is required and must be a string")]
    AlgorithmType,
    /// The algorithm is not one of those with a public key.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// The key ID is not a text.
    #[error("Jwt header [kid] field is not a string")]
    KeyIdType,
    /// The header demands an extension (RFC 7515 §4.1.11); none is supported.
    #[error("Jwt header [crit] field is not supported")]
    Critical,
    /// The payload is not base64url.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadEncoding,
    /// The payload is not a JSON object, or has a member twice.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// A claim that must be a text is not one.
    #[error("Jwt payload [{0}] field is not a string")]
    ClaimNotString(&'static str),
    /// A claim that must be a time is not a number.
    #[error("Jwt payload [{0}] field is not an integer")]
    ClaimNotInteger(&'static str),
    /// A claim that must be a time is out of range.
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    ClaimOutOfRange(&'static str),
    /// The audience is neither a text nor a list of texts.
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceType,
    /// The signature is not base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureEncoding,
    /// No rule that reads the token's place is for its issuer.
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    /// The token is not valid yet.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// The token has expired.
    #[error("Jwt is expired")]
    Expired,
    /// None of the token's audiences is allowed.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// No key of the issuer is known.
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    /// No key of the issuer has the token's key ID and is for its algorithm.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    KeyMismatch,
    /// The signature is not the issuer's.
    #[error("Jwt verification fails")]
    Signature,
}
