//! `lab status`: lists labs, or shows the clusters of one.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::outcome::CommandError;
use super::ports::ports_table;
use super::print::{OutputFormat, format_age};
use crate::console::print;
use crate::orchestration::progress::columns;
use crate::orchestration::state::{self, LabName, LabRecord};

/// Options of `lab status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Name of the lab whose clusters to show
    name: Option<LabName>,
    /// Output format
    #[arg(long, short)]
    output: Option<OutputFormat>,
}

impl StatusOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let now = Timestamp::now();
        let labs = match &self.name {
            Some(name) => vec![state::choose(Some(name))?],
            None => state::all(),
        };
        let text = match self.output {
            Some(OutputFormat::Json) => format!("{}\n", serde_json::to_string_pretty(&machine(&labs))?),
            Some(OutputFormat::Yaml) => serde_saphyr::to_string(&machine(&labs))?,
            wide if labs.is_empty() => {
                let _ = wide;
                "no lab is running\nstart one: isthmus lab up topologies/primary-remote.yaml\n".to_owned()
            }
            wide if self.name.is_some() || wide == Some(OutputFormat::Wide) => detail(&labs, now),
            _ => list(&labs, now),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn state_of(lab: &LabRecord) -> &'static str {
    if lab.is_alive() { lab.state.word() } else { "dead" }
}

fn machine(labs: &[LabRecord]) -> Value {
    let labs: Vec<Value> = labs
        .iter()
        .map(|lab| {
            let mut value = serde_json::to_value(lab).unwrap_or_default();
            value["state"] = json!(state_of(lab));
            value
        })
        .collect();
    json!({"labs": labs})
}

fn age(lab: &LabRecord, now: Timestamp) -> String {
    match lab.started.parse::<Timestamp>() {
        Ok(started) => {
            let seconds = now.as_second().saturating_sub(started.as_second());
            format_age(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        }
        Err(_) => "unknown".to_owned(),
    }
}

fn list(labs: &[LabRecord], now: Timestamp) -> String {
    let mut rows = vec![["LAB", "STATE", "CLUSTERS", "AGE", "PROCESS", "TOPOLOGY"].map(str::to_owned).to_vec()];
    rows.extend(labs.iter().map(|lab| {
        let clusters: Vec<&str> = lab.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        vec![
            lab.name.to_string(),
            state_of(lab).to_owned(),
            clusters.join(","),
            age(lab, now),
            lab.pid.to_string(),
            lab.topology.display().to_string(),
        ]
    }));
    let mut text = columns(&rows, "");
    if let Some(dead) = labs.iter().find(|lab| !lab.is_alive()) {
        text.push_str(&format!("clean up: isthmus lab down {}\n", dead.name));
    }
    text
}

fn detail(labs: &[LabRecord], now: Timestamp) -> String {
    let mut text = String::new();
    for (index, lab) in labs.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&format!(
            "lab {}   {}   age {}   process {}   {}\n",
            lab.name,
            state_of(lab),
            age(lab, now),
            lab.pid,
            lab.topology.display()
        ));
        let names = ["CLUSTER", "ROLE", "PRIMARY", "NETWORK", "REGION", "ZONES", "GATEWAY", "API", "KUBECONFIG"];
        let mut rows = vec![names.map(str::to_owned).to_vec()];
        rows.extend(lab.clusters.iter().map(|cluster| {
            vec![
                cluster.name.clone(),
                cluster.role.clone(),
                cluster.primary.clone(),
                cluster.network.clone(),
                cluster.region.clone(),
                cluster.zones.join(","),
                cluster.gateway.clone(),
                cluster.api.clone(),
                cluster.kubeconfig.display().to_string(),
            ]
        }));
        text.push_str(&columns(&rows, "  "));
        if let Some(ports) = ports_table(lab) {
            text.push('\n');
            text.extend(ports.lines().map(|line| format!("  {line}\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestration::state::LabState;

    #[test]
    fn listings() {
        let lab = LabRecord {
            name: "mesh".parse().expect("a name"),
            pid: u32::MAX,
            started_ticks: 1,
            started: "2026-01-01T00:00:00Z".into(),
            topology: "/mesh.yaml".into(),
            state: LabState::Ready,
            clusters: Vec::new(),
        };
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().expect("a time");
        let text = list(std::slice::from_ref(&lab), now);
        assert!(text.starts_with("LAB   STATE  CLUSTERS  AGE  PROCESS"), "{text}");
        assert!(text.contains("mesh  dead") && text.contains("5m") && text.contains("isthmus lab down mesh"), "{text}");
        assert!(detail(std::slice::from_ref(&lab), now).contains("lab mesh   dead   age 5m"));
        assert_eq!(machine(std::slice::from_ref(&lab))["labs"][0]["state"], "dead");
        let pid = std::process::id();
        let started_ticks = state::start_of(pid).expect("this process runs");
        let kept = LabRecord { pid, started_ticks, state: LabState::TimedOut, ..lab };
        assert_eq!(machine(&[kept])["labs"][0]["state"], "timed-out");
    }
}
