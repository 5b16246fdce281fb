//! The page `/authz`: the policies in force, and what they decide about a request that is described in the query. It is
//! decided by the data path's own code with the data path's own policies.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use identity::SpiffeId;
use policy::authorization::{Action, Missing};
use policy::{Claims, Decision, Facts, Headers, PeerMode, Presented, Request};
use proxy::mesh::{MeshSnapshot, Protocol};
use proxy::report::ObservedTraffic;
use runtime::admin::{Query, Reply};
use serde_json::{Value, json};

/// The largest number of rules whose missing fields are listed.
const RULES: usize = 20;

/// Answers: without a parameter `port` the policies, otherwise the decision.
/// `own` is the address of the pod.
pub(super) fn answer(snapshot: &MeshSnapshot, own: Option<IpAddr>, query: &Query) -> Reply {
    let decided = match query.get("port") {
        None => Ok(policies(snapshot)),
        Some(port) => port
            .parse()
            .map_err(|_| format!("{port:?} is not a port"))
            .and_then(|port| decide(snapshot, own, query, port)),
    };
    match decided {
        Ok(value) => Reply::json(&value),
        Err(why) => Reply { status: 400, ..Reply::text(format!("{why}\n")) },
    }
}

fn policies(snapshot: &MeshSnapshot) -> Value {
    let ports = snapshot.own.iter().flat_map(|own| own.ports.iter());
    let policies = snapshot.authorization.iter().flat_map(|of| of.policies());
    json!({
        "complete": snapshot.authorization.is_some(),
        "mtls": snapshot.authentication.as_ref().map(|of| mode(of.mode)),
        "ports": ports.map(|port| json!({
            "port": port.number,
            "protocol": super::protocol(port.protocol),
            "service": &*port.service,
            "mtls": snapshot.authentication.as_ref().map(|of| mode(of.mode_of(port.number))),
        })).collect::<Vec<_>>(),
        "policies": policies.map(|policy| json!({
            "name": &*policy.name,
            "action": action(&policy.action),
            "rules": policy.rules.len(),
            "dryRun": policy.dry_run,
        })).collect::<Vec<_>>(),
    })
}

/// Returns what was accepted, for `isthmus authz suggest`.
pub(super) fn observed(cluster: &str, traffic: &ObservedTraffic) -> Value {
    let accepted = traffic.accepted().into_iter().map(|of| {
        json!({
            "principal": of.principal.as_deref().map(|id| id.strip_prefix("spiffe://").unwrap_or(id)),
            "cluster": of.cluster.as_deref(),
            "port": of.port,
            "method": of.method,
            "path": &*of.path,
            "count": of.count,
        })
    });
    json!({
        "cluster": cluster,
        "seconds": traffic.age().as_secs(),
        "unrecorded": traffic.unrecorded(),
        "accepted": accepted.collect::<Vec<_>>(),
    })
}

fn mode(mode: PeerMode) -> &'static str {
    match mode {
        PeerMode::Permissive => "PERMISSIVE",
        PeerMode::Strict => "STRICT",
        PeerMode::Disable => "DISABLE",
    }
}

fn action(action: &Action) -> &'static str {
    match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
        Action::Custom(_) => "CUSTOM",
    }
}

fn decide(snapshot: &MeshSnapshot, own: Option<IpAddr>, query: &Query, port: u16) -> Result<Value, String> {
    let address = |name: &str, otherwise: IpAddr| match query.get(name) {
        None | Some("") => Ok(otherwise),
        Some(text) => text.parse().map_err(|_| format!("{name}: {text:?} is not an IP address")),
    };
    let principal = query.get("principal").filter(|text| !text.is_empty()).map(|text| {
        let id = format!("spiffe://{}", text.strip_prefix("spiffe://").unwrap_or(text));
        id.parse::<SpiffeId>().map_err(|error| format!("principal: {error}"))
    });
    let principal = principal.transpose()?;
    // Clients of the mesh send plaintext to ports with DISABLE.
    let is_plaintext = snapshot.authentication.as_ref().is_some_and(|modes| modes.mode_of(port) == PeerMode::Disable);
    let principal = principal.filter(|_| !is_plaintext);
    let source = address("source", IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
    let claims = query.get("claims").map(serde_json::from_str::<Value>).transpose();
    let claims = claims.map_err(|error| format!("claims: {error}"))?.map(|claims| {
        let rules = snapshot.tokens.as_deref();
        let words = rules.map_or(&[][..], |rules| rules.space_delimited(claims["iss"].as_str().unwrap_or_default()));
        DescribedClaims { words: words.to_vec(), claims }
    });
    let method = query.get("method").filter(|method| !method.is_empty());
    // Policies see the path in the form of the mesh, as the application does.
    let target = query.get("path").unwrap_or("/").split('#').next().unwrap_or_default();
    let (path, parameters) = target.split_once('?').map_or((target, None), |(path, of)| (path, Some(of)));
    let Some(path) = snapshot.settings.path_normalization.of(path) else {
        return Ok(json!({"allowed": false, "reason": "the path has an encoded NUL (%00)"}));
    };
    let target = parameters.map_or_else(|| path.to_string(), |of| format!("{path}?{of}"));
    let lines = query.all("header").filter_map(|line| line.split_once(':')).collect();
    let headers = Described { lines, target, query };
    let request = method.map(|method| Request {
        method,
        path: &path,
        host: query.get("host").unwrap_or_default(),
        headers: &headers,
        claims: claims.as_ref().map(|claims| claims as &dyn Claims),
    });
    let facts = Facts {
        principal: principal.as_ref(),
        cluster: query.get("cluster").filter(|cluster| !cluster.is_empty() && !is_plaintext),
        source,
        remote: address("remote", source)?,
        destination: address("destination", own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))?,
        port,
        server_name: query.get("sni"),
        request,
    };
    Ok(decision(snapshot, &facts))
}

