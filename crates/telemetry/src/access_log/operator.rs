//! Command operators: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):length%`.

use std::io::Write;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::Record;
use super::date::{self, Clock, Part};

/// What may stand between two percent signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    StartTime(Option<Vec<Part>>),
    Header(Section, Name, Option<Name>),
    Flags,
    Text(TextField),
    Number(NumberField),
    Address(AddressField, bool),
    /// Known when the format is parsed.
    Fixed(String),
    /// Known to Envoy, and never known here.
    Missing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Request,
    Response,
    Trailers,
}

/// A header, or what HTTP/2 writes like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Header(HeaderName),
    Method,
    Path,
    PathWithoutQuery,
    Authority,
    Scheme,
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextField {
    Protocol,
    CodeDetails,
    TerminationDetails,
    FailureReason,
    UpstreamCluster,
    ServerName,
    RouteName,
    PeerUri,
    PeerSubject,
    TlsVersion,
    TlsCipher,
    TraceId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberField {
    Code,
    Received,
    Sent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    Attempts,
    GrpcStatus,
    ConnectionId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressField {
    Upstream,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
}

/// What an operator came to.
pub(super) enum Value {
    Missing,
    Number,
    Text,
}

impl Operator {
    /// Reads name and argument; the error says what is wrong with them.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        use Operator::{Address, Flags, Number, Text};
        let needs = || argument.ok_or_else(|| format!("{name} needs an argument in parentheses"));
        let operator = match name {
            "START_TIME" => Self::StartTime(argument.map(date::parse).transpose()?),
            "REQ" => Self::header(Section::Request, needs()?, false)?,
            "REQ_WITHOUT_QUERY" => Self::header(Section::Request, needs()?, true)?,
            "RESP" => Self::header(Section::Response, needs()?, false)?,
            "TRAILER" => Self::header(Section::Trailers, needs()?, false)?,
            "PROTOCOL" => Text(TextField::Protocol),
            "RESPONSE_FLAGS" => Flags,
            "RESPONSE_CODE_DETAILS" => Text(TextField::CodeDetails),
            "CONNECTION_TERMINATION_DETAILS" => Text(TextField::TerminationDetails),
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Text(TextField::FailureReason),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Text(TextField::UpstreamCluster),
            "REQUESTED_SERVER_NAME" => Text(TextField::ServerName),
            "ROUTE_NAME" => Text(TextField::RouteName),
            "DOWNSTREAM_PEER_URI_SAN" => Text(TextField::PeerUri),
            "DOWNSTREAM_PEER_SUBJECT" => Text(TextField::PeerSubject),
            "DOWNSTREAM_TLS_VERSION" => Text(TextField::TlsVersion),
            "DOWNSTREAM_TLS_CIPHER" => Text(TextField::TlsCipher),
            "TRACE_ID" => Text(TextField::TraceId),
            "RESPONSE_CODE" => Number(NumberField::Code),
            "BYTES_RECEIVED" => Number(NumberField::Received),
            "BYTES_SENT" => Number(NumberField::Sent),
            "DURATION" => Number(NumberField::Duration),
            "REQUEST_DURATION" => Number(NumberField::RequestDuration),
            "RESPONSE_DURATION" => Number(NumberField::ResponseDuration),
            "RESPONSE_TX_DURATION" => Number(NumberField::ResponseTxDuration),
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Number(NumberField::Attempts),
            "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Number(NumberField::GrpcStatus),
            "CONNECTION_ID" => Number(NumberField::ConnectionId),
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Address(AddressField::Upstream, true),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Address(AddressField::Upstream, false),
            "UPSTREAM_LOCAL_ADDRESS" => Address(AddressField::UpstreamLocal, true),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Address(AddressField::UpstreamLocal, false),
            "DOWNSTREAM_LOCAL_ADDRESS" => Address(AddressField::DownstreamLocal, true),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Address(AddressField::DownstreamLocal, false),
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
                Address(AddressField::DownstreamRemote, true)
            }
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Address(AddressField::DownstreamRemote, false)
            }
            "HOSTNAME" => Self::fixed(std::fs::read_to_string("/proc/sys/kernel/hostname").ok()),
            "ENVIRONMENT" => Self::fixed(std::env::var(needs()?).ok()),
            "DYNAMIC_METADATA" | "FILTER_STATE" | "METADATA" | "CEL" => {
                needs()?;
                Self::Missing
            }
            _ => return Err(format!("%{name}% is not known")),
        };
        Ok(operator)
    }

    fn fixed(value: Option<String>) -> Self {
        value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).map_or(Self::Missing, Self::Fixed)
    }

    /// `NAME`, or `NAME?INSTEAD`.
    fn header(section: Section, argument: &str, without_query: bool) -> Result<Self, String> {
        let (first, instead) = match argument.split_once('?') {
            Some((first, instead)) => (first, Some(instead)),
            None => (argument, None),
        };
        let name = |name: &str| Name::parse(section, name, without_query);
        Ok(Self::Header(section, name(first)?, instead.map(name).transpose()?))
    }

    /// Appends the value, as text.
    pub(super) fn write(&self, record: &Record<'_>, clock: &mut Clock, out: &mut Vec<u8>) -> Value {
        match self {
            Self::StartTime(None) => clock.write(record.start, out),
            Self::StartTime(Some(parts)) => date::write(parts, record.start, out),
            Self::Header(section, name, instead) => {
                let found = name
                    .find(*section, record)
                    .or_else(|| instead.as_ref().and_then(|name| name.find(*section, record)));
                return text(found, out);
            }
            Self::Flags => return text(Some(record.response_flags.letters().as_bytes()), out),
            Self::Text(field) => return text(field.of(record).map(str::as_bytes), out),
            Self::Number(field) => {
                let Some(number) = field.of(record) else { return Value::Missing };
                // Writing to a vector cannot fail.
                let _ = write!(out, "{number}");
                return Value::Number;
            }
            Self::Address(field, with_port) => {
                let Some(address) = field.of(record) else { return Value::Missing };
                let _ = if *with_port { write!(out, "{address}") } else { write!(out, "{}", address.ip()) };
            }
            Self::Fixed(value) => out.extend_from_slice(value.as_bytes()),
            Self::Missing => return Value::Missing,
        }
        Value::Text
    }

    /// The headers that it reads, and of which part.
    pub(super) fn headers(&self) -> impl Iterator<Item = (Section, &HeaderName)> {
        let names = match self {
            Self::Header(section, first, instead) => [Some((*section, first)), instead.as_ref().map(|n| (*section, n))],
            _ => [None, None],
        };
        names.into_iter().flatten().filter_map(|(section, name)| match name {
            Name::Header(name) => Some((section, name)),
            _ => None,
        })
    }
}

