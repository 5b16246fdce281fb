//! What the sidecar says that it decides about a request: the question of `isthmus authz test`, to the same page.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use anyhow::Result;
use serde_json::Value;

use super::bed::PolicyBed;
use super::tokens;
use crate::bed::split;
use crate::case::{Case, Protocol};
use crate::client::Order;
use crate::outcome::Outcome;
use crate::places::{CLIENTS, PLAIN, PodIdentity};

/// One in so many cases is asked about by the command too.
const BY_COMMAND: usize = 16;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Whether the request is allowed; none if another server decides.
    allowed: Option<bool>,
    text: String,
    /// What is wrong with the answer itself: the question is not understood, or the command answers something else.
    problem: Option<String>,
}

impl Answer {
    /// Reports whether the answer is what came of the request; none if that depends on more than policies.
    #[must_use]
    pub fn agrees(&self, outcome: &Outcome) -> Option<bool> {
        let is_token = outcome.status == Some(401)
            || outcome.details.as_deref().is_some_and(|details| details.starts_with("jwt_authn"));
        if self.problem.is_some() {
            return Some(false);
        }
        // A request that is not valid, or whose token is not, is refused before policies see it.
        if is_token || outcome.status == Some(400) {
            return None;
        }
        self.allowed.map(|allowed| allowed != outcome.arrivals.is_empty())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isthmus authz test answers {} {}", self.text.trim(), self.problem.as_deref().unwrap_or_default())
    }
}

/// Asks about a request before it is sent. Returns none if the command cannot express it.
///
/// # Errors
/// Returns an error if the sidecar does not answer, or the command cannot be run.
pub(super) async fn ask(
    bed: &PolicyBed,
    case: &Case,
    index: usize,
    order: &Order,
    namespace: &str,
) -> Result<Option<Answer>> {
    let request = &case.requests[index];
    // TLS that is not the mesh's, the server name of a handshake, headers that claims give, and targets that are no paths.
    let has = |field: &str| case.config.iter().any(|object| object.to_string().contains(field));
    let is_about_claims = has("outputClaimToHeaders") && has("request.headers");
    if order.protocol == Protocol::Tls || has("connection.sni") || is_about_claims || !order.path.starts_with('/') {
        return Ok(None);
    }
    let mut fields: Vec<(&str, String)> = Vec::new();
    let port = match order.address.port() {
        80 => 8080,
        81 => 8081,
        82 => 8082,
        other => other,
    };
    fields.push(("port", port.to_string()));
    let is_http = order.protocol != Protocol::Tcp;
    let method = if order.protocol == Protocol::Grpc { "POST" } else { &order.method };
    if is_http {
        fields.push(("method", method.to_owned()));
    }
    fields.push(("path", order.path.clone()));
    fields.push(("host", order.host.clone()));
    if CLIENTS.contains(&request.from.as_str()) {
        let path = PodIdentity::of_client(&request.from).path();
        fields.push(("principal", format!("cluster.local/{path}")));
        fields.push(("cluster", "west".to_owned()));
    }
    fields.push(("source", bed.address(&request.from)?.to_string()));
    let remote = order.headers.get("x-forwarded-for").and_then(|value| value.rsplit(',').next());
    if let Some(remote) = remote.and_then(|remote| remote.trim().parse::<IpAddr>().ok()) {
        fields.push(("remote", remote.to_string()));
    }
    let read = case.config.iter().any(|object| object["kind"] == "RequestAuthentication") && !request.unread;
    if read && let Some(claims) = claims(case, index)? {
        fields.push(("claims", claims.to_string()));
    }
    let headers = order.headers.iter().chain(&order.repeated);
    fields.extend(headers.map(|(name, value)| ("header", format!("{name}:{value}"))));
    let mut query = String::from("/authz?");
    fields.iter().for_each(|(name, value)| _ = write!(query, "{name}={}&", escaped(value)));
    let text = bed.page(namespace, query.trim_end_matches('&')).await?;
    let page = serde_json::from_str(&text).unwrap_or(Value::Null);
    let problem = page.is_null().then(|| format!("to {query}"));
    let mut answer = Answer { allowed: page["allowed"].as_bool(), text, problem };
    if index == 0 && case.name.bytes().map(usize::from).sum::<usize>() % BY_COMMAND == 0 {
        answer.problem = command(bed, &request.from, namespace, is_http, &fields, answer.allowed).await?;
    }
    Ok(Some(answer))
}

/// Asks by the command, and returns its answer if that is not the page's.
async fn command(
    bed: &PolicyBed,
    from: &str,
    namespace: &str,
    is_http: bool,
    fields: &[(&str, String)],
    allowed: Option<bool>,
) -> Result<Option<String>> {
    let (of, name) = split(from);
    let caller = if from == PLAIN { "none".to_owned() } else { format!("cluster.local/ns/{of}/sa/{name}") };
    let field =
        |name: &str| fields.iter().find(|(of, _)| *of == name).map(|(_, value)| value.clone()).unwrap_or_default();
    let method = if is_http { field("method") } else { "tcp".to_owned() };
    let mut arguments = ["authz", "test", "--namespace", namespace, &caller, "server", &method, &field("path")]
        .map(str::to_owned)
        .to_vec();
    for (name, value) in fields {
        if ["port", "host", "source", "remote", "cluster", "claims", "header"].contains(name) {
            arguments.extend([format!("--{name}"), value.clone()]);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (is_allowed, output) = bed.bed.isthmus(&arguments).await?;
    let expected = match allowed {
        Some(true) => is_allowed && output.starts_with("allowed"),
        Some(false) => !is_allowed && output.starts_with("refused"),
        None => !is_allowed && output.starts_with("undecided"),
    };
    Ok((!expected).then(|| format!("and the command: isthmus {}: {output}", arguments.join(" "))))
}

/// The claims of the token that a request has.
fn claims(case: &Case, index: usize) -> Result<Option<Value>> {
    let request = &case.requests[index];
    let mut texts = request.headers.values().chain([&request.path]);
    let name = texts.find_map(|text| text.split_once("{token:")?.1.split('}').next());
    let token = name.and_then(|name| case.tokens.get(name)).filter(|token| token.text.is_none());
    token.map(tokens::claims).transpose()
}

/// Escapes a value of a query.
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => out.push(char::from(byte)),
            false => _ = write!(out, "%{byte:02X}"),
        }
        out
    })
}
