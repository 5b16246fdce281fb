//! The access log: what is remembered of a request for its line, if there is a log at all.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};
use telemetry::access_log::{self, DEFAULT_JSON, DEFAULT_TEXT, Format, Record, Writer};
use telemetry::istio::Ended;
use telemetry::metrics::Registry;

use crate::mesh::LogSettings;

/// The files that are written, one thread each, shared by all workers.
#[derive(Debug, Clone)]
pub struct Files {
    registry: Registry,
    open: Arc<Mutex<HashMap<Arc<str>, Writer>>>,
}

impl Files {
    /// None yet.
    pub fn new(registry: Registry) -> Self {
        Self { registry, open: Arc::default() }
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

    /// Waits for lines that are under way, at most `within` each.
    pub fn flush(&self, within: Duration) {
        for writer in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            writer.flush(within);
        }
    }
}

/// One worker's access log, as the mesh's settings want it.
#[derive(Debug)]
pub struct Log {
    files: Files,
    current: RefCell<(LogSettings, Option<Rc<access_log::Log>>)>,
}

/// What is remembered of a request or an opaque connection until its line is written.
#[derive(Debug)]
pub struct Seen {
    log: Rc<access_log::Log>,
    start: SystemTime,
    method: Option<Method>,
    path: String,
    authority: String,
    version: Option<Version>,
    request_headers: HeaderMap,
    /// Those that the format asks for.
    pub response_headers: HeaderMap,
    /// Envoy's response code detail, or why the connection ended.
    pub details: Cow<'static, str>,
    /// Why no connection to an endpoint came about.
    pub transport: Option<String>,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Our end of the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// As Envoy names it.
    pub cluster: Arc<str>,
    /// Where the client was going.
    pub destination: Option<SocketAddr>,
    /// The client.
    pub client: Option<SocketAddr>,
    /// The server name in the client's hello.
    pub server_name: Option<Arc<str>>,
    /// The client's SPIFFE id.
    pub principal: Option<Arc<str>>,
    /// Attempts so far.
    pub attempts: u32,
}

impl Log {
    /// No log until settings ask for one.
    pub fn new(files: Files) -> Self {
        Self { files, current: RefCell::default() }
    }

    /// What to remember things in; nothing where there is no log.
    pub fn begin(&self, settings: &LogSettings) -> Option<Box<Seen>> {
        if settings.file.is_empty() {
            return None;
        }
        let log = self.open(settings)?;
        Some(Box::new(Seen {
            log,
            start: SystemTime::now(),
            method: None,
            path: String::new(),
            authority: String::new(),
            version: None,
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            details: Cow::Borrowed(""),
            transport: None,
            upstream_host: None,
            upstream_local: None,
            cluster: Arc::default(),
            destination: None,
            client: None,
            server_name: None,
            principal: None,
            attempts: 0,
        }))
    }

    fn open(&self, settings: &LogSettings) -> Option<Rc<access_log::Log>> {
        let mut current = self.current.borrow_mut();
        if current.0 != *settings {
            let log = self.try_open(settings).inspect_err(|error| {
                tracing::warn!(%error, file = %settings.file, "no access log");
            });
            *current = (settings.clone(), log.ok().map(Rc::new));
        }
        current.1.clone()
    }

    fn try_open(&self, settings: &LogSettings) -> Result<access_log::Log, Box<dyn std::error::Error>> {
        let format = match (settings.json, &*settings.format) {
            (false, "") => Format::text(DEFAULT_TEXT)?,
            (true, "") => Format::json(DEFAULT_JSON)?,
            (false, format) => Format::text(format)?,
            (true, format) => Format::json(format)?,
        };
        Ok(self.files.writer(&settings.file)?.log(Arc::new(format)))
    }

    /// Writes the line of a request.
    pub fn http(&self, seen: &Seen, ended: &Ended) {
        let record = Record {
            duration: ended.duration,
            method: seen.method.as_ref().map(Method::as_str),
            path: Some(&seen.path),
            authority: Some(&seen.authority),
            protocol: seen.version.map(|version| match version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }),
            request_headers: Some(&seen.request_headers),
            response_headers: Some(&seen.response_headers),
            response_code: ended.code,
            response_code_details: Some(&*seen.details).filter(|details| !details.is_empty()),
            grpc_status: ended.grpc_status,
            route_name: Some("default"),
            ..seen.record()
        };
        seen.log.write(&Record {
            response_flags: ended.flags,
            bytes_received: ended.request_bytes,
            bytes_sent: ended.response_bytes,
            ..record
        });
    }
}

impl Seen {
    /// Remembers a request's head.
    pub fn request<B>(&mut self, request: &http::Request<B>) {
        self.method = Some(request.method().clone());
        self.path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        self.authority = crate::http::headers::host(request).unwrap_or_default().to_owned();
        self.version = Some(request.version());
        for name in self.log.format().request_headers() {
            if let Some(value) = request.headers().get(&name) {
                self.request_headers.insert(name, value.clone());
            }
        }
    }

    /// Remembers a response's head.
    pub fn response(&mut self, headers: &HeaderMap) {
        for name in self.log.format().response_headers() {
            if let Some(value) = headers.get(&name) {
                self.response_headers.insert(name, value.clone());
            }
        }
    }

    /// Writes the line of an opaque connection.
    pub fn tcp(&self, flags: &str, received: u64, sent: u64) {
        let record = Record {
            duration: self.start.elapsed().unwrap_or_default(),
            connection_termination_details: Some(&*self.details).filter(|details| !details.is_empty()),
            response_flags: flags,
            bytes_received: received,
            bytes_sent: sent,
            ..self.record()
        };
        self.log.write(&record);
    }

    fn record(&self) -> Record<'_> {
        Record {
            upstream_transport_failure_reason: self.transport.as_deref(),
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
