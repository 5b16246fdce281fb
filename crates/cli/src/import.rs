//! `isthmus import`: reports what becomes of the objects of another mesh, line by line.

use std::collections::BTreeMap;
use std::process::ExitCode;

use api::analyze::{Object, Origin};
use api::compatibility::WITHOUT_EFFECT;
use api::import::{Judgement, Verdict, judge};
use lab::console::{print, print_stderr};
use serde_json::{Value, json};

use crate::access::printable;
use crate::sources::clusters::{KINDS, ReadKind};
use crate::sources::{SourceOptions, Sources, count};

/// Report what works, differs and cannot work of the objects of Istio, Linkerd or SMI.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus import -R manifests/\n  isthmus import --context prod-eu\n  helm template istio-config | isthmus import - -o json\n\nNothing is changed. Exits with 1 if an object is refused, or cannot work."
)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    sources: SourceOptions,
    /// Leave out the objects that work as they are
    #[arg(long)]
    only_notes: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ImportFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ImportFormat {
    /// A line for each object, and one for each note about it
    #[default]
    Text,
    /// JSON
    Json,
}

/// Kinds that an analysis does not read, also of other meshes.
const FOREIGN: &[ReadKind] = &[
    ReadKind::of("", "v1", "ConfigMap", "configmaps"),
    ReadKind::of("networking.istio.io", "v1", "WorkloadEntry", "workloadentries"),
    ReadKind::of("networking.istio.io", "v1", "Sidecar", "sidecars"),
    ReadKind::of("networking.istio.io", "v1beta1", "ProxyConfig", "proxyconfigs"),
    ReadKind::of("install.istio.io", "v1alpha1", "IstioOperator", "istiooperators"),
    ReadKind::of("multicluster.x-k8s.io", "v1alpha1", "ServiceExport", "serviceexports"),
    ReadKind::of("policy.linkerd.io", "v1beta3", "Server", "servers"),
    ReadKind::of("policy.linkerd.io", "v1beta1", "ServerAuthorization", "serverauthorizations"),
    ReadKind::of("policy.linkerd.io", "v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),
    ReadKind::of("policy.linkerd.io", "v1alpha1", "MeshTLSAuthentication", "meshtlsauthentications"),
    ReadKind::of("policy.linkerd.io", "v1alpha1", "NetworkAuthentication", "networkauthentications"),
    ReadKind::of("policy.linkerd.io", "v1beta3", "HTTPRoute", "httproutes"),
    ReadKind::of("policy.linkerd.io", "v1alpha1", "HTTPLocalRateLimitPolicy", "httplocalratelimitpolicies"),
    ReadKind::of("policy.linkerd.io", "v1alpha1", "EgressNetwork", "egressnetworks"),
    ReadKind::of("multicluster.linkerd.io", "v1alpha3", "Link", "links"),
    ReadKind::of("access.smi-spec.io", "v1alpha3", "TrafficTarget", "traffictargets"),
    ReadKind::of("specs.smi-spec.io", "v1alpha4", "TCPRoute", "tcproutes"),
    ReadKind::of("gateway.networking.k8s.io", "v1", "Gateway", "gateways"),
    ReadKind::of("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
];

pub(crate) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let without_effect = WITHOUT_EFFECT.iter().map(|of| ReadKind::of(of.group, of.version, of.kind, of.plural));
    let kinds: Vec<ReadKind> = KINDS.iter().chain(FOREIGN).copied().chain(without_effect).collect();
    let Sources { objects, unreadable, places } = args.sources.read(&kinds).await?;
    let judged: Vec<(&Object, Judgement)> =
        objects.iter().filter_map(|object| Some((object, judge(object)?))).collect();
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    judged.iter().for_each(|(_, judgement)| *counts.entry(judgement.verdict).or_default() += 1);
    let shown = judged.iter().filter(|(_, judgement)| !args.only_notes || judgement.verdict != Verdict::Works);
    let text = match args.output {
        ImportFormat::Text => {
            let unreadable = unreadable.iter().map(|of| format!("{}: {}\n", of.reference(), of.message));
            unreadable.chain(shown.map(|(object, judgement)| lines(object, judgement))).collect()
        }
        ImportFormat::Json => {
            let documents: Value = shown.map(|(object, judgement)| document(object, judgement)).collect();
            format!("{}\n", serde_json::to_string_pretty(&documents)?)
        }
    };
    print(&printable(&text))?;
    print_stderr(&printable(&summary(&counts, objects.len() - judged.len(), &places)));
    let bad = counts.keys().any(|verdict| *verdict >= Verdict::CannotWork) || !unreadable.is_empty();
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Works => "works",
        Verdict::Differs => "works, but",
        Verdict::CannotWork => "cannot work",
        Verdict::Refused => "is refused",
    }
}

/// Returns the line of an object, and those of its notes.
fn lines(object: &Object, judgement: &Judgement) -> String {
    let place = place(object, None);
    let mut text = format!("{place}: {} {} {}\n", object.kind(), object.full_name(), word(judgement.verdict));
    for note in &judgement.notes {
        let at = note.line.map(|line| format!("{}: ", self::place(object, Some(line)))).unwrap_or_default();
        let field = if note.field.is_empty() { String::new() } else { format!("{}: ", note.field) };
        text.push_str(&format!("    {at}{field}{}\n", note.text));
    }
    text
}

/// Returns the file and the line of a field of an object, or its cluster.
fn place(object: &Object, line: Option<u64>) -> String {
    match &object.origin {
        Origin::File { path, lines } => format!("{path}:{}", line.unwrap_or_else(|| lines.of("kind"))),
        Origin::Cluster(cluster) => cluster.to_string(),
    }
}

fn document(object: &Object, judgement: &Judgement) -> Value {
    let mut document = json!({
        "apiVersion": object.value["apiVersion"], "kind": object.kind(), "namespace": object.namespace,
        "name": object.name(), "verdict": judgement.verdict, "notes": judgement.notes,
    });
    match &object.origin {
        Origin::File { path, lines } => {
            document["file"] = json!(**path);
            document["line"] = json!(lines.of("kind"));
        }
        Origin::Cluster(cluster) => document["cluster"] = json!(**cluster),
    }
    document
}

/// Returns the last line: how many objects there are of each verdict.
fn summary(counts: &BTreeMap<Verdict, usize>, others: usize, places: &str) -> String {
    let of = |verdict| counts.get(&verdict).copied().unwrap_or_default();
    format!(
        "{} as they are, {} with differences, {} cannot work, {} refused; {} that no mesh reads ({places})",
        of(Verdict::Works),
        of(Verdict::Differs),
        of(Verdict::CannotWork),
        of(Verdict::Refused),
        count(others, "object"),
    )
}
