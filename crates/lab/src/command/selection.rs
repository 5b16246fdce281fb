//! The lab and the cluster that a command means.

use clap::Args;

use super::outcome::Failure;
use crate::orchestration::clients;
use crate::orchestration::state::{self, LAB, Record, StateError};

/// Which lab is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The lab, if more than one is running
    #[arg(long, env = LAB, value_name = "NAME")]
    lab: Option<String>,
}

impl Which {
    pub(super) fn choose(&self) -> Result<Record, StateError> {
        state::choose(self.lab.as_deref())
    }
}

/// A client of one cluster of a running lab.
pub(super) async fn client(record: &Record, cluster: &str) -> Result<kube::Client, Failure> {
    let kubeconfig = &record.cluster(cluster)?.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig).map_err(|error| format!("{}: {error}", kubeconfig.display()))?;
    Ok(clients::client(&text).await?)
}
