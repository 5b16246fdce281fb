//! `lab logs`: what a container has written.

use std::process::ExitCode;

use clap::Args;
use futures_util::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, LogParams};

use super::outcome::Failure;
use super::selection::{Which, client};
use super::target::Target;

/// Options of `lab logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// CLUSTER/NAMESPACE/POD, where a deployment may stand for one of its pods; a container may follow
    #[arg(value_name = "CLUSTER/NAMESPACE/POD[/CONTAINER]")]
    target: Target,
    /// Goes on as more is written
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Only what was written in this time
    #[arg(long, value_name = "SECONDS")]
    since: Option<i64>,
    /// The container's run before this one
    #[arg(long, short)]
    previous: bool,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    which: Which,
}

impl Logs {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let record = self.which.choose()?;
        let client = client(&record, &self.target.cluster).await?;
        let pods = self.target.pods(&client).await?;
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
        let stream = api.log_stream(&pod.name_any(), &params).await;
        let mut stream = std::pin::pin!(stream?);
        let mut buffer = vec![0; 1 << 15];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 || std::io::Write::write_all(&mut std::io::stdout(), &buffer[..length]).is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
