//! Watches: the changes of a resource after a revision, as a stream of JSON lines.
//!
//! A watch has no queue: it reads the log of changes as fast as its client reads the stream. A client that falls behind
//! the log receives `410 Expired` and lists again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::body::ResponseBody;
use crate::call::ApiCall;
use crate::encode::{self, ResponseFormat};
use crate::object;
use crate::selectors::Selector;
use crate::status::{Result, Status};
use crate::storage::{EventType, StoreEvent};
use crate::verbs::read;

/// Interval of bookmarks. Kubernetes sends them about every minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Shortest duration of a watch without a timeout. The actual duration is random, so that watches do not all end at the
/// same time.
const MIN_SECONDS: u64 = 1800;

/// Longest duration of a watch: a day.
const MAX_SECONDS: u64 = 86_400;

/// Number of changes that are read from the log at a time.
const BATCH: usize = 128;

/// Annotation of the bookmark that ends the initial events of a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct WatchStream {
    call: Arc<ApiCall>,
    selector: Selector,
    /// The revision up to which changes have been sent.
    revision: u64,
    changed: watch::Receiver<u64>,
    ends: Instant,
    /// None if the client requested no bookmarks.
    next_bookmark: Option<Instant>,
    /// Encoded lines that have not been sent.
    ready: VecDeque<Bytes>,
    /// Whether a table with column definitions has been sent; later tables have none.
    sent_columns: bool,
    over: bool,
}

/// Starts a watch.
pub(crate) fn start(call: &Arc<ApiCall>) -> Result<Response<ResponseBody>> {
    let query = &call.query;
    let selector = read::selector(call)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let seconds = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds.min(MAX_SECONDS),
        _ => MIN_SECONDS + rand::rng().random_range(0..MIN_SECONDS),
    };
    let changed = call.api.store.subscribe(&call.served.stored);
    let wanted = read::revision_parameter(call)?;
    let initial = initial_events(call, wanted)?;
    if let Some(wanted) = wanted {
        read::not_of_the_future(call, wanted)?;
    }
    let now = Instant::now();
    let mut watch = WatchStream {
        call: Arc::clone(call),
        selector,
        revision: wanted.unwrap_or(0),
        changed,
        ends: now + Duration::from_secs(seconds),
        next_bookmark: bookmarks.then(|| now + BOOKMARK_INTERVAL),
        ready: VecDeque::new(),
        sent_columns: false,
        over: false,
    };
    match initial {
        InitialEvents::Events { bookmark } => watch.send_initial_events(bookmark && bookmarks),
        InitialEvents::None if wanted.unwrap_or(0) == 0 => watch.revision = call.api.store.revision(),
        // An expired revision is an event, as in Kubernetes, and no response: kube-rs lists again only after the event.
        InitialEvents::None => {}
    }
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, io::Error>(Frame::data(line)), watch))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

enum InitialEvents {
    /// The existing objects as added objects, and then a bookmark.
    Events {
        bookmark: bool,
    },
    None,
}

fn initial_events(call: &ApiCall, wanted: Option<u64>) -> Result<InitialEvents> {
    let query = &call.query;
    match query.get("sendInitialEvents") {
        Some("true") => {
            if query.get("resourceVersionMatch") != Some("NotOlderThan") {
                let why = "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                return Err(Status::other(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {why}")));
            }
            Ok(InitialEvents::Events { bookmark: true })
        }
        Some("false") => Ok(InitialEvents::None),
        // A watch without a revision, or with revision 0, starts with the existing objects.
        _ if wanted.unwrap_or(0) == 0 => Ok(InitialEvents::Events { bookmark: false }),
        _ => Ok(InitialEvents::None),
    }
}

impl WatchStream {
    fn send_initial_events(&mut self, bookmark: bool) {
        let call = Arc::clone(&self.call);
        let (revision, objects) = call.api.store.list(&call.served.stored, read::namespace(&call));
        self.revision = revision;
        for object in objects {
            if self.selector.matches(&encode::present(&call.served, &object)) {
                self.send("ADDED", &object);
            }
        }
        if bookmark {
            self.bookmark(true);
        }
    }

