//! Watches: the changes of a resource after a revision, as a stream of JSON lines.
//!
//! A watch keeps no queue of its own: it reads the log of changes as fast as its client takes them. A client that is slower than the
//! log's memory is told `410 Expired` and lists again.

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

use crate::body::Body;
use crate::call::Call;
use crate::encode::{self, Form};
use crate::object;
use crate::selectors::Selector;
use crate::status::{Result, Status};
use crate::storage::{Change, Event};
use crate::verbs::read;

/// How often a client that asked for bookmarks is told how far the watch is. Kubernetes takes about a minute; its clients only need
/// some period.
const BOOKMARKS_EVERY: Duration = Duration::from_secs(60);

/// How long a watch lasts that names no time, at least; the rest is random, so that watches do not all end together.
const USUAL_SECONDS: u64 = 1800;

/// How long a watch may last at most: a day.
const LONGEST_SECONDS: u64 = 86_400;

/// How many changes are read from the log at once.
const AT_ONCE: usize = 128;

/// The annotation of the bookmark that ends the initial events of a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    call: Arc<Call>,
    selector: Selector,
    /// Everything up to this revision was told.
    revision: u64,
    changed: watch::Receiver<u64>,
    ends: Instant,
    /// None if the client did not ask for bookmarks.
    next_bookmark: Option<Instant>,
    /// Written lines that were not taken yet.
    ready: VecDeque<Bytes>,
    /// Table rows after the first carry no column definitions.
    told_columns: bool,
    over: bool,
}

/// Begins a watch.
pub(crate) fn start(call: &Arc<Call>) -> Result<Response<Body>> {
    let query = &call.query;
    let selector = read::selector(call)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let seconds = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds.min(LONGEST_SECONDS),
        _ => USUAL_SECONDS + rand::rng().random_range(0..USUAL_SECONDS),
    };
    let changed = call.api.store.subscribe(&call.served.stored);
    let wanted = read::revision_parameter(call)?;
    let initial = initial_events(call, wanted)?;
    if let Some(wanted) = wanted {
        read::not_of_the_future(call, wanted)?;
    }
    let now = Instant::now();
    let mut watch = Watch {
        call: Arc::clone(call),
        selector,
        revision: wanted.unwrap_or(0),
        changed,
        ends: now + Duration::from_secs(seconds),
        next_bookmark: bookmarks.then(|| now + BOOKMARKS_EVERY),
        ready: VecDeque::new(),
        told_columns: false,
        over: false,
    };
    match initial {
        Initial::Events { bookmark } => watch.begin_with_everything(bookmark && bookmarks),
        Initial::None if wanted.unwrap_or(0) == 0 => watch.revision = call.api.store.revision(),
        Initial::None => {
            // Refused here, while there is still a status line to say it with.
            let known = call.api.store.changes_after(&call.served.stored, watch.revision, 1);
            known.map_err(|compacted| Status::too_old(watch.revision, compacted.oldest))?;
        }
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

enum Initial {
    /// The objects that there are, as if they had just been added; then a bookmark that says so.
    Events {
        bookmark: bool,
    },
    None,
}

fn initial_events(call: &Call, wanted: Option<u64>) -> Result<Initial> {
    let query = &call.query;
    match query.get("sendInitialEvents") {
        Some("true") => {
            if query.get("resourceVersionMatch") != Some("NotOlderThan") {
                let why = "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                return Err(Status::other(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {why}")));
            }
            Ok(Initial::Events { bookmark: true })
        }
        Some("false") => Ok(Initial::None),
        // Without a revision, or with 0, a watch begins with what there is.
        _ if wanted.unwrap_or(0) == 0 => Ok(Initial::Events { bookmark: false }),
        _ => Ok(Initial::None),
    }
}

impl Watch {
    fn begin_with_everything(&mut self, bookmark: bool) {
        let call = Arc::clone(&self.call);
        let (revision, objects) = call.api.store.list(&call.served.stored, read::namespace(&call));
        self.revision = revision;
        for object in objects {
            if self.selector.matches(&encode::present(&call.served, &object)) {
                self.tell("ADDED", &object);
            }
        }
        if bookmark {
            self.bookmark(true);
        }
    }

    /// The next line, or None when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Marked as seen before reading, so that no change between is missed.
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
            self.next_bookmark = Some(now + BOOKMARKS_EVERY);
            self.bookmark(false);
        } else if self.over && self.next_bookmark.is_some() {
            // The last bookmark lets the client continue where this watch ends.
            self.bookmark(false);
        }
    }

    fn read_log(&mut self) {
        let call = Arc::clone(&self.call);
        match call.api.store.changes_after(&call.served.stored, self.revision, AT_ONCE) {
            Ok((revision, events)) => {
                let full = events.len() == AT_ONCE;
                for event in events {
                    self.tell_change(&event);
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

    /// Tells a change as this watch's selector sees it: an object that begins to match is added, one that ceases is deleted.
    fn tell_change(&mut self, event: &Event) {
        let call = Arc::clone(&self.call);
        let in_namespace =
            |object: &Value| read::namespace(&call).is_none_or(|namespace| object::namespace(object) == namespace);
        let matches = |object: &Value| self.selector.matches(&encode::present(&call.served, object));
        if !in_namespace(&event.object) {
            return;
        }
        let before = event.previous.as_deref().is_some_and(&matches);
        let after = event.change != Change::Deleted && matches(&event.object);
        match (before, after) {
            (false, true) => self.tell("ADDED", &event.object),
            (true, true) => self.tell("MODIFIED", &event.object),
            (true, false) if event.change == Change::Deleted => self.tell("DELETED", &event.object),
            (true, false) => {
                // As it last matched, with the revision at which it ceased to.
                let mut last = event.previous.as_deref().unwrap_or(&event.object).clone();
                object::set_metadata(&mut last, "resourceVersion", Some(json!(event.revision.to_string())));
                self.tell("DELETED", &last);
            }
            (false, false) => {}
        }
    }

    fn tell(&mut self, kind: &str, object: &Value) {
        let call = Arc::clone(&self.call);
        let mut formed = encode::formed(&call.served, call.form, object);
        if matches!(call.form, Form::Table(_)) {
            if self.told_columns {
                formed.to_mut()["columnDefinitions"] = Value::Null;
            }
            self.told_columns = true;
        }
        self.push(&json!({ "type": kind, "object": formed }));
    }

    fn bookmark(&mut self, ends_initial_events: bool) {
        let kind = &self.call.served.kind;
        let mut metadata = json!({ "resourceVersion": self.revision.to_string(), "creationTimestamp": null });
        if ends_initial_events {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let object = match self.call.form {
            Form::Object => json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata }),
            Form::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Form::Table(_) => {
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
