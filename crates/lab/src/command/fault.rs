//! `lab fault` and `lab capture`: injects faults into a lab, and captures traffic between its clusters.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams};

use super::outcome::CommandError;
use super::print::OutputFormat;
use super::selection::{LabSelection, api_server, client, option_of, patience};
use super::target::ContainerTarget;
use crate::console::{Waiting, print};
use crate::orchestration::control::{self, ControlError, ControlReply, ControlRequest, CutPath};
use crate::orchestration::progress::columns;
use crate::orchestration::state::{LabDirectory, LabRecord};

/// Interval between two looks whether an API server answers.
const INTERVAL: Duration = Duration::from_millis(50);
/// Longest capture.
const MAX_CAPTURE: Duration = Duration::from_secs(600);

/// Inject a fault into a running lab.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Kill every process of a zone's pods; nothing is reported to the API server, as when a machine is lost
    KillZone(ZoneFault),
    /// Revive a killed zone: its pods start again
    ReviveZone(ZoneFault),
    /// Kill a cluster's API server; its pods keep running
    KillApi(ApiFault),
    /// Start a killed API server again, with the objects that it had
    ReviveApi(ApiFault),
    /// Suspend a cluster's API server: connections stay open, nothing answers
    HoldApi(ApiFault),
    /// Resume a suspended API server
    ReleaseApi(ApiFault),
    /// Kill every process of a workload's pods with SIGKILL
    KillWorkload(WorkloadFault),
    /// Drop the packets of a cluster's connections to another cluster's API server and gateway; the other direction stays
    Cut(CutFault),
    /// Let the connections pass again
    Heal(CutFault),
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
    /// Pod, or Deployment or StatefulSet for all of its pods, such as west/default/reviews
    #[arg(value_name = "CLUSTER/NAMESPACE/POD-OR-DEPLOYMENT")]
    target: ContainerTarget,
    #[command(flatten)]
    which: LabSelection,
}

/// Options of cuts between clusters.
#[derive(Debug, Args)]
pub struct CutFault {
    /// Name of the cluster that the connections come from
    from: String,
    /// Name of the cluster that they go to
    to: String,
    /// Only those to its API server, or only those to its gateway
    #[arg(long, value_name = "PATH")]
    only: Option<CutPath>,
    #[command(flatten)]
    which: LabSelection,
}

impl FaultCommand {
    pub(super) async fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::KillZone(of) => of.kill(),
            Self::ReviveZone(of) => of.revive(),
            Self::KillApi(of) => of.kill(),
            Self::ReviveApi(of) => of.revive().await,
            Self::HoldApi(of) => of.hold(),
            Self::ReleaseApi(of) => of.release().await,
            Self::KillWorkload(of) => of.kill().await,
            Self::Cut(of) => of.cut(),
            Self::Heal(of) => of.heal(),
        }
    }
}

fn send(record: &LabRecord, request: &ControlRequest) -> Result<ControlReply, CommandError> {
    let _shown = Waiting::show(format!("lab {}", record.name));
    Ok(control::send(LabDirectory::of(&record.name).path(), request)?)
}

/// Reports a fault, and the command that ends it.
fn report(done: &str, next: &str, record: &LabRecord) -> Result<ExitCode, CommandError> {
    print(&format!("{done}\n{next}{}\n", option_of(&record.name)))?;
    Ok(ExitCode::SUCCESS)
}

impl ZoneFault {
    fn kill(self) -> Result<ExitCode, CommandError> {
        let record = self.send(|cluster, node| ControlRequest::KillNode { cluster, node })?;
        let Self { cluster, zone, .. } = self;
        report(
            &format!("zone {zone} of {cluster} is killed; none of its pods runs, and nothing is reported"),
            &format!("revive it: isthmus lab fault revive-zone {cluster} {zone}"),
            &record,
        )
    }

    fn revive(self) -> Result<ExitCode, CommandError> {
        self.send(|cluster, node| ControlRequest::ReviveNode { cluster, node })?;
        print(&format!("zone {} of {} is revived; its pods start again\n", self.zone, self.cluster))?;
        Ok(ExitCode::SUCCESS)
    }

    fn send(&self, request: impl FnOnce(String, String) -> ControlRequest) -> Result<LabRecord, CommandError> {
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
        send(&record, &request(self.cluster.clone(), node))?;
        Ok(record)
    }
}

impl ApiFault {
    fn kill(self) -> Result<ExitCode, CommandError> {
        let record = self.send(|cluster| ControlRequest::KillApi { cluster })?;
        report(
            &format!("the API server of {} is killed; the cluster's pods keep running", self.cluster),
            &format!("revive it: isthmus lab fault revive-api {}", self.cluster),
            &record,
        )
    }