    /// The next line, or None at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Marked before reading, so that no change is missed.
            self.changed.mark_unchanged();
            self.read_log();
            if !self.ready.is_empty() || self.over {
                continue;
            }
            let wake = self.next_bookmark.map_or(self.ends, |at| at.min(self.ends));
            tokio::select! {
                changed = self.changed.changed() => self.over |= changed.is_err(),
                () = sleep_until(wake) => self.on_time(),
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.over |= now >= self.ends;
        if self.next_bookmark.is_some_and(|at| now >= at) {
            self.next_bookmark = Some(now + BOOKMARK_INTERVAL);
            self.bookmark(false);
        } else if self.over && self.next_bookmark.is_some() {
            // The last bookmark lets the client continue at this revision.
            self.bookmark(false);
        }
    }

    fn read_log(&mut self) {
        let call = Arc::clone(&self.call);
        match call.api.store.changes_after(&call.served.stored, self.revision, BATCH) {
            Ok((revision, events)) => {
                let full = events.len() == BATCH;
                for event in events {
                    self.send_change(&event);
                }
                self.revision = revision;
                if full {
                    self.changed.mark_changed();
                }
            }
            Err(compacted) => {
                let status = Status::too_old(self.revision, compacted.oldest).to_value();
                self.push(&json!({ "type": "ERROR", "object": status }));
                self.over = true;
            }
        }
    }

    /// Sends a change as the watch's selector sees it: an object that starts to match is added, one that ceases to
    /// match is deleted.
    fn send_change(&mut self, event: &StoreEvent) {
        let call = Arc::clone(&self.call);
        let in_namespace =
            |object: &Value| read::namespace(&call).is_none_or(|namespace| object::namespace(object) == namespace);
        let matches = |object: &Value| self.selector.matches(&encode::present(&call.served, object));
        if !in_namespace(&event.object) {
            return;
        }
        let before = event.previous.as_deref().is_some_and(&matches);
        let after = event.change != EventType::Deleted && matches(&event.object);
        match (before, after) {
            (false, true) => self.send("ADDED", &event.object),
            (true, true) => self.send("MODIFIED", &event.object),
            (true, false) if event.change == EventType::Deleted => self.send("DELETED", &event.object),
            (true, false) => {
                // The last matching state, with the revision at which it ceased to match.
                let mut last = event.previous.as_deref().unwrap_or(&event.object).clone();
                object::set_metadata(&mut last, "resourceVersion", Some(json!(event.revision.to_string())));
                self.send("DELETED", &last);
            }
            (false, false) => {}
        }
    }

    fn send(&mut self, kind: &str, object: &Value) {
        let call = Arc::clone(&self.call);
        let mut formatted = encode::formatted(&call.served, call.format, object);
        if matches!(call.format, ResponseFormat::Table(_)) {
            if self.sent_columns {
                formatted.to_mut()["columnDefinitions"] = Value::Null;
            }
            self.sent_columns = true;
        }
        self.push(&json!({ "type": kind, "object": formatted }));
    }

    fn bookmark(&mut self, ends_initial_events: bool) {
        let kind = &self.call.served.kind;
        let mut metadata = json!({ "resourceVersion": self.revision.to_string(), "creationTimestamp": null });
        if ends_initial_events {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let object = match self.call.format {
            ResponseFormat::Object => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
            ResponseFormat::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            ResponseFormat::Table(_) => {
                let row = json!({ "cells": [], "object": { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata } });
                let own = json!({ "resourceVersion": self.revision.to_string() });
                json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": own, "columnDefinitions": null, "rows": [row] })
            }
        };
        self.push(&json!({ "type": "BOOKMARK", "object": object }));
    }

    fn push(&mut self, event: &Value) {
        let mut line = event.to_string();
        line.push('\n');
        self.ready.push_back(line.into());
    }
}
