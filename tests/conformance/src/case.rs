//! Cases: a configuration as users write it, and requests. One file of `cases/` for each kind of behaviour.
//!
//! A kind has a test bed: `routing`, or `policies`, whose cases are described in [`crate::policies`], or `sidecars` or
//! `gateways`, described in [`crate::cells`].
//!
//! In `routing`, every case has a Service of its own name in namespace `shop`, with port 80 for three versions of a server, and a DestinationRule
//! with a subset for each version unless the case has one or says `subsets: false`. `HOST` in a case stands for its name, and
//! `CERTIFICATES` for the directory of the certificates that [`crate::bed`] makes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod bed;
mod request;

pub use bed::TestBed;
pub use request::{CaseRequest, CaseToken, ClientTls, Protocol, Summary};

/// A kind of behaviour: the content of one file.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The file's name without its extension.
    pub name: String,
    /// What the kind is about.
    pub about: String,
    /// Where its cases run.
    pub bed: TestBed,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// A configuration, requests, and what to observe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Case {
    /// The name of the case and of its Service.
    pub name: String,
    /// The behaviour that the case shows.
    pub about: String,
    /// Why Isthmus differs on purpose.
    #[serde(default)]
    pub differs: Option<String>,
    /// Services beside the one of the case's name, or instead of it.
    #[serde(default)]
    pub services: Vec<CaseService>,
    /// Whether a DestinationRule with three subsets is added if there is none.
    #[serde(default = "yes")]
    pub subsets: bool,
    /// Istio's objects. `apiVersion` and `metadata` have defaults; `later: true` creates an object after all others.
    #[serde(default)]
    pub config: Vec<Value>,
    /// What to observe beside status, version, and arrivals.
    #[serde(default)]
    pub observe: Observe,
    /// Settings of the mesh that differ from those of the bed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Value>,
    /// Whether no other case runs at the same time, because an object is for the whole mesh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// The namespace of the server, if it is not one that is made for cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Tokens of requests, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<String, CaseToken>,
    /// The requests, which are sent in order.
    pub requests: Vec<CaseRequest>,
}

/// A Kubernetes Service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CaseService {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "shop")]
    pub namespace: String,
    /// Its ports, as in Kubernetes.
    #[serde(default = "http_port")]
    pub ports: Vec<Value>,
    /// The labels of its pods.
    #[serde(default = "server")]
    pub selector: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What to observe beside status, version, method, host and path.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Observe {
    /// Headers that the server receives.
    pub request_headers: Vec<String>,
    /// Headers that the client receives.
    pub response_headers: Vec<String>,
    /// The body that the client receives.
    pub body: bool,
    /// The flags of the access log of the client's proxy.
    pub flags: bool,
    /// How long the response takes, within a fifth of a second and a fifth of the time.
    pub duration: bool,
    /// Whether the server is reached by TLS, with which server name, and whether the client has a certificate.
    pub tls: bool,
    /// The handshake of a client that speaks TLS: version, protocol and the certificate that it received.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub handshake: bool,
    /// The port at which the server is reached.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub port: bool,
}

fn yes() -> bool {
    true
}

fn shop() -> String {
    "shop".to_owned()
}

fn http_port() -> Vec<Value> {
    vec![json!({"name": "http", "port": 80, "targetPort": 8080})]
}

fn server() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "server".to_owned())])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindFile {
    about: String,
    #[serde(default)]
    bed: TestBed,
    cases: Vec<Value>,
}

impl Kind {
    /// Reads all kinds of a directory, in the order of their names.
    ///
    /// # Errors
    /// Returns an error that names the file and the case if one is not valid.
    pub fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        let kinds = files.iter().map(|file| Self::read(file)).collect::<Result<Vec<_>>>()?;
        let mut names = std::collections::BTreeSet::new();
        for case in kinds.iter().flat_map(|kind| &kind.cases) {
            ensure!(names.insert(&case.name), "two cases are called {:?}", case.name);
        }
        Ok(kinds)
    }

    fn read(file: &Path) -> Result<Self> {
        let name = file.file_stem().and_then(|name| name.to_str()).context("a file without a name")?.to_owned();
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let content: KindFile = serde_saphyr::from_str_with_options(&text, crate::yaml_options())
            .with_context(|| file.display().to_string())?;
        let case = |value: Value| {
            let called = value["name"].as_str().unwrap_or_default().to_owned();
            Case::from_value(value, content.bed).with_context(|| format!("{}: case {called:?}", file.display()))
        };
        let cases = content.cases.into_iter().map(case).collect::<Result<_>>()?;
        Ok(Self { name, about: content.about, bed: content.bed, cases })
    }
}

