//! Access logs: what is recorded of a request or connection until its line is written.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};
use telemetry::ResponseFlags;
use telemetry::access_log::{self, DEFAULT_JSON, DEFAULT_TEXT, Format, Record, Writer};
use telemetry::istio::Ended;
use telemetry::metrics::Registry;

use crate::mesh::AccessLogSettings;

/// The open log files, shared by all workers. Each has a writer thread.
#[derive(Debug, Clone)]
pub struct AccessLogFiles {
    registry: Registry,
    open: Arc<Mutex<HashMap<Arc<str>, Writer>>>,
}

impl AccessLogFiles {
    /// Creates a set without files.
    pub fn new(registry: Registry) -> Self {
        Self { registry, open: Arc::default() }
    }

    /// Returns the log with these settings, opening its file if needed; `None` if there is to be no log, or, with a
    /// warning, if the file cannot be opened.
    pub fn log(&self, settings: &AccessLogSettings) -> Option<access_log::Log> {
        if settings.file.is_empty() {
            return None;
        }
        let log = self.try_log(settings).inspect_err(|error| {
            tracing::warn!(%error, file = %settings.file, "cannot open the access log");
        });
        log.ok()
    }

    fn try_log(&self, settings: &AccessLogSettings) -> Result<access_log::Log, Box<dyn std::error::Error>> {
        let format = match (settings.json, &*settings.format) {
            (false, "") => Format::text(DEFAULT_TEXT)?,
            (true, "") => Format::json(DEFAULT_JSON)?,
            (false, format) => Format::text(format)?,
            (true, format) => Format::json(format)?,
        };
        Ok(self.writer(&settings.file)?.log(Arc::new(format)))
    }

    fn writer(&self, path: &Arc<str>) -> std::io::Result<Writer> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = open.get(path) {
            return Ok(writer.clone());
        }
        let writer = Writer::open(path, &self.registry)?;
        open.insert(path.clone(), writer.clone());
        Ok(writer)
    }

    /// Waits until queued lines are written, at most `within` for each file.
    pub fn flush(&self, within: Duration) {
        for writer in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            writer.flush(within);
        }
    }
}

/// One worker's access log. It follows the mesh's settings.
#[derive(Debug)]
pub struct AccessLog {
    files: AccessLogFiles,
    current: RefCell<(AccessLogSettings, Option<Rc<access_log::Log>>)>,
}

impl AccessLog {
    /// Creates a log that writes nothing until settings name a file.
    pub fn new(files: AccessLogFiles) -> Self {
        Self { files, current: RefCell::default() }
    }

    /// Begins an entry, or returns `None` if there is no access log.
    pub fn begin(&self, settings: &AccessLogSettings) -> Option<Box<LogEntry>> {
        if settings.file.is_empty() {
            return None;
        }
        self.current(settings).map(|log| Box::new(LogEntry::new(log)))
    }

    /// Returns the log with these settings, or `None` if there is no access log.
    pub fn current(&self, settings: &AccessLogSettings) -> Option<Rc<access_log::Log>> {
        let mut current = self.current.borrow_mut();
        if current.0 != *settings {
            *current = (settings.clone(), self.files.log(settings).map(Rc::new));
        }
        current.1.clone()
    }
}

/// What is recorded of a request or connection for its access log line.
#[derive(Debug)]
pub struct LogEntry {
    log: Rc<access_log::Log>,
    start: SystemTime,
    method: Option<Method>,
    path: String,
    authority: String,
    version: Option<Version>,
    request_headers: HeaderMap,
    response_headers: HeaderMap,
    /// Envoy's response code details, or why the connection ended.
    pub details: Cow<'static, str>,
    /// Why no connection to an endpoint was established.
    pub transport_failure: Option<String>,
    /// The address of the endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// The local address of the connection to the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// The upstream cluster's name.
    pub cluster: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    /// The original destination.
    pub destination: Option<SocketAddr>,
    /// The downstream's address.
    pub client: Option<SocketAddr>,
    /// The server name (SNI) of the downstream's TLS handshake.
    pub server_name: Option<Arc<str>>,
    /// The downstream's SPIFFE ID.
    pub principal: Option<Arc<str>>,
    /// The number of attempts so far.
    pub attempts: u32,
}

impl LogEntry {
    fn new(log: Rc<access_log::Log>) -> Self {
        Self {
            log,
            start: SystemTime::now(),
            method: None,
            path: String::new(),
            authority: String::new(),
            version: None,
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            details: Cow::Borrowed(""),
            transport_failure: None,
            upstream_host: None,
            upstream_local: None,
            cluster: Arc::default(),
            route: Arc::default(),
            destination: None,
            client: None,
            server_name: None,
            principal: None,
            attempts: 0,
        }
    }

    /// Records the head of a request, with the headers that the format uses.
    pub fn request<B>(&mut self, request: &http::Request<B>) {
        self.method = Some(request.method().clone());
        self.path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        self.authority = crate::http::headers::host(request.uri(), request.headers()).unwrap_or_default().to_owned();
        self.version = Some(request.version());
        for name in self.log.format().request_headers() {
            if let Some(value) = request.headers().get(&name) {
                self.request_headers.insert(name, value.clone());
            }
        }
    }

    /// Records the head of a response, with the headers that the format uses.
    pub fn response(&mut self, headers: &HeaderMap) {
        for name in self.log.format().response_headers() {
            if let Some(value) = headers.get(&name) {
                self.response_headers.insert(name, value.clone());
            }
        }
    }

    /// Writes the line of a request.
    pub fn write_http(&self, ended: &Ended) {
        self.log.write(&Record {
            duration: ended.duration,
            method: self.method.as_ref().map(Method::as_str),
            path: Some(&self.path),
            authority: Some(&self.authority),
            protocol: self.version.map(|version| match version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }),
            request_headers: Some(&self.request_headers),
            response_headers: Some(&self.response_headers),
            response_code: ended.code,
            response_code_details: Some(&*self.details).filter(|details| !details.is_empty()),
            response_flags: ended.flags,
            grpc_status: ended.grpc_status,
            route_name: Some(if self.route.is_empty() { "default" } else { &self.route }),
            bytes_received: ended.request_bytes,
            bytes_sent: ended.response_bytes,
            ..self.record()
        });
    }

    /// Writes the line of an opaque connection.
    pub fn write_tcp(&self, flags: ResponseFlags, received: u64, sent: u64) {
        self.log.write(&Record {
            duration: self.start.elapsed().unwrap_or_default(),
            connection_termination_details: Some(&*self.details).filter(|details| !details.is_empty()),
            response_flags: flags,
            bytes_received: received,
            bytes_sent: sent,
            ..self.record()
        });
    }

    fn record(&self) -> Record<'_> {
        Record {
            upstream_transport_failure_reason: self.transport_failure.as_deref(),
            upstream_host: self.upstream_host,
            upstream_cluster: Some(&*self.cluster).filter(|cluster| !cluster.is_empty()),
            upstream_local_address: self.upstream_local,
            downstream_local_address: self.destination,
            downstream_remote_address: self.client,
            requested_server_name: self.server_name.as_deref(),
            downstream_peer_uri_san: self.principal.as_deref(),
            upstream_request_attempt_count: self.attempts,
            ..Record::new(self.start)
        }
    }
}
