//! `lab kubectl` and `lab kubeconfig`.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use clap::Args;

use super::outcome::CommandError;
use super::selection::LabSelection;
use crate::console::print;

/// Options of `lab kubectl`.
#[derive(Debug, Args)]
pub struct KubectlOptions {
    /// Name of the cluster
    cluster: String,
    #[command(flatten)]
    which: LabSelection,
    /// Arguments of kubectl
    #[arg(last = true, num_args = 0..)]
    arguments: Vec<String>,
}

impl KubectlOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let cluster = record.cluster(&self.cluster)?;
        let mut kubectl = std::process::Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&cluster.kubeconfig).args(&self.arguments);
        // `exec` returns only if it failed: kubectl replaces this process, so its exit code is that of this command.
        let error = kubectl.exec();
        if error.kind() == std::io::ErrorKind::NotFound {
            return Err(format!(
                "kubectl is not installed\n  get it: https://kubernetes.io/docs/tasks/tools/\n  or use another client \
                 with this kubeconfig: {}",
                cluster.kubeconfig.display()
            )
            .into());
        }
        Err(format!("kubectl cannot be run: {}", install::client_error::system(&error)).into())
    }
}

/// Options of `lab kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigOptions {
    /// Name of the cluster; without a name, the kubeconfig with a context for each cluster
    cluster: Option<String>,
    #[command(flatten)]
    which: LabSelection,
}

impl KubeconfigOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let path = match &self.cluster {
            Some(cluster) => record.cluster(cluster)?.kubeconfig.clone(),
            None => crate::orchestration::state::LabDirectory::of(&record.name).path().join("kubeconfig"),
        };
        print(&format!("{}\n", path.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
