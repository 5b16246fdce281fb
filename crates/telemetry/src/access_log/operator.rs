//! Command operators: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):length%`.

use std::io::Write;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::Record;
use super::date::{self, StartTimes, TimePart};

/// A command operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    StartTime(Option<Vec<TimePart>>),
    Header(HeaderSection, HeaderField, Option<HeaderField>),
    Flags,
    Text(TextField),
    Number(NumberField),
    Address(AddressField, bool),
    Port(AddressField),
    /// A value that is known when the format is parsed.
    Fixed(String),
    /// An operator of Envoy that never has a value in Isthmus.
    Missing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderSection {
    Request,
    Response,
    Trailers,
}

/// A header or an HTTP/2 pseudo-header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeaderField {
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

/// The kind of value that an operator rendered.
pub(super) enum OperatorValue {
    Missing,
    Number,
    Text,
}

impl Operator {
    /// Parses a name and an argument. The error says what is wrong.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        use Operator::{Address, Flags, Number, Text};
        let required = || argument.ok_or_else(|| format!("{name} requires an argument in parentheses"));
        let operator = match name {
            "START_TIME" => Self::StartTime(argument.map(date::parse).transpose()?),
            "REQ" => Self::header(HeaderSection::Request, required()?, false)?,
            "REQ_WITHOUT_QUERY" => Self::header(HeaderSection::Request, required()?, true)?,
            "RESP" => Self::header(HeaderSection::Response, required()?, false)?,
            "TRAILER" => Self::header(HeaderSection::Trailers, required()?, false)?,
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
            "DOWNSTREAM_LOCAL_PORT" => Self::Port(AddressField::DownstreamLocal),
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Self::Port(AddressField::DownstreamRemote),
            "UPSTREAM_REMOTE_PORT" => Self::Port(AddressField::Upstream),
            "UPSTREAM_LOCAL_PORT" => Self::Port(AddressField::UpstreamLocal),
            "HOSTNAME" => Self::fixed(std::fs::read_to_string("/proc/sys/kernel/hostname").ok()),
            "ENVIRONMENT" => Self::fixed(std::env::var(required()?).ok()),
            "DYNAMIC_METADATA" | "FILTER_STATE" | "METADATA" | "CEL" => {
                required()?;
                Self::Missing
            }
            _ => return Err(format!("unknown operator %{name}%")),
        };
        Ok(operator)
    }

    fn fixed(value: Option<String>) -> Self {
        value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).map_or(Self::Missing, Self::Fixed)
    }

    /// Parses `NAME` or `NAME?ALTERNATIVE`.
    fn header(section: HeaderSection, argument: &str, without_query: bool) -> Result<Self, String> {
        let (first, alternative) = match argument.split_once('?') {
            Some((first, alternative)) => (first, Some(alternative)),
            None => (argument, None),
        };
        let name = |name: &str| HeaderField::parse(section, name, without_query);
        Ok(Self::Header(section, name(first)?, alternative.map(name).transpose()?))
    }

    /// Appends the value.
    pub(super) fn write(&self, record: &Record<'_>, start_times: &mut StartTimes, out: &mut Vec<u8>) -> OperatorValue {
        match self {
            Self::StartTime(None) => start_times.write(record.start, out),
            Self::StartTime(Some(parts)) => date::write(parts, record.start, out),
            Self::Header(section, name, alternative) => {
                let found = name
                    .value(*section, record)
                    .or_else(|| alternative.as_ref().and_then(|name| name.value(*section, record)));
                return text(found, out);
            }
            Self::Flags => return text(Some(record.response_flags.letters().as_bytes()), out),
            Self::Text(field) => return text(field.of(record).map(str::as_bytes), out),
            Self::Number(field) => {
                let Some(number) = field.of(record) else { return OperatorValue::Missing };
                // Writing to a vector cannot fail.
                let _ = write!(out, "{number}");
                return OperatorValue::Number;
            }
            Self::Address(field, with_port) => {
                let Some(address) = field.of(record) else { return OperatorValue::Missing };
                let _ = if *with_port { write!(out, "{address}") } else { write!(out, "{}", address.ip()) };
            }
            Self::Port(field) => {
                let Some(address) = field.of(record) else { return OperatorValue::Missing };
                let _ = write!(out, "{}", address.port());
                return OperatorValue::Number;
            }
            Self::Fixed(value) => out.extend_from_slice(value.as_bytes()),
            Self::Missing => return OperatorValue::Missing,
        }
        OperatorValue::Text
    }

    /// Returns the headers that the operator reads.
    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderSection, &HeaderName)> {
        let names = match self {
            Self::Header(section, first, alternative) => {
                [Some((*section, first)), alternative.as_ref().map(|n| (*section, n))]
            }
            _ => [None, None],
        };
        names.into_iter().flatten().filter_map(|(section, name)| match name {
            HeaderField::Header(name) => Some((section, name)),
            _ => None,
        })
    }
}

fn text(value: Option<&[u8]>, out: &mut Vec<u8>) -> OperatorValue {
    match value {
        None | Some([]) => OperatorValue::Missing,
        Some(value) => {
            out.extend_from_slice(value);
            OperatorValue::Text
        }
    }
}

impl HeaderField {
    fn parse(section: HeaderSection, name: &str, without_query: bool) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        Ok(match (section, lower.as_str()) {
            (HeaderSection::Request, ":method") => Self::Method,
            (HeaderSection::Request, ":path") if without_query => Self::PathWithoutQuery,
            (HeaderSection::Request, ":path") => Self::Path,
            (HeaderSection::Request, ":authority" | "host") => Self::Authority,
            (HeaderSection::Request, ":scheme") => Self::Scheme,
            (HeaderSection::Response, ":status") => Self::Status,
            (_, name) => Self::Header(
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?,
            ),
        })
    }

    fn value<'a>(&self, section: HeaderSection, record: &Record<'a>) -> Option<&'a [u8]> {
        let headers: Option<&HeaderMap> = match section {
            HeaderSection::Request => record.request_headers,
            HeaderSection::Response => record.response_headers,
            HeaderSection::Trailers => record.response_trailers,
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
