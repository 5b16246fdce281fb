//! `isthmus authz test`: what the policies of a workload decide about a request.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use lab::console::print;
use serde_json::Value;

use super::{Common, Sidecar, pretty};
use crate::access::printable;

/// The number of rules whose missing fields are shown.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// Caller: a pod, deployment/NAME, a principal such as cluster.local/ns/shop/sa/web, or none
    from: String,
    /// Called workload: a pod, as NAME or NAME.NAMESPACE, or deployment/NAME
    to: String,
    /// Method, such as GET; tcp for an opaque connection
    method: String,
    /// Path, with or without a query
    #[arg(default_value = "/")]
    path: String,
    /// Port of the application; by default the first one that serves a Service
    #[arg(long)]
    port: Option<u16>,
    /// Host of the request; by default the Service of the port
    #[arg(long)]
    host: Option<String>,
    /// Header of the request, as NAME:VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Claims of the request's verified token, as JSON
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// Address of the caller; by default the caller's pod address
    #[arg(long, value_name = "IP")]
    source: Option<std::net::IpAddr>,
    /// Address of the original client, as proxies report it
    #[arg(long, value_name = "IP")]
    remote: Option<std::net::IpAddr>,
    /// Cluster whose intermediate issued the caller's certificate; by default the cluster of the caller's pod
    #[arg(long)]
    cluster: Option<String>,
    /// Context of the caller's cluster, if it is another one
    #[arg(long)]
    from_context: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(args: TestArgs) -> anyhow::Result<ExitCode> {
    let common = &args.common;
    let called = Sidecar::find(common, common.context.as_deref(), &args.to).await?;
    let about = called.page("/authz").await?;
    let ports = || about["ports"].as_array().into_iter().flatten();
    let port = match args.port {
        Some(port) => u64::from(port),
        None => ports().find_map(|port| port["port"].as_u64()).with_context(|| {
            format!("no port of {} serves a Service\n  name the port of the application: --port NUMBER", args.to)
        })?,
    };
    let service = ports().find(|of| of["port"].as_u64() == Some(port)).and_then(|of| of["service"].as_str());
    let host = args.host.clone().or_else(|| service.map(str::to_owned)).unwrap_or_default();
    let caller = Caller::find(&args).await?;
    let mut query = format!("/authz?port={port}");
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            _ = write!(query, "&{name}={}", escaped(value));
        }
    };
    if !args.method.eq_ignore_ascii_case("tcp") {
        add("method", &args.method);
    }
    add("path", &args.path);
    add("host", &host);
    add("principal", &caller.principal);
    add("cluster", &caller.cluster);
    add("source", &args.source.map(|ip| ip.to_string()).unwrap_or(caller.address));
    add("remote", &args.remote.map(|ip| ip.to_string()).unwrap_or_default());
    add("claims", args.claims.as_deref().unwrap_or_default());
    args.headers.iter().for_each(|header| add("header", header));
    let decision = called.page(&query).await?;
    print(&if common.json { pretty(&decision)? } else { answer(&decision) })?;
    Ok(if decision["allowed"] == Value::Bool(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn answer(decision: &Value) -> String {
    let rule = |of: &Value| match of["policy"].as_str() {
        Some(policy) => format!("policy {policy}, rule {}", of["rule"]),
        None => of.as_str().unwrap_or_default().to_owned(),
    };
    let reason = decision["reason"].as_str().unwrap_or_default();
    let by = if decision["by"].is_null() { String::new() } else { format!(" ({})", rule(&decision["by"])) };
    let mut out = match &decision["allowed"] {
        Value::Bool(true) => "allowed\n".to_owned(),
        Value::Bool(false) => format!("refused: {reason}{by}\n"),
        _ => format!("undecided: {reason}{by}; provider {}\n", decision["provider"].as_str().unwrap_or_default()),
    };
    let missing = decision["missing"].as_array().into_iter().flatten();
    for of in missing.take(SHOWN) {
        let fields: Vec<&str> = of["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        _ = writeln!(out, "  {} would allow it but for {}", rule(of), fields.join(", "));
    }
    if !decision["dryRun"].is_null() {
        let verdict = if decision["dryRun"]["allowed"] == Value::Bool(true) { "allow" } else { "refuse" };
        _ = writeln!(out, "  policies of a dry run would {verdict} it");
    }
    printable(&out)
}

/// Escapes a value of a query.
pub(crate) fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => out.push(char::from(byte)),
            false => _ = write!(out, "%{byte:02X}"),
        }
        out
    })
}

/// The caller of a request.
struct Caller {
    principal: String,
    cluster: String,
    address: String,
}

impl Caller {
    async fn find(args: &TestArgs) -> anyhow::Result<Caller> {
        let cluster = args.cluster.clone().unwrap_or_default();
        if args.from == "none" {
            return Ok(Caller { principal: String::new(), cluster: String::new(), address: String::new() });
        }
        if args.from.contains("/ns/") {
            return Ok(Caller { principal: args.from.clone(), cluster, address: String::new() });
        }
        let context = args.from_context.as_deref().or(args.common.context.as_deref());
        let caller = Sidecar::find(&args.common, context, &args.from).await?;
        let pods: Api<Pod> = Api::namespaced(caller.cluster.client.clone(), &caller.namespace);
        let pod = caller.patience.answer(&caller.cluster.api_server(), pods.get(&caller.pod)).await??;
        let account = pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_else(|| "default".to_owned());
        let own = caller.page("/certs").await;
        // What the certificate says; without a sidecar, the caller has none.
        let principal = own.ok().and_then(|page| principal_of(&page, &caller.namespace, &account)).unwrap_or_default();
        let cluster =
            if principal.is_empty() { String::new() } else { args.cluster.clone().unwrap_or(caller.cluster.name) };
        let address = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
        Ok(Caller { principal, cluster, address })
    }
}

/// Returns the principal in a sidecar's certificate.
fn principal_of(certificates: &Value, namespace: &str, account: &str) -> Option<String> {
    let text = certificates.to_string();
    let suffix = format!("/ns/{namespace}/sa/{account}");
    let end = text.find(&suffix)?;
    let start = text[..end].rfind("spiffe://")? + "spiffe://".len();
    Some(format!("{}{suffix}", &text[start..end]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_names_the_rule_and_what_would_change_it() {
        assert_eq!(answer(&json!({"allowed": true})), "allowed\n");
        let denied = json!({"allowed": false, "reason": "a DENY policy matches", "by": {"policy": "a/b", "rule": 2}});
        assert_eq!(answer(&denied), "refused: a DENY policy matches (policy a/b, rule 2)\n");
        let missing = json!({"policy": "a/c", "rule": 0, "fields": ["to[0].operation.methods"]});
        let none = json!({"allowed": false, "reason": "no ALLOW policy matches", "missing": [missing],
            "dryRun": {"allowed": false}});
        assert_eq!(
            answer(&none),
            "refused: no ALLOW policy matches\n  policy a/c, rule 0 would allow it but for to[0].operation.methods\n  \
             policies of a dry run would refuse it\n"
        );
    }

    #[test]
    fn values_of_a_query_are_escaped() {
        assert_eq!(escaped("/a b?c=d&e"), "%2Fa%20b%3Fc%3Dd%26e");
    }

    #[test]
    fn the_principal_is_read_from_the_certificates() {
        let page = json!({"uri": "spiffe://mesh.example/ns/shop/sa/web"});
        assert_eq!(principal_of(&page, "shop", "web").as_deref(), Some("mesh.example/ns/shop/sa/web"));
        assert_eq!(principal_of(&page, "shop", "other"), None);
    }
}