fn decision(snapshot: &MeshSnapshot, facts: &Facts<'_>) -> Value {
    let presented = if facts.principal.is_some() { Presented::MeshTls } else { Presented::Plaintext };
    let modes = snapshot.authentication.as_deref();
    let mtls = modes.map(|modes| (modes.mode_of(facts.port), modes.decide(facts.port, presented)));
    if let Some((of, policy::Accepted::Refused)) = mtls {
        return json!({"allowed": false, "by": "PeerAuthentication", "mtls": mode(of),
            "reason": "plaintext, and the port accepts mutual TLS only"});
    }
    let protocol = snapshot.own.as_ref().and_then(|own| own.port(facts.port)).map(|port| port.protocol);
    if facts.request.is_some() && protocol == Some(Protocol::Tcp) {
        return decision(snapshot, &Facts { request: None, ..*facts });
    }
    let Some(policies) = snapshot.authorization.as_deref() else {
        return json!({"allowed": false, "reason": "the proxy has not received its policies"});
    };
    let rule = |of: &policy::authorization::Matched| json!({"policy": &*of.policy, "rule": of.rule});
    let missing = |of: &Missing| json!({"policy": &*of.rule.policy, "rule": of.rule.rule, "fields": of.fields});
    let audited: Vec<_> = policies.audited(facts).map(|name| name.to_string()).collect();
    // A provider that speaks HTTP is not asked about opaque connections.
    let asked = policies.asked().filter(|asked| facts.request.is_some() || !asked.speaks_http());
    let mut value = if let Some((matched, asked)) = policies.custom(facts).zip(asked) {
        match &asked.provider {
            Some(_) => json!({"allowed": null, "by": rule(&matched), "provider": &*asked.name,
                "reason": "an external server decides"}),
            None => json!({"allowed": false, "by": rule(&matched), "reason":
                "a CUSTOM policy matches, and its provider does not exist, or the policies name several"}),
        }
    } else {
        match policies.evaluate(facts) {
            Decision::Allowed => json!({"allowed": true}),
            Decision::Denied(matched) => {
                json!({"allowed": false, "by": rule(&matched), "reason": "a DENY policy matches"})
            }
            Decision::NotAllowed => {
                let missing: Vec<_> = policies.missing(facts).iter().take(RULES).map(missing).collect();
                json!({"allowed": false, "reason": "no ALLOW policy matches", "missing": missing})
            }
        }
    };
    value["request"] = facts.request.is_some().into();
    value["audited"] = json!(audited);
    value["dryRun"] = match policies.evaluate_dry_run(facts) {
        None => Value::Null,
        Some(Decision::Allowed) => json!({"allowed": true}),
        Some(Decision::Denied(matched)) => json!({"allowed": false, "by": rule(&matched)}),
        Some(Decision::NotAllowed) => json!({"allowed": false}),
    };
    value
}

/// Headers of the query: `header=name:value`.
struct Described<'a> {
    lines: Vec<(&'a str, &'a str)>,
    /// The path with the query.
    target: String,
    query: &'a Query,
}

impl Headers for Described<'_> {
    fn any(&self, name: &str, matches: &mut dyn FnMut(Cow<'_, str>) -> bool) -> bool {
        let text = |name| self.query.get(name).unwrap_or_default();
        match name {
            ":method" => matches(text("method").into()),
            ":path" => matches(self.target.as_str().into()),
            ":authority" | "host" => matches(text("host").into()),
            ":scheme" => matches("http".into()),
            _ => {
                let mut lines = self.lines.iter().filter(|(of, _)| of.trim().eq_ignore_ascii_case(name));
                lines.any(|(_, value)| matches(value.trim().into()))
            }
        }
    }
}

/// Claims of the query, as JSON.
struct DescribedClaims {
    claims: Value,
    /// Claims whose text is a list with spaces between its elements.
    words: Vec<Box<str>>,
}

impl Claims for DescribedClaims {
    fn issuer(&self) -> Option<&str> {
        self.claims["iss"].as_str()
    }

    fn subject(&self) -> Option<&str> {
        self.claims["sub"].as_str()
    }

    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool {
        let claim = path.iter().try_fold(&self.claims, |value, name| value.get(&**name));
        match claim {
            Some(Value::String(text)) => {
                let split = matches!(path, [name] if self.words.iter().any(|of| **of == **name));
                if split { text.split(' ').any(matches) } else { matches(text) }
            }
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).any(matches),
            _ => false,
        }
    }
}
