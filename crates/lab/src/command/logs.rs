//! `lab logs`: prints a container's log.

use std::process::ExitCode;

use clap::Args;
use futures_util::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, LogParams};

use super::outcome::CommandError;
use super::selection::{LabSelection, api_server, client, patience};
use super::target::ContainerTarget;

/// Options of `lab logs`.
#[derive(Debug, Args)]
pub struct LogsOptions {
    /// Pod, Deployment or StatefulSet, and optionally a container, such as west/default/frontend
    #[arg(value_name = "CLUSTER/NAMESPACE/POD[/CONTAINER]")]
    target: ContainerTarget,
    /// Follow the log until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Number of lines to print from the end of the log
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Print only lines of the last seconds
    #[arg(long, value_name = "SECONDS")]
    since: Option<i64>,
    /// Print the log of the container's previous run
    #[arg(long, short)]
    previous: bool,
    /// Print the time of each line
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    which: LabSelection,
}

impl LogsOptions {
    pub(super) async fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let client = client(&record, &self.target.cluster).await?;
        let cluster = &self.target.cluster;
        let from = api_server(cluster);
        let pods = patience(cluster).answer(&from, self.target.pods(&client)).await??;
        let pod = pods.first().ok_or("no pod")?;
        let params = LogParams {
            container: self.target.container_of(pod),
            follow: self.follow,
            tail_lines: self.tail,
            since_seconds: self.since,
            previous: self.previous,
            timestamps: self.timestamps,
            ..LogParams::default()
        };
        let api: Api<Pod> = Api::namespaced(client, &self.target.namespace);
        let name = pod.name_any();
        let stream = patience(cluster).answer(&from, api.log_stream(&name, &params)).await?;
        let mut stream = std::pin::pin!(stream?);
        let mut buffer = vec![0; 1 << 15];
        loop {
            let length = match self.follow {
                true => stream.read(&mut buffer).await?,
                false => patience(cluster).answer(&from, stream.read(&mut buffer)).await??,
            };
            if length == 0 || std::io::Write::write_all(&mut std::io::stdout(), &buffer[..length]).is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