    async fn revive(self) -> Result<ExitCode, CommandError> {
        let record = self.send(|cluster| ControlRequest::ReviveApi { cluster })?;
        self.answers(&record).await?;
        print(&format!("the API server of {} is revived, with the objects that it had\n", self.cluster))?;
        Ok(ExitCode::SUCCESS)
    }

    fn hold(self) -> Result<ExitCode, CommandError> {
        let record = self.send(|cluster| ControlRequest::HoldApi { cluster, hold: true })?;
        report(
            &format!("the API server of {} is suspended; connections stay open, and nothing answers", self.cluster),
            &format!("resume it: isthmus lab fault release-api {}", self.cluster),
            &record,
        )
    }

    async fn release(self) -> Result<ExitCode, CommandError> {
        let record = self.send(|cluster| ControlRequest::HoldApi { cluster, hold: false })?;
        self.answers(&record).await?;
        print(&format!("the API server of {} is resumed\n", self.cluster))?;
        Ok(ExitCode::SUCCESS)
    }

    fn send(&self, request: impl FnOnce(String) -> ControlRequest) -> Result<LabRecord, CommandError> {
        let record = self.which.choose()?;
        record.cluster(&self.cluster)?;
        send(&record, &request(self.cluster.clone()))?;
        Ok(record)
    }

    /// Waits until the API server answers.
    async fn answers(&self, record: &LabRecord) -> Result<(), CommandError> {
        let client = client(record, &self.cluster).await?;
        let answers = async {
            while client.apiserver_version().await.is_err() {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        Ok(patience(&self.cluster).answer(&api_server(&self.cluster), answers).await?)
    }
}

impl CutFault {
    fn cut(self) -> Result<ExitCode, CommandError> {
        let record = self.send(true)?;
        let (Self { from, to, .. }, what) = (&self, self.described());
        let only = match self.only {
            Some(CutPath::Api) => " --only api",
            Some(CutPath::Data) => " --only data",
            None => "",
        };
        report(
            &format!("packets of {from}'s connections to {what} of {to} are dropped"),
            &format!("heal it: isthmus lab fault heal {from} {to}{only}"),
            &record,
        )
    }

    fn heal(self) -> Result<ExitCode, CommandError> {
        self.send(false)?;
        print(&format!("{}'s connections to {} of {} pass again\n", self.from, self.described(), self.to))?;
        Ok(ExitCode::SUCCESS)
    }

    fn described(&self) -> &'static str {
        match self.only {
            Some(CutPath::Api) => "the API server",
            Some(CutPath::Data) => "the gateway",
            None => "the API server and the gateway",
        }
    }

    fn send(&self, cut: bool) -> Result<LabRecord, CommandError> {
        let record = self.which.choose()?;
        record.cluster(&self.from)?;
        record.cluster(&self.to)?;
        let (from, to, only) = (self.from.clone(), self.to.clone(), self.only);
        send(&record, &ControlRequest::Cut { from, to, only, cut })?;
        Ok(record)
    }
}

impl WorkloadFault {
    /// Kills the processes from inside of the pod: the shell's own `kill` reaches every process of the pod except
    /// itself and the first one.
    async fn kill(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let client = client(&record, &self.target.cluster).await?;
        let (patience, from) = (patience(&self.target.cluster), api_server(&self.target.cluster));
        let pods = patience.answer(&from, self.target.pods(&client)).await??;
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
        for name in patience.answer(&from, futures_util::future::try_join_all(kills)).await?? {
            print(&format!("killed {name}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `lab capture`.
#[derive(Debug, Args)]
pub struct CaptureOptions {
    /// Number of seconds to capture
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = capture_length)]
    seconds: Duration,
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
        if let Some(cluster) = &self.cluster {
            record.cluster(cluster)?;
        }
        let request = ControlRequest::Capture {
            milliseconds: u64::try_from(self.seconds.as_millis()).unwrap_or(u64::MAX),
            cluster: self.cluster,
            write: self.write.map(std::path::absolute).transpose()?,
        };
        let shown = Waiting::show(format!("the end of the capture, which takes {:?}", self.seconds));
        let reply = control::send(LabDirectory::of(&record.name).path(), &request)?;
        drop(shown);
        let ControlReply::Captured(capture) = reply else { return Err(ControlError::Unreadable.into()) };
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
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Parses the length of a capture.
fn capture_length(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let length = seconds.filter(|length| !length.is_zero() && *length <= MAX_CAPTURE);
    length.ok_or_else(|| format!("a number of seconds, such as 5 or 0.5, at most {}", MAX_CAPTURE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_capture_is_a_number_of_seconds() {
        assert_eq!(capture_length("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "0", "nan", "inf", "601", "5s"] {
            assert!(capture_length(bad).is_err_and(|error| error.contains("number of seconds")), "{bad}");
        }
    }
}
