//! `lab fault` and `lab capture`: breaking things in a lab, and looking at what passes between its clusters.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams};

use super::outcome::Failure;
use super::print::{Format, print};
use super::selection::{Which, client};
use super::target::Target;
use crate::orchestration::control::{self, Reply, Request};
use crate::orchestration::progress::columns;
use crate::orchestration::state::{Directory, Record};

/// Breaks something in a running lab.
#[derive(Debug, Subcommand)]
pub enum Fault {
    /// Kills every process of a zone's pods; as with a lost machine, nobody tells the API server
    KillZone(Zone),
    /// Lets a killed zone come back
    ReviveZone(Zone),
    /// Kills a cluster's API server; its pods go on
    KillApi(OfCluster),
    /// Stops a cluster's API server in its tracks: connections stay open, nothing answers
    HoldApi(OfCluster),
    /// Lets a stopped API server go on
    ReleaseApi(OfCluster),
    /// Kills every process of a workload's pods with SIGKILL
    KillWorkload(Workload),
}

/// A zone of a cluster.
#[derive(Debug, Args)]
pub struct Zone {
    /// The cluster
    cluster: String,
    /// The zone
    zone: String,
    #[command(flatten)]
    which: Which,
}

/// A cluster.
#[derive(Debug, Args)]
pub struct OfCluster {
    /// The cluster
    cluster: String,
    #[command(flatten)]
    which: Which,
}

/// A workload.
#[derive(Debug, Args)]
pub struct Workload {
    /// CLUSTER/NAMESPACE/POD, or a deployment for all of its pods
    #[arg(value_name = "CLUSTER/NAMESPACE/POD-OR-DEPLOYMENT")]
    target: Target,
    #[command(flatten)]
    which: Which,
}

impl Fault {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::KillZone(zone) => zone.ask(|cluster, node| Request::KillNode { cluster, node }),
            Self::ReviveZone(zone) => zone.ask(|cluster, node| Request::ReviveNode { cluster, node }),
            Self::KillApi(of) => of.ask(|cluster| Request::KillApi { cluster }),
            Self::HoldApi(of) => of.ask(|cluster| Request::HoldApi { cluster, hold: true }),
            Self::ReleaseApi(of) => of.ask(|cluster| Request::HoldApi { cluster, hold: false }),
            Self::KillWorkload(workload) => workload.kill().await,
        }
    }
}

fn ask(record: &Record, request: &Request) -> Result<Reply, Failure> {
    Ok(control::ask(Directory::of(&record.name).path(), request)?)
}

impl Zone {
    fn ask(self, request: impl FnOnce(String, String) -> Request) -> Result<ExitCode, Failure> {
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
        ask(&record, &request(self.cluster, node))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl OfCluster {
    fn ask(self, request: impl FnOnce(String) -> Request) -> Result<ExitCode, Failure> {
        let record = self.which.choose()?;
        record.cluster(&self.cluster)?;
        ask(&record, &request(self.cluster))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Workload {
    /// Kills from inside: the shell's own `kill` reaches every process of the pod but itself and the first one.
    async fn kill(self) -> Result<ExitCode, Failure> {
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
pub struct Capture {
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// What passes this cluster's link alone
    #[arg(long)]
    cluster: Option<String>,
    /// A file to write the frames to, for tcpdump or Wireshark
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// How to print
    #[arg(long, short)]
    output: Option<Format>,
    #[command(flatten)]
    which: Which,
}

impl Capture {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let record = self.which.choose()?;
        let milliseconds = std::time::Duration::try_from_secs_f64(self.seconds)?.as_millis();
        let request = Request::Capture {
            milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            cluster: self.cluster,
            write: self.write.map(std::path::absolute).transpose()?,
        };
        let Reply::Captured(capture) = ask(&record, &request)? else { return Err("the lab captured nothing".into()) };
        let text = match self.output {
            Some(Format::Json) => format!("{}\n", serde_json::to_string_pretty(&capture)?),
            Some(Format::Yaml) => serde_saphyr::to_string(&capture)?,
            _ => {
                let mut rows = vec![vec!["SERVER NAME".to_owned(), "HANDSHAKES".to_owned()]];
                rows.extend(capture.server_names.iter().map(|(name, count)| vec![name.clone(), count.to_string()]));
                let mut text = columns(&rows, "");
                text.push_str(&format!(
                    "{} frames with data; {} handshakes without a server name; {} in plain text\n",
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
