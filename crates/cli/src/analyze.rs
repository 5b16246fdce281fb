//! `isthmus analyze`: reports what is wrong in and between the objects of files and clusters, with the codes of
//! `istioctl analyze`.

use std::process::ExitCode;

use api::analyze::{Message, Suppression, analyze};
use api::networking::Severity;
use lab::console::{print, print_stderr};

use crate::access::printable;
use crate::sources::clusters::KINDS;
use crate::sources::{SourceOptions, Sources};

mod output;

/// Find what is wrong in and between objects, in files and clusters.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus analyze reviews.yaml manifests/\n  isthmus analyze -R manifests/ --context prod-eu\n  isthmus analyze --lab\n  isthmus analyze --context prod-eu --context prod-us -o json\n  kustomize build . | isthmus analyze -"
)]
pub(crate) struct AnalyzeArgs {
    #[command(flatten)]
    sources: SourceOptions,
    /// Exit with code 1 if there is a message of this level or worse
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    failure_threshold: Level,
    /// Show messages of this level or worse
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Info)]
    output_threshold: Level,
    /// Leave out a code for some objects, such as "IST0101=VirtualService shop/*"; may be repeated
    #[arg(short = 'S', long = "suppress", value_name = "CODE=OBJECT")]
    suppressions: Vec<Suppression>,
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
    let Sources { objects, unreadable: mut messages, places } = args.sources.read(KINDS).await?;
    messages.extend(analyze(&objects, &args.suppressions));
    messages.sort();
    let failed = messages.iter().any(|message| args.failure_threshold.includes(message));
    messages.retain(|message| args.output_threshold.includes(message));
    print(&printable(&output::render(&messages, args.output)?))?;
    print_stderr(&printable(&output::summary(&messages, &places)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