fn text(value: Option<&[u8]>, out: &mut Vec<u8>) -> Value {
    match value {
        None | Some([]) => Value::Missing,
        Some(value) => {
            out.extend_from_slice(value);
            Value::Text
        }
    }
}

impl Name {
    fn parse(section: Section, name: &str, without_query: bool) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        Ok(match (section, lower.as_str()) {
            (Section::Request, ":method") => Self::Method,
            (Section::Request, ":path") if without_query => Self::PathWithoutQuery,
            (Section::Request, ":path") => Self::Path,
            (Section::Request, ":authority" | "host") => Self::Authority,
            (Section::Request, ":scheme") => Self::Scheme,
            (Section::Response, ":status") => Self::Status,
            (_, name) => Self::Header(
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?,
            ),
        })
    }

    fn find<'a>(&self, section: Section, record: &Record<'a>) -> Option<&'a [u8]> {
        let headers: Option<&HeaderMap> = match section {
            Section::Request => record.request_headers,
            Section::Response => record.response_headers,
            Section::Trailers => record.response_trailers,
        };
        match self {
            Self::Header(name) => headers?.get(name).map(HeaderValue::as_bytes),
            Self::Method => record.method.map(str::as_bytes),
            Self::Path => record.path.map(str::as_bytes),
            Self::PathWithoutQuery => record.path?.split('?').next().map(str::as_bytes),
            Self::Authority => record.authority.map(str::as_bytes),
            Self::Scheme => record.scheme.map(str::as_bytes),
            Self::Status => None,
        }
    }
}

impl TextField {
    fn of<'a>(self, record: &Record<'a>) -> Option<&'a str> {
        match self {
            Self::Protocol => record.protocol,
            Self::CodeDetails => record.response_code_details,
            Self::TerminationDetails => record.connection_termination_details,
            Self::FailureReason => record.upstream_transport_failure_reason,
            Self::UpstreamCluster => record.upstream_cluster,
            Self::ServerName => record.requested_server_name,
            Self::RouteName => record.route_name,
            Self::PeerUri => record.downstream_peer_uri_san,
            Self::PeerSubject => record.downstream_peer_subject,
            Self::TlsVersion => record.downstream_tls_version,
            Self::TlsCipher => record.downstream_tls_cipher,
            Self::TraceId => record.trace_id,
        }
    }
}

impl NumberField {
    fn of(self, record: &Record<'_>) -> Option<u64> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        match self {
            Self::Code => Some(record.response_code.into()),
            Self::Received => Some(record.bytes_received),
            Self::Sent => Some(record.bytes_sent),
            Self::Duration => Some(millis(record.duration)),
            Self::RequestDuration => record.request_duration.map(millis),
            Self::ResponseDuration => record.response_duration.map(millis),
            Self::ResponseTxDuration => {
                record.response_duration.map(|first| millis(record.duration.saturating_sub(first)))
            }
            Self::Attempts => Some(record.upstream_request_attempt_count.into()),
            Self::GrpcStatus => record.grpc_status.map(u64::from),
            Self::ConnectionId => record.connection_id,
        }
    }
}

impl AddressField {
    fn of(self, record: &Record<'_>) -> Option<std::net::SocketAddr> {
        match self {
            Self::Upstream => record.upstream_host,
            Self::UpstreamLocal => record.upstream_local_address,
            Self::DownstreamLocal => record.downstream_local_address,
            Self::DownstreamRemote => record.downstream_remote_address,
        }
    }
}
