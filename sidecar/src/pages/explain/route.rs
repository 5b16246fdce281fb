//! The route that a request takes, in words.

use http::StatusCode;
use route::{Abort, Action, Condition, HttpMatch, HttpRoute, StringMatch, Table};
use serde_json::{Value, json};

/// Returns the routes of a host and the one that is taken, if any is.
pub(super) fn document(table: &Table, at: Option<usize>) -> Value {
    let kind = if table.source_kind.is_empty() { "VirtualService" } else { &*table.source_kind };
    let mut value = json!({"kind": kind, "object": &*table.source, "of": table.http_routes().len(), "position": null});
    let Some((at, taken)) = at.and_then(|at| Some((at, table.http_routes().get(at)?))) else { return value };
    value["position"] = json!(at + 1);
    value["name"] = json!(&*taken.name);
    value["conditions"] = json!(conditions(taken));
    value["delay"] = json!(
        taken
            .fault
            .delay
            .map(|(delay, share)| { json!({"seconds": delay.as_secs_f64(), "percent": f64::from(share) / 10_000.0}) })
    );
    value["abort"] = json!(taken.fault.abort.map(|(abort, share)| {
        let status = match abort {
            Abort::Http(status) => status,
            Abort::Grpc(_) => StatusCode::OK,
        };
        json!({"status": status.as_u16(), "percent": f64::from(share) / 10_000.0})
    }));
    match &taken.action {
        Action::Forward(forward) => {
            value["action"] = json!("forward");
            value["timeoutSeconds"] = json!(forward.timeout.map(|limit| limit.as_secs_f64()));
            value["rewritesPath"] = json!(forward.rewrite.path.is_some());
            value["authority"] = json!(forward.rewrite.authority.as_deref());
            value["mirrors"] = forward
                .mirrors
                .iter()
                .map(|mirror| {
                    json!({"host": &*mirror.destination.host, "subset": &*mirror.destination.subset,
                        "percent": f64::from(mirror.share) / 10_000.0})
                })
                .collect();
        }
        Action::Redirect(redirect) => {
            value["action"] = json!("redirect");
            value["status"] = json!(redirect.status.as_u16());
        }
        Action::Respond(response) => {
            value["action"] = json!("respond");
            value["status"] = json!(response.status.as_u16());
        }
    }
    value
}

/// Returns the conditions of a route: alternatives, each with all that has to be met. None: every request.
fn conditions(route: &HttpRoute) -> Vec<String> {
    route.matches.iter().map(alternative).collect()
}

fn alternative(of: &HttpMatch) -> String {
    let mut parts = Vec::new();
    let fields = [("path", &of.path), ("method", &of.method), ("scheme", &of.scheme), ("authority", &of.authority)];
    parts.extend(fields.into_iter().filter_map(|(name, pattern)| Some(format!("{name} {}", text(pattern.as_ref()?)))));
    parts.extend(of.headers.iter().map(|of| condition("header", of)));
    parts.extend(of.query.iter().map(|of| condition("query parameter", of)));
    parts.extend(of.port.map(|port| format!("port {port}")));
    if !of.claims.is_empty() {
        parts.push("claims of a token".to_owned());
    }
    if !of.further.is_empty() {
        parts.push("further conditions".to_owned());
    }
    if parts.is_empty() { "every request".to_owned() } else { parts.join(", ") }
}

fn condition<N: std::fmt::Display>(kind: &str, of: &Condition<N>) -> String {
    let not = if of.invert { "not " } else { "" };
    format!("{kind} {} {not}{}", of.name, text(&of.value))
}

fn text(pattern: &StringMatch) -> String {
    match pattern {
        StringMatch::Exact(text) => format!("is {text}"),
        StringMatch::ExactIgnoreCase(text) => format!("is {text} in any case"),
        StringMatch::Prefix(text) | StringMatch::PathPrefix(text) => format!("starts with {text}"),
        StringMatch::PrefixIgnoreCase(text) => format!("starts with {text} in any case"),
        StringMatch::Regex(regex) => format!("matches {}", regex.as_str()),
        StringMatch::Present => "is present".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_stated_in_words() {
        assert_eq!(alternative(&HttpMatch::default()), "every request");
        let header =
            Condition { name: "x-user".parse().unwrap(), value: StringMatch::Exact("jason".into()), invert: false };
        let absent = Condition { name: "x-old".parse().unwrap(), value: StringMatch::Present, invert: true };
        let both = HttpMatch {
            path: Some(StringMatch::PathPrefix("/a".into())),
            headers: vec![header, absent],
            port: Some(9080),
            ..HttpMatch::default()
        };
        assert_eq!(
            alternative(&both),
            "path starts with /a, header x-user is jason, header x-old not is present, port 9080"
        );
    }
}
