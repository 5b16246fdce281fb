//! A fake API server for tests: TLS, bearer tokens, lists, watches, token reviews and a few writes over a real socket,
//! with outages on demand. `tests/controller.rs` tests against the embedded API server.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use identity::{Authority, Identity, SpiffeId, Trust};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns the certificate authority of all fake API servers.
pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::self_signed_root("fake", YEAR).unwrap())
}

/// A fake API server.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// The objects by collection path without namespace ("/api/v1/pods"), namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<(u64, &'static str, String, Value)>,
    /// The accepted bearer tokens.
    tokens: BTreeSet<String>,
    /// The collections that are answered with 403.
    forbidden: BTreeSet<String>,
    /// The collections that are answered with 404.
    missing: BTreeSet<String>,
    /// The user name and audiences in TokenReviews, by token.
    reviews: BTreeMap<String, (String, Vec<String>)>,
    /// The users that SubjectAccessReviews permit to get paths with a prefix.
    permitted: BTreeSet<(String, String)>,
    /// The token in answers to TokenRequests.
    issued_token: String,
    /// The method and path of each write.
    writes: Vec<String>,
}

impl Fake {
    /// Starts a server that accepts `token`.
    pub(crate) async fn start(token: &str) -> Arc<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { tokens: [token.to_owned()].into(), ..State::default() };
        let fake = Arc::new(Fake {
            address,
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            serving: Mutex::new(None),
        });
        fake.serve(listener);
        fake
    }

    fn serve(&self, listener: TcpListener) {
        let id = SpiffeId::new("fake", "kube-system", "apiserver").unwrap();
        let credential = authority().credential(&id, &["localhost"], YEAR).unwrap();
        let identity = Identity::new(credential, Trust::new("fake", authority().roots().to_vec(), []).unwrap());
        let acceptor = tokio_rustls::TlsAcceptor::from(identity.plain_server_config(&[b"http/1.1"]));
        let (state, changed) = (Arc::clone(&self.state), self.changed.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (acceptor, state, changed) = (acceptor.clone(), Arc::clone(&state), changed.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        let (state, changed) = (Arc::clone(&state), changed.clone());
                        async move { Ok::<_, Infallible>(answer(request, &state, changed).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
    }

    /// Stops serving and closes every connection; the objects stay.
    pub(crate) async fn stop(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Starts to serve again on the same port.
    pub(crate) async fn again(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns a kubeconfig for this server.
    pub(crate) fn kubeconfig(&self, cluster: &str, token: &str) -> String {
        let roots = authority().roots_pem();
        let access = api::remote_secret::Access {
            cluster,
            server: &format!("https://127.0.0.1:{}", self.address.port()),
            tls_server_name: Some("localhost"),
            ca_pem: roots.as_bytes(),
            token,
        };
        api::remote_secret::kubeconfig(&access).unwrap()
    }

    /// Returns a client for this server.
    pub(crate) async fn client(&self, token: &str) -> kube::Client {
        let config = kube::config::Kubeconfig::from_yaml(&self.kubeconfig("fake", token)).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    pub(crate) fn allow(&self, tokens: &[&str]) {
        self.state().tokens = tokens.iter().map(|t| (*t).to_owned()).collect();
    }

    pub(crate) fn forbid(&self, collection: &str) {
        self.state().forbidden.insert(collection.to_owned());
    }

    pub(crate) fn miss(&self, collection: &str) {
        self.state().missing.insert(collection.to_owned());
    }

    pub(crate) fn review(&self, token: &str, user: &str, audiences: &[&str]) {
        let audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
        self.state().reviews.insert(token.to_owned(), (user.to_owned(), audiences));
    }

    pub(crate) fn permit(&self, user: &str, prefix: &str) {
        self.state().permitted.insert((user.to_owned(), prefix.to_owned()));
    }

    pub(crate) fn make_token(&self, token: &str) {
        self.state().issued_token = token.to_owned();
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.state().writes.clone()
    }

    pub(crate) fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(collection.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Adds or updates an object of a collection such as "/api/v1/pods".
    pub(crate) fn put(&self, collection: &str, object: Value) {
        put(&mut self.state(), collection, object);
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let removed = remove(&mut self.state(), collection, namespace, name);
        assert!(removed.status().is_success(), "no {collection} {namespace}/{name}");
        self.changed.send_modify(|n| *n += 1);
    }

    /// Adds or updates a remote secret.
    pub(crate) fn put_secret(&self, name: &str, entries: &[(&str, &str)]) {
        use base64::Engine as _;
        let data: serde_json::Map<_, _> = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), json!(base64::engine::general_purpose::STANDARD.encode(v))))
            .collect();
        let metadata = json!({"name": name, "namespace": "istio-system", "labels": {"istio/multiCluster": "true"},
                              "creationTimestamp": "2026-01-01T00:00:00Z"});
        self.put("/api/v1/secrets", json!({"metadata": metadata, "data": data}));
    }
}

/// Stores an object with what a server sets, and returns it.
fn put(state: &mut State, collection: &str, mut object: Value) -> Value {
    state.version += 1;
    let version = state.version;
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let key = (collection.to_owned(), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let before = state.objects.get(&key).cloned().unwrap_or_default();
    if object["metadata"]["uid"].is_null() {
        let uid = before["metadata"]["uid"].as_str().map(str::to_owned);
        object["metadata"]["uid"] = json!(uid.unwrap_or_else(|| format!("uid-{version}")));
    }
    let (generation, given) = (&before["metadata"]["generation"], &object["metadata"]["generation"]);
    if given.is_null() || given == generation {
        // Of the fields that count, the ones that tests change.
        let changed = ["spec", "ports", "endpoints"].iter().any(|field| before[*field] != object[*field]);
        object["metadata"]["generation"] = json!(generation.as_u64().unwrap_or_default() + u64::from(changed));
    }
    let kind = if state.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
    state.log.push((version, kind, collection.to_owned(), object.clone()));
    object
}

fn remove(state: &mut State, collection: &str, namespace: &str, name: &str) -> Response<Body> {
    let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
    let Some(mut object) = state.objects.remove(&key) else { return status(404, "NotFound", "not found") };
    state.version += 1;
    let version = state.version;
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    let answer = reply(StatusCode::OK, &object);
    state.log.push((version, "DELETED", collection.to_owned(), object));
    answer
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                      "message": message, "metadata": {}});
    reply(StatusCode::from_u16(code).unwrap(), &body)
}

fn reply(code: StatusCode, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

/// Splits a path into collection, namespace and name: "/api/v1/namespaces/a/pods/b" is ("/api/v1/pods", "a",
/// Some("b")).
fn split(path: &str) -> (String, String, Option<String>) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = if parts[0] == "api" { 2 } else { 3 };
    let mut namespace = "";
    if parts.get(group) == Some(&"namespaces") && parts.len() > group + 2 {
        namespace = parts[group + 1];
        parts.drain(group..group + 2);
    }
    let name = (parts.len() > group + 1).then(|| parts[group + 1].to_owned());
    parts.truncate(group + 1);
    (format!("/{}", parts.join("/")), namespace.to_owned(), name)
}

async fn answer(request: Request<Incoming>, state: &Arc<Mutex<State>>, changed: watch::Sender<u64>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let bearer = parts.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bearer = bearer.trim_start_matches("Bearer ").to_owned();
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.replace("%2F", "/").replace("%3D", "=")))
        .collect();
    let mut locked = state.lock().unwrap();
    if !locked.tokens.contains(&bearer) {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if path == "/version" {
        let fields = [
            "buildDate",
            "compiler",
            "gitCommit",
            "gitTreeState",
            "gitVersion",
            "goVersion",
            "major",
            "minor",
            "platform",
        ];
        return reply(StatusCode::OK, &Value::Object(fields.iter().map(|f| ((*f).to_owned(), json!("1"))).collect()));
    }
    if path.ends_with("/tokenreviews") {
        let review: Value = serde_json::from_slice(&body).unwrap();
        return reply(StatusCode::CREATED, &token_review(&locked, &review));
    }
    if path.ends_with("/subjectaccessreviews") {
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        let text = |at: &str| review.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (user, path) = (text("/spec/user"), text("/spec/nonResourceAttributes/path"));
        let permits = |(of, prefix): &(String, String)| *of == user && path.starts_with(&**prefix);
        review["status"] = json!({"allowed": locked.permitted.iter().any(permits)});
        return reply(StatusCode::CREATED, &review);
    }
    if path.ends_with("/token") {
        let status = json!({"token": locked.issued_token, "expirationTimestamp": "2030-01-01T00:00:00Z"});
        return reply(StatusCode::CREATED, &json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
    }
    let (collection, namespace, name) = split(&path);
    if locked.forbidden.contains(&collection) {
        return status(403, "Forbidden", "forbidden: not allowed");
    }
    if locked.missing.contains(&collection) {
        return status(404, "NotFound", "the server could not find the requested resource");
    }
    if parts.method != Method::GET {
        locked.writes.push(format!("{} {path}", parts.method));
        if parts.method == Method::DELETE {
            let removed = remove(&mut locked, &collection, &namespace, name.as_deref().unwrap_or_default());
            changed.send_modify(|n| *n += 1);
            return removed;
        }
        let content = parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let written = write(&mut locked, &parts.method, content, &collection, &namespace, name, &body);
        changed.send_modify(|n| *n += 1);
        return written;
    }
    if let Some(name) = name {
        return match locked.objects.get(&(collection, namespace, name.clone())) {
            Some(object) => reply(StatusCode::OK, object),
            None => status(404, "NotFound", &format!("{name} not found")),
        };
    }
    let wanted = Wanted {
        collection,
        namespace,
        label: query.get("labelSelector").cloned(),
        field: query.get("fieldSelector").cloned(),
    };
    if query.contains_key("watch") {
        let from = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        drop(locked);
        return watching(wanted, from, changed.subscribe(), Arc::clone(state));
    }
    let items: Vec<_> =
        locked.objects.iter().filter(|((c, ..), o)| wanted.matches(c, o)).map(|(_, o)| o.clone()).collect();
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": locked.version.to_string()}, "items": items});
    reply(StatusCode::OK, &list)
}

fn write(
    state: &mut State,
    method: &Method,
    content: &str,
    collection: &str,
    namespace: &str,
    name: Option<String>,
    body: &[u8],
) -> Response<Body> {
    if method == Method::DELETE {
        let key = (collection.to_owned(), namespace.to_owned(), name.unwrap_or_default());
        let Some(mut object) = state.objects.remove(&key) else { return status(404, "NotFound", "not found") };
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.log.push((state.version, "DELETED", collection.to_owned(), object.clone()));
        return reply(StatusCode::OK, &object);
    }
    let mut object: Value = serde_json::from_slice(body).unwrap_or_default();
    if let (Some(changes), Some(name)) = (object.as_array().cloned(), &name) {
        let key = (collection.to_owned(), namespace.to_owned(), name.clone());
        let Some(current) = state.objects.get(&key) else { return status(404, "NotFound", "not found") };
        object = current.clone();
        for change in changes.iter().filter(|change| change["op"] == "add") {
            let (parent, field) = change["path"].as_str().unwrap_or_default().rsplit_once('/').unwrap_or_default();
            object.pointer_mut(parent).unwrap()[field] = change["value"].clone();
        }
    }
    if content == "application/merge-patch+json" {
        let key = (collection.to_owned(), namespace.to_owned(), name.clone().unwrap_or_default());
        let Some(current) = state.objects.get(&key) else { return status(404, "NotFound", "not found") };
        let mut merged = current.clone();
        for (key, value) in object["data"].as_object().into_iter().flatten() {
            merged["data"][key] = value.clone();
        }
        for (key, value) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "data") {
            merged[key] = value.clone();
        }
        object = merged;
    }
    object["metadata"]["namespace"] = json!(namespace);
    let own_name = object["metadata"]["name"].as_str().map(str::to_owned);
    let Some(name) = name.or(own_name) else { return status(422, "Invalid", "no name") };
    object["metadata"]["name"] = json!(name);
    let exists = state.objects.contains_key(&(collection.to_owned(), namespace.to_owned(), name.clone()));
    if method == Method::POST && exists {
        return status(409, "AlreadyExists", &format!("{name} already exists"));
    }
    if let Some(strings) = object["stringData"].take().as_object() {
        use base64::Engine as _;
        for (key, value) in strings {
            let text = value.as_str().unwrap_or_default();
            object["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(text));
        }
    }
    let object = put(state, collection, object);
    reply(if exists { StatusCode::OK } else { StatusCode::CREATED }, &object)
}

fn token_review(state: &State, review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let requested: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let status = match state.reviews.get(token) {
        Some((user, audiences)) => {
            let common: Vec<_> = audiences.iter().filter(|a| requested.contains(&a.as_str())).collect();
            if common.is_empty() {
                json!({"authenticated": false, "error": "token audiences do not match"})
            } else {
                json!({"authenticated": true, "user": {"username": user, "groups": ["system:serviceaccounts"]}, "audiences": common})
            }
        }
        None => json!({"authenticated": false, "error": "invalid bearer token"}),
    };
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": review["spec"], "status": status})
}

struct Wanted {
    collection: String,
    namespace: String,
    label: Option<String>,
    field: Option<String>,
}

impl Wanted {
    fn matches(&self, collection: &str, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let label = self.label.as_ref().and_then(|l| l.split_once('='));
        let field = self.field.as_ref().and_then(|f| f.split_once('='));
        collection == self.collection
            && (self.namespace.is_empty() || metadata["namespace"] == json!(self.namespace))
            && label.is_none_or(|(key, value)| metadata["labels"][key] == json!(value))
            && field.is_none_or(|(_, name)| metadata["name"] == json!(name))
    }
}

fn watching(wanted: Wanted, from: u64, changed: watch::Receiver<u64>, state: Arc<Mutex<State>>) -> Response<Body> {
    let steps = futures_util::stream::unfold((from, changed), move |(from, mut changed)| {
        let lines: Vec<_> = {
            let state = state.lock().unwrap();
            let events = state.log.iter().filter(|(version, _, c, o)| *version > from && wanted.matches(c, o));
            events.map(|(version, kind, _, object)| (*version, json!({"type": kind, "object": object}))).collect()
        };
        async move {
            if lines.is_empty() {
                changed.changed().await.ok()?;
                return Some((Bytes::new(), (from, changed)));
            }
            let last = lines.last().map_or(from, |(version, _)| *version);
            let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
            Some((Bytes::from(text), (last, changed)))
        }
    });
    let frames = steps.filter(|b| std::future::ready(!b.is_empty())).map(|bytes| Ok(Frame::data(bytes)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}
