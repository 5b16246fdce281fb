//! Asking one webhook: the `admission.k8s.io/v1` AdmissionReview, and the HTTPS call to a URL or a Service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::operation::Operation;
use crate::call::Call;
use crate::object;
use crate::registry::Served;
use crate::status::Status;
use crate::storage::{GroupResource, Store};

/// The largest answer that is read, as for requests.
const LARGEST_ANSWER: usize = crate::body::LIMIT;

/// How long a webhook may take if its configuration does not say.
const USUAL_TIMEOUT: u64 = 10;

/// The client that asks webhooks.
pub(crate) struct Webhooks {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

/// What a webhook is asked.
pub(super) struct Question<'a> {
    pub(super) call: &'a Call,
    pub(super) operation: Operation,
    /// The version in which the objects are.
    pub(super) asked: &'a Served,
    pub(super) object: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
    pub(super) dry_run: bool,
}

/// What it answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) patch: Option<json_patch::Patch>,
    pub(super) refusal: Option<Status>,
    pub(super) warnings: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("its clientConfig is unusable: {0}")]
    Configuration(String),
    #[error("failed to call webhook: Post {url:?}: {why}")]
    Call { url: String, why: String },
    #[error("its answer is no AdmissionReview for this request: {0}")]
    Answer(String),
}

/// Where a webhook is.
struct Target {
    address: String,
    host: String,
    path: String,
    url: String,
}

impl Webhooks {
    pub(crate) fn new(provider: Arc<rustls::crypto::CryptoProvider>) -> Self {
        Self { provider }
    }

    pub(super) async fn ask(
        &self,
        store: &Store,
        webhook: &Value,
        question: &Question<'_>,
    ) -> std::result::Result<Answer, Failure> {
        let config = &webhook["clientConfig"];
        let target = target(store, config)?;
        let tls = self.trust(config)?;
        let seconds = webhook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(USUAL_TIMEOUT).clamp(1, 30);
        let uid = object::new_uid();
        let body = Bytes::from(question.to_value(&uid).to_string());
        let failed = |why: String| Failure::Call { url: format!("{}?timeout={seconds}s", target.url), why };
        let bytes = tokio::time::timeout(Duration::from_secs(seconds), post(&target, tls, seconds, body));
        let bytes = bytes
            .await
            .map_err(|_| failed("context deadline exceeded".into()))?
            .map_err(|error| failed(error.to_string()))?;
        let name = object::text(webhook, "/name");
        parse_answer(name, &uid, &bytes)
    }

    fn trust(&self, config: &Value) -> std::result::Result<TlsConnector, Failure> {
        let unusable = |why: String| Failure::Configuration(format!("caBundle: {why}"));
        let bundle = STANDARD.decode(object::text(config, "/caBundle")).map_err(|error| unusable(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bundle) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("it holds no certificate".into()));
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions();
        let config =
            config.map_err(|error| unusable(error.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl Question<'_> {
    fn to_value(&self, uid: &str) -> Value {
        let call = self.call;
        let kind = &self.asked.kind;
        let described =
            |kind: &crate::kinds::Kind| json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        let resource = |kind: &crate::kinds::Kind| json!({ "group": kind.group, "version": kind.version, "resource": kind.plural });
        let name = match call.route.name.as_str() {
            "" => self.object.map_or("", object::name),
            name => name,
        };
        let options = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
        };
        let mut request = json!({
            "uid": uid,
            "kind": described(kind),
            "resource": resource(kind),
            "requestKind": described(&call.served.kind),
            "requestResource": resource(&call.served.kind),
            "operation": self.operation.name(),
            "userInfo": call.user.to_value(),
            "object": self.object,
            "oldObject": self.old,
            "dryRun": self.dry_run,
            "options": { "kind": options, "apiVersion": "meta.k8s.io/v1" },
        });
        if !name.is_empty() {
            request["name"] = json!(name);
        }
        if kind.namespaced {
            request["namespace"] = json!(call.route.namespace);
        }
        if !call.route.subresource.is_empty() {
            request["subResource"] = json!(call.route.subresource);
            request["requestSubResource"] = json!(call.route.subresource);
        }
        json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
    }
}

fn target(store: &Store, config: &Value) -> std::result::Result<Target, Failure> {
    let unusable = |why: String| Failure::Configuration(why);
    let url = object::text(config, "/url");
    if !url.is_empty() {
        let parsed = url::Url::parse(url).map_err(|error| unusable(format!("url {url:?}: {error}")))?;
        if parsed.scheme() != "https" {
            return Err(unusable(format!("url {url:?}: only https is allowed")));
        }
        let host = parsed.host_str().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let port = parsed.port_or_known_default().unwrap_or(443);
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        return Ok(Target { address, host, path: parsed.path().to_owned(), url: url.to_owned() });
    }
    let service = &config["service"];
    let (namespace, name) = (object::text(service, "/namespace"), object::text(service, "/name"));
    let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
    let path = match object::text(service, "/path") {
        "" => "/",
        path => path,
    };
    let kept = store.get(&GroupResource::new("", "services"), namespace, name);
    let kept = kept.ok_or_else(|| unusable(format!("service {name:?} not found in namespace {namespace:?}")))?;
    if !object::list(&kept, "/spec/ports").iter().any(|known| known.get("port").and_then(Value::as_u64) == Some(port)) {
        return Err(unusable(format!("service {namespace}/{name} has no port {port}")));
    }
    let address = match object::text(&kept, "/spec/type") {
        "ExternalName" => format!("{}:{port}", object::text(&kept, "/spec/externalName")),
        _ => {
            let address = object::text(&kept, "/spec/clusterIP");
            let address =
                address.parse().map_err(|_| unusable(format!("service {namespace}/{name} has no ClusterIP")))?;
            SocketAddr::new(address, u16::try_from(port).unwrap_or(443)).to_string()
        }
    };
    let host = format!("{name}.{namespace}.svc");
    let url = format!("https://{host}:{port}{path}");
    Ok(Target { address, host, path: path.to_owned(), url })
}

type CallError = Box<dyn std::error::Error + Send + Sync>;

async fn post(target: &Target, tls: TlsConnector, seconds: u64, body: Bytes) -> std::result::Result<Bytes, CallError> {
    let stream =
        TcpStream::connect(&target.address).await.map_err(|error| format!("dial tcp {}: {error}", target.address))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(target.host.clone())?;
    let stream = tls.connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::post(format!("{}?timeout={seconds}s", target.path))
        .header(HOST, &target.host)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let code = response.status();
        let bytes = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await?.to_bytes();
        if code.is_success() {
            return Ok::<_, CallError>(bytes);
        }
        let said: String = String::from_utf8_lossy(&bytes).chars().take(256).collect();
        Err(format!("the server answered {code}: {said}").into())
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            // The answer counts even if the connection ends with it.
            biased;
            answer = &mut exchange => return answer,
            ended = &mut connection, if open => {
                ended?;
                open = false;
            }
        }
    }
}

