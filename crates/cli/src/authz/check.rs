//! `isthmus authz check`: the policies that apply to a pod.

use std::fmt::Write as _;
use std::process::ExitCode;

use lab::console::print;
use serde_json::Value;

use super::{Common, Sidecar, pretty};
use crate::access::printable;
use crate::table::table;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Pod, as NAME or NAME.NAMESPACE; or deployment/NAME for one of its pods
    pod: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let common = &args.common;
    let page = Sidecar::find(common, common.context.as_deref(), &args.pod).await?.page("/authz").await?;
    print(&if common.json { pretty(&page)? } else { policies(&page) })?;
    Ok(ExitCode::SUCCESS)
}

fn policies(page: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = format!("Mutual TLS: {}\n", text(&page["mtls"]));
    let ports = page["ports"].as_array().into_iter().flatten();
    let others: Vec<String> = ports
        .filter(|port| port["mtls"] != page["mtls"])
        .map(|port| format!("port {}: {}", port["port"], text(&port["mtls"])))
        .collect();
    if !others.is_empty() {
        _ = writeln!(out, "            {}", others.join(", "));
    }
    if page["complete"] != Value::Bool(true) {
        out.push_str("The sidecar has not received all of its policies, and refuses everything until it has.\n");
    }
    let rows: Vec<Vec<String>> = page["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|policy| {
            let dry_run = if policy["dryRun"] == Value::Bool(true) { "dry run" } else { "enforced" };
            vec![text(&policy["name"]), text(&policy["action"]), policy["rules"].to_string(), dry_run.to_owned()]
        })
        .collect();
    match rows.is_empty() {
        true => out.push_str("No AuthorizationPolicy applies: every request is allowed.\n"),
        false => out.push_str(&table(&["POLICY", "ACTION", "RULES", "STATE"], rows)),
    }
    printable(&out)
}
