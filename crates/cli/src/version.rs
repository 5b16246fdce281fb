//! `isthmus version`.

use std::process::ExitCode;

/// How to print it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print as json or yaml instead of text
    #[arg(short, long)]
    output: Option<Form>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    Json,
    Yaml,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    isthmus: &'static str,
    kubernetes_api: &'static str,
    platform: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let version = Version {
        isthmus: env!("CARGO_PKG_VERSION"),
        kubernetes_api: "v1.33",
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    };
    match args.output {
        None => {
            println!("isthmus {} ({}, Kubernetes API {})", version.isthmus, version.platform, version.kubernetes_api)
        }
        Some(Form::Json) => println!("{}", serde_json::to_string_pretty(&version)?),
        Some(Form::Yaml) => print!("{}", serde_saphyr::to_string(&version)?),
    }
    Ok(ExitCode::SUCCESS)
}
