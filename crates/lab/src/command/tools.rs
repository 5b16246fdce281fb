//! `lab kubectl` and `lab kubeconfig`.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use clap::Args;

use super::outcome::Failure;
use super::print::print;
use super::selection::Which;

/// Options of `lab kubectl`.
#[derive(Debug, Args)]
pub struct Kubectl {
    /// The cluster
    cluster: String,
    #[command(flatten)]
    which: Which,
    /// kubectl's arguments
    #[arg(last = true, num_args = 0..)]
    arguments: Vec<String>,
}

impl Kubectl {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let record = self.which.choose()?;
        let cluster = record.cluster(&self.cluster)?;
        let mut kubectl = std::process::Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&cluster.kubeconfig).args(&self.arguments);
        // Comes back only if it failed: kubectl takes this process' place, so its exit code is ours.
        let error = kubectl.exec();
        if error.kind() == std::io::ErrorKind::NotFound {
            return Err(format!(
                "kubectl is not installed\n  get it: https://kubernetes.io/docs/tasks/tools/\n  or use another client \
                 with this kubeconfig: {}",
                cluster.kubeconfig.display()
            )
            .into());
        }
        Err(format!("cannot run kubectl: {error}").into())
    }
}

/// Options of `lab kubeconfig`.
#[derive(Debug, Args)]
pub struct Kubeconfig {
    /// The cluster; without one, a kubeconfig with a context for each
    cluster: Option<String>,
    #[command(flatten)]
    which: Which,
}

impl Kubeconfig {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let record = self.which.choose()?;
        let path = match &self.cluster {
            Some(cluster) => record.cluster(cluster)?.kubeconfig.clone(),
            None => crate::orchestration::state::Directory::of(&record.name).path().join("kubeconfig"),
        };
        print(&format!("{}\n", path.display()));
        Ok(ExitCode::SUCCESS)
    }
}