impl Case {
    fn from_value(mut value: Value, bed: TestBed) -> Result<Self> {
        let name = value["name"].as_str().context("a case has no name")?.to_owned();
        ensure!(
            name.len() <= 40
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "a name has at most 40 lower-case letters, digits and dashes"
        );
        if bed != TestBed::Policies {
            replace(&mut value, "HOST", &name);
        }
        if let Some((from, to)) = bed.defaults() {
            for request in value["requests"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                request.entry("from").or_insert(json!(from));
                request.entry("to").or_insert(json!(to));
            }
        }
        let mut case: Self = serde_json::from_value(value)?;
        ensure!(!case.requests.is_empty(), "no requests");
        if bed != TestBed::Routing {
            let namespace = if bed == TestBed::Policies { "SLOT" } else { "CELL" };
            case.config.iter_mut().try_for_each(|object| complete_in(object, &name, namespace))?;
            return Ok(case);
        }
        for object in &mut case.config {
            complete(object, &name)?;
        }
        if case.subsets && !case.config.iter().any(|object| object["kind"] == "DestinationRule") {
            let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
            let subsets = ["v1", "v2", "v3"].map(subset);
            let mut rule = json!({"kind": "DestinationRule", "spec": {"host": name, "subsets": subsets}});
            complete(&mut rule, &name)?;
            case.config.push(rule);
        }
        if !case.services.iter().any(|service| service.name == name && service.namespace == "shop") {
            case.services.push(CaseService {
                name,
                namespace: shop(),
                ports: http_port(),
                selector: server(),
                annotations: BTreeMap::new(),
            });
        }
        Ok(case)
    }

    /// A number that changes with what determines the outcomes of the case: a recording of another number is out of date.
    pub fn fingerprint(&self) -> String {
        let mut what = self.clone();
        (what.about, what.differs) = (String::new(), None);
        for request in &mut what.requests {
            request.tolerance = 0.0;
        }
        // FNV-1a.
        let bytes = serde_json::to_vec(&what).unwrap_or_default();
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    }
}

fn complete(object: &mut Value, name: &str) -> Result<()> {
    complete_with(object, "networking.istio.io/v1", name, "shop")
}

/// Completes an object of a case that has a namespace of its own. Policies have a group of their own.
fn complete_in(object: &mut Value, name: &str, namespace: &str) -> Result<()> {
    let api_version = match object["kind"].as_str().unwrap_or_default() {
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => "security.istio.io/v1",
        "Secret" | "Service" => "v1",
        _ => "networking.istio.io/v1",
    };
    complete_with(object, api_version, name, namespace)
}

/// Fills in what users write in every object.
fn complete_with(object: &mut Value, api_version: &str, name: &str, namespace: &str) -> Result<()> {
    let Some(fields) = object.as_object_mut() else { bail!("an object of `config` is no mapping") };
    let is_secret = fields.get("kind").is_some_and(|kind| kind == "Secret");
    let content = if is_secret { "stringData" } else { "spec" };
    ensure!(
        fields.contains_key("kind") && fields.contains_key(content),
        "an object of `config` needs kind and {content}"
    );
    fields.entry("apiVersion").or_insert(json!(api_version));
    let metadata = fields.entry("metadata").or_insert(json!({}));
    let metadata = metadata.as_object_mut().context("`metadata` is no mapping")?;
    metadata.entry("name").or_insert(json!(name));
    metadata.entry("namespace").or_insert(json!(namespace));
    Ok(())
}

/// Replaces a word in all texts of a value, and in the keys of its mappings.
pub(crate) fn replace(value: &mut Value, word: &str, with: &str) {
    match value {
        Value::String(text) => *text = text.replace(word, with),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, word, with)),
        Value::Object(fields) => {
            let all = std::mem::take(fields);
            for (key, mut field) in all {
                replace(&mut field, word, with);
                fields.insert(key.replace(word, with), field);
            }
        }
        _ => {}
    }
}
