//! `isthmus version`: prints the version.

use std::process::ExitCode;

use lab::console::print;

/// Options of `isthmus version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Output format; text if absent
    #[arg(short, long)]
    output: Option<VersionFormat>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum VersionFormat {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionDocument {
    isthmus: &'static str,
    kubernetes_api: &'static str,
    platform: String,
}

pub(crate) async fn run(args: VersionArgs) -> anyhow::Result<ExitCode> {
    let version = VersionDocument {
        isthmus: env!("CARGO_PKG_VERSION"),
        kubernetes_api: "v1.33",
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    };
    print(&match args.output {
        None => {
            format!("isthmus {} ({}, Kubernetes API {})\n", version.isthmus, version.platform, version.kubernetes_api)
        }
        Some(VersionFormat::Json) => format!("{}\n", serde_json::to_string_pretty(&version)?),
        Some(VersionFormat::Yaml) => serde_saphyr::to_string(&version)?,
    })?;
    Ok(ExitCode::SUCCESS)
}