fn parse_answer(name: &str, uid: &str, bytes: &[u8]) -> std::result::Result<Answer, Failure> {
    let bad = |why: &str| Failure::Answer(why.to_owned());
    let review: Value = serde_json::from_slice(bytes).map_err(|error| Failure::Answer(error.to_string()))?;
    if object::text(&review, "/apiVersion") != "admission.k8s.io/v1"
        || object::text(&review, "/kind") != "AdmissionReview"
    {
        return Err(bad("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview"));
    }
    let response =
        review.get("response").filter(|response| response.is_object()).ok_or_else(|| bad("it has no response"))?;
    if object::text(response, "/uid") != uid {
        return Err(bad("expected response.uid to be that of the request"));
    }
    let warnings = object::list(response, "/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if response.get("allowed").and_then(Value::as_bool) != Some(true) {
        return Ok(Answer { refusal: Some(refusal(name, &response["status"])), warnings, patch: None });
    }
    let patch = match object::text(response, "/patch") {
        "" => None,
        _ if object::text(response, "/patchType") != "JSONPatch" => {
            return Err(bad("response.patchType must be JSONPatch"));
        }
        patch => {
            let patch = STANDARD.decode(patch).map_err(|error| bad(&format!("response.patch: {error}")))?;
            Some(serde_json::from_slice(&patch).map_err(|error| bad(&format!("response.patch: {error}")))?)
        }
    };
    Ok(Answer { patch, refusal: None, warnings })
}

/// A webhook's refusal in Kubernetes' words.
fn refusal(name: &str, status: &Value) -> Status {
    let code = status
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| *code >= 400);
    let (message, reason) = (object::text(status, "/message"), object::text(status, "/reason"));
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    Status::other(code.unwrap_or(400), reason.to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> std::result::Result<Answer, Failure> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        parse_answer("w.example", "u", review.to_string().as_bytes())
    }

    #[test]
    fn answers() {
        assert!(answer(json!({"uid": "u", "allowed": true})).expect("allowed").patch.is_none());
        let patch = STANDARD.encode(r#"[{"op": "add", "path": "/a", "value": 1}]"#);
        let patched = answer(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}));
        assert_eq!(patched.expect("allowed").patch.expect("patched").0.len(), 1);
        let denied = answer(
            json!({"uid": "u", "allowed": false, "status": {"code": 403, "message": "no", "reason": "Forbidden"}}),
        );
        let denied = denied.expect("an answer").refusal.expect("denied");
        assert_eq!(
            (denied.code, denied.message.as_str()),
            (403, "admission webhook \"w.example\" denied the request: no")
        );
    }

    #[test]
    fn answers_that_do_not_count() {
        assert!(answer(json!({"uid": "other", "allowed": true})).is_err());
        assert!(answer(json!({"uid": "u", "allowed": true, "patch": "!", "patchType": "JSONPatch"})).is_err());
        assert!(answer(json!({"uid": "u", "allowed": true, "patch": "W10="})).is_err());
        assert!(parse_answer("w", "u", b"<html>").is_err());
    }
}
