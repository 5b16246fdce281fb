//! Selection of a lab and a cluster.

use clap::Args;

use super::outcome::CommandError;
use crate::orchestration::clients;
use crate::orchestration::state::{self, LAB, LabRecord, StateError};

/// The option that selects a lab.
#[derive(Debug, Clone, Args)]
pub struct LabSelection {
    /// Name of the lab, if more than one is running
    #[arg(long, env = LAB, value_name = "NAME")]
    lab: Option<String>,
}

impl LabSelection {
    pub(super) fn choose(&self) -> Result<LabRecord, StateError> {
        state::choose(self.lab.as_deref())
    }
}

/// Creates a client of one cluster of a running lab.
pub(super) async fn client(record: &LabRecord, cluster: &str) -> Result<kube::Client, CommandError> {
    let kubeconfig = &record.cluster(cluster)?.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig).map_err(|error| format!("{}: {error}", kubeconfig.display()))?;
    Ok(clients::client(&text).await?)
}
