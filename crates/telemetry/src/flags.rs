//! Response flags: two or three letters that say why a request or connection did not go well, as Envoy writes them in
//! access logs and metric labels.

/// All went well.
pub const NONE: &str = "-";
/// The client ended the connection.
pub const DOWNSTREAM_CONNECTION_TERMINATION: &str = "DC";
/// The client broke the protocol.
pub const DOWNSTREAM_PROTOCOL_ERROR: &str = "DPE";
/// The client reset the stream.
pub const DOWNSTREAM_REMOTE_RESET: &str = "DR";
/// The connection took longer than it may.
pub const DURATION_TIMEOUT: &str = "DT";
/// We reset the stream.
pub const LOCAL_RESET: &str = "LR";
/// There is no such service any more.
pub const NO_CLUSTER_FOUND: &str = "NC";
/// Nothing matches.
pub const NO_ROUTE_FOUND: &str = "NR";
/// Too much load on this proxy.
pub const OVERLOAD: &str = "OM";
/// Nothing moved for too long.
pub const STREAM_IDLE_TIMEOUT: &str = "SI";
/// A policy refused it.
pub const UNAUTHORIZED: &str = "UAEX";
/// The endpoint ended the connection.
pub const UPSTREAM_CONNECTION_TERMINATION: &str = "UC";
/// No connection to the endpoint.
pub const UPSTREAM_CONNECTION_FAILURE: &str = "UF";
/// No endpoint that could be used.
pub const NO_HEALTHY_UPSTREAM: &str = "UH";
/// A limit on connections or requests.
pub const UPSTREAM_OVERFLOW: &str = "UO";
/// The endpoint broke the protocol.
pub const UPSTREAM_PROTOCOL_ERROR: &str = "UPE";
/// The endpoint reset the stream.
pub const UPSTREAM_REMOTE_RESET: &str = "UR";
/// All retries failed.
pub const UPSTREAM_RETRY_LIMIT_EXCEEDED: &str = "URX";
/// The endpoint took too long.
pub const UPSTREAM_REQUEST_TIMEOUT: &str = "UT";
