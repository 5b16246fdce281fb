//! `lab fault` and `lab capture`: injects faults into a lab, and captures traffic between its clusters.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams};

use super::outcome::CommandError;
use super::print::{OutputFormat, print};
use super::selection::{LabSelection, client};
use super::target::ContainerTarget;
use crate::orchestration::control::{self, ControlReply, ControlRequest};
use crate::orchestration::progress::columns;
use crate::orchestration::state::{LabDirectory, LabRecord};

/// Inject a fault into a running lab.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Kill every process of a zone's pods; nothing is reported to the API server, as when a machine is lost
    KillZone(ZoneFault),
    /// Revive a killed zone: its pods start again
    ReviveZone(ZoneFault),
    /// Kill a cluster's API server; its pods keep running
    KillApi(ApiFault),
    /// Suspend a cluster's API server: connections stay open, nothing answers
    HoldApi(ApiFault),
    /// Resume a suspended API server
    ReleaseApi(ApiFault),
    /// Kill every process of a workload's pods with SIGKILL
    KillWorkload(WorkloadFault),
}

/// Options of faults of a zone.
#[derive(Debug, Args)]
pub struct ZoneFault {
    /// Name of the cluster
    cluster: String,
    /// Name of the zone
    zone: String,
    #[command(flatten)]
    which: LabSelection,
}

/// Options of faults of an API server.
#[derive(Debug, Args)]
pub struct ApiFault {
    /// Name of the cluster
    cluster: String,
    #[command(flatten)]
    which: LabSelection,
}

/// Options of faults of a workload.
#[derive(Debug, Args)]
pub struct WorkloadFault {
    /// Pod, or Deployment for all of its pods, such as west/default/reviews
    #[arg(value_name = "CLUSTER/NAMESPACE/POD-OR-DEPLOYMENT")]
    target: ContainerTarget,
    #[command(flatten)]
    which: LabSelection,
}

impl FaultCommand {
    pub(super) async fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::KillZone(zone) => zone.send(|cluster, node| ControlRequest::KillNode { cluster, node }),
            Self::ReviveZone(zone) => zone.send(|cluster, node| ControlRequest::ReviveNode { cluster, node }),
            Self::KillApi(of) => of.send(|cluster| ControlRequest::KillApi { cluster }),
            Self::HoldApi(of) => of.send(|cluster| ControlRequest::HoldApi { cluster, hold: true }),
            Self::ReleaseApi(of) => of.send(|cluster| ControlRequest::HoldApi { cluster, hold: false }),
            Self::KillWorkload(workload) => workload.kill().await,
        }
    }
}

fn send(record: &LabRecord, request: &ControlRequest) -> Result<ControlReply, CommandError> {
    Ok(control::send(LabDirectory::of(&record.name).path(), request)?)
}

impl ZoneFault {
    fn send(self, request: impl FnOnce(String, String) -> ControlRequest) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let cluster = record.cluster(&self.cluster)?;
        if !cluster.zones.contains(&self.zone) {
            return Err(format!(
                "cluster \"{}\" has no zone \"{}\"\n  its zones: {}",
                self.cluster,
                self.zone,
                cluster.zones.join(", ")
            )
            .into());
        }
        let node = format!("{}-{}", self.cluster, self.zone);
        send(&record, &request(self.cluster, node))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ApiFault {
    fn send(self, request: impl FnOnce(String) -> ControlRequest) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        record.cluster(&self.cluster)?;
        send(&record, &request(self.cluster))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl WorkloadFault {
    /// Kills the processes from inside of the pod: the shell's own `kill` reaches every process of the pod except
    /// itself and the first one.
    async fn kill(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let client = client(&record, &self.target.cluster).await?;
        let pods = self.target.pods(&client).await?;
        let api: Api<Pod> = Api::namespaced(client, &self.target.namespace);
        let kills = pods.iter().map(|pod| {
            let api = api.clone();
            let mut params = AttachParams::default().stdin(false).stdout(false).stderr(true);
            if let Some(container) = self.target.container_of(pod) {
                params = params.container(container);
            }
            let name = pod.name_any();
            async move {
                let mut process = api.exec(&name, ["sh", "-c", "kill -KILL -1"], &params).await?;
                if let Some(status) = process.take_status() {
                    status.await;
                }
                Ok::<_, kube::Error>(name)
            }
        });
        for name in futures_util::future::try_join_all(kills).await? {
            print(&format!("killed {name}\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `lab capture`.
#[derive(Debug, Args)]
pub struct CaptureOptions {
    /// Number of seconds to capture
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Capture the link of this cluster only
    #[arg(long)]
    cluster: Option<String>,
    /// File to write the frames to, for tcpdump or Wireshark
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Output format
    #[arg(long, short)]
    output: Option<OutputFormat>,
    #[command(flatten)]
    which: LabSelection,
}

impl CaptureOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let milliseconds = std::time::Duration::try_from_secs_f64(self.seconds)?.as_millis();
        let request = ControlRequest::Capture {
            milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            cluster: self.cluster,
            write: self.write.map(std::path::absolute).transpose()?,
        };
        let ControlReply::Captured(capture) = send(&record, &request)? else {
            return Err("the lab answered without a capture".into());
        };
        let text = match self.output {
            Some(OutputFormat::Json) => format!("{}\n", serde_json::to_string_pretty(&capture)?),
            Some(OutputFormat::Yaml) => serde_saphyr::to_string(&capture)?,
            _ => {
                let mut rows = vec![vec!["SERVER NAME".to_owned(), "HANDSHAKES".to_owned()]];
                rows.extend(capture.server_names.iter().map(|(name, count)| vec![name.clone(), count.to_string()]));
                let mut text = columns(&rows, "");
                text.push_str(&format!(
                    "{} frames with data, {} handshakes without a server name, {} payloads in plain text\n",
                    capture.frames,
                    capture.hellos_without_name,
                    capture.plaintext.len()
                ));
                for plain in &capture.plaintext {
                    text.push_str(&format!("  plain text {plain}\n"));
                }
                text
            }
        };
        print(&text);
        Ok(ExitCode::SUCCESS)
    }
}
