//! Selection of a lab and a cluster.

use std::time::Duration;

use clap::Args;
use install::client_error::system;

use super::outcome::CommandError;
use crate::console::Patience;
use crate::orchestration::clients;
use crate::orchestration::state::{self, LAB, LabChoice, LabName, LabRecord, StateError};

/// How long a cluster of a lab may take to answer. It is on this machine.
const ANSWER: Duration = Duration::from_secs(15);

/// The option that selects a lab.
#[derive(Debug, Clone, Args)]
pub struct LabSelection {
    /// Name of the lab, if more than one is running
    #[arg(long, env = LAB, value_name = "NAME")]
    lab: Option<LabChoice>,
}

impl LabSelection {
    pub(super) fn choose(&self) -> Result<LabRecord, StateError> {
        state::choose(self.lab.as_ref().and_then(LabChoice::name))
    }
}

/// Returns the option that selects a lab in another command, after a space; empty if no other lab is running.
pub(super) fn option_of(name: &LabName) -> String {
    option_among(name, state::running().len())
}

/// Returns the option that selects one of so many running labs.
pub(super) fn option_among(name: &LabName, running: usize) -> String {
    if running > 1 { format!(" --lab {name}") } else { String::new() }
}

/// Creates a client of one cluster of a running lab.
pub(super) async fn client(record: &LabRecord, cluster: &str) -> Result<kube::Client, CommandError> {
    let kubeconfig = &record.cluster(cluster)?.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig)
        .map_err(|error| format!("{} cannot be read: {}", kubeconfig.display(), system(&error)))?;
    Ok(clients::client(&text).await?)
}

/// Describes the API server of a cluster, for messages.
pub(super) fn api_server(cluster: &str) -> String {
    format!("the API server of {cluster}")
}

/// Returns the patience with a cluster's API server, which a fault may have suspended.
pub(super) fn patience(cluster: &str) -> Patience {
    Patience::new(ANSWER, format!("resume it if it is suspended: isthmus lab fault release-api {cluster}"))
}
