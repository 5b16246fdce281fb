//! `isthmus analyze`: reports what is wrong in and between the objects of files and clusters, with the codes of
//! `istioctl analyze`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use api::analyze::{Message, Suppression, analyze};
use api::networking::Severity;
use lab::console::{print, print_stderr};

use crate::access::{AccessOptions, printable};

mod clusters;
mod files;
mod output;

/// Find what is wrong in and between objects, in files and clusters.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus analyze reviews.yaml manifests/\n  isthmus analyze -R manifests/ --context prod-eu\n  isthmus analyze --lab\n  isthmus analyze --context prod-eu --context prod-us -o json\n  kustomize build . | isthmus analyze -"
)]
pub(crate) struct AnalyzeArgs {
    /// Files and directories with YAML; - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of a cluster, or cluster of the lab; may be repeated. Without files and contexts, the current context, or
    /// every cluster of the running lab
    #[arg(long = "context", value_name = "CONTEXT")]
    contexts: Vec<String>,
    /// Read directories within directories as well
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace of the objects in files that name none
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    namespace: String,
    /// Leave out documents that are not YAML or not objects of Kubernetes
    #[arg(long)]
    ignore_unknown: bool,
    /// Exit with code 1 if there is a message of this level or worse
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    failure_threshold: Level,
    /// Show messages of this level or worse
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Info)]
    output_threshold: Level,
    /// Leave out a code for some objects, such as "IST0101=VirtualService shop/*"; may be repeated
    #[arg(short = 'S', long = "suppress", value_name = "CODE=OBJECT")]
    suppressions: Vec<Suppression>,
    /// Time to wait for the API servers, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: AnalyzeFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum AnalyzeFormat {
    /// A line for each message
    #[default]
    Log,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// What is refused or cannot work
    #[default]
    Error,
    /// What likely is not meant
    Warning,
    /// What changes nothing
    Info,
}

impl Level {
    /// Returns whether a message has this level or a worse one.
    fn includes(self, message: &Message) -> bool {
        let limit = match self {
            Level::Error => Severity::Error,
            Level::Warning => Severity::Warning,
            Level::Info => Severity::Info,
        };
        message.level <= limit
    }
}

pub(crate) async fn run(args: AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let read = files::read(&args)?;
    let mut objects = read.objects;
    let of_files = objects.len();
    let clusters = clusters::chosen(&args).await?;
    let stored = clusters::objects(&clusters, args.timeout).await?;
    // A file is about to replace what is stored.
    let known: std::collections::HashSet<_> = objects.iter().map(identity).collect();
    let stored: Vec<_> = stored.into_iter().filter(|object| !known.contains(&identity(object))).collect();
    objects.extend(stored);

    let mut messages = read.unreadable;
    messages.extend(analyze(&objects, &args.suppressions));
    messages.sort();
    let failed = messages.iter().any(|message| args.failure_threshold.includes(message));
    messages.retain(|message| args.output_threshold.includes(message));
    print(&printable(&output::render(&messages, args.output)?))?;
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let places = output::places(read.files, of_files, &names, objects.len() - of_files);
    print_stderr(&printable(&output::summary(&messages, &places)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns what makes an object the same as another one.
fn identity(object: &api::analyze::Object) -> (String, String, String, String) {
    let text = |text: &str| text.to_owned();
    (text(object.group()), text(object.kind()), object.namespace.clone(), text(object.name()))
}
