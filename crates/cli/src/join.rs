//! `isthmus join`: joins a cluster to the mesh, by a remote secret for a primary.
//!
//! In the joining cluster the command creates the reader account, which may read the watched kinds and no Secrets; in a
//! cluster without a controller of its own it has the permissions to serve the cluster as well (see [`api::reader`]), and
//! the command creates the writer account, of which the reader may request tokens. A
//! token of the account goes into a remote secret, with the address and certificate authority of the cluster's API
//! server. If a primary is named, the command applies the secret there and waits for the link; otherwise it prints the
//! secret.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::reader::{READER, Served, WRITER};
use api::remote_secret;
use federation_controller::debug::ClustersPage;
use install::components::CONTROLLER;
use install::debug_pages::DebugPages;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt as _};
use lab::console::{Patience, TIMED_OUT, print, print_stderr};
use lab::orchestration::state::{self, LabRecord};

use crate::access::{AccessOptions, ClusterAccess, UNREADABLE_PAGE, describe, of_environment, printable};
use crate::check;

/// Field manager of server-side apply.
const FIELD_MANAGER: &str = "isthmus-join";

/// Join a cluster to the mesh: let a primary read its services.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus join --context prod-eu prod-us\n  isthmus join prod-us | kubectl --context prod-eu apply -f -\n  isthmus join --lab --context west east"
)]
pub(crate) struct JoinArgs {
    /// Context of the joining cluster
    #[arg(required_unless_present = "lab")]
    cluster: Option<String>,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the primary that the remote secret is applied to; without it the secret is printed
    #[arg(long)]
    context: Option<String>,
    /// Apply the remote secret to the current context
    #[arg(long, conflicts_with = "context")]
    apply: bool,
    /// Name of the cluster in the mesh; otherwise the name of its context
    #[arg(long)]
    name: Option<String>,
    /// Network of the cluster's pods, which also puts it on the network of another cluster; otherwise the label
    /// topology.istio.io/network of its root namespace chooses a network of its own
    #[arg(long, value_parser = network_name)]
    network: Option<String>,
    /// URL of the cluster's API server for the primary; otherwise that of the kubeconfig
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Server name in the API server's certificate, if it differs from the address
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Namespace of the components, in which the reader account is created
    #[arg(long, default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    namespace: String,
    /// Root namespace of the primary, in which the remote secret is created
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::ROOT_NAMESPACE, value_parser = api::names::namespace)]
    root_namespace: String,
    /// Create no writer account: the primary writes no status of exports, no imports and no Events in the cluster
    #[arg(long)]
    read_only: bool,
    /// Validity of the token
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::ca::duration)]
    token_validity: Duration,
    /// Time to wait for the API servers and the link, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: JoinArgs) -> anyhow::Result<ExitCode> {
    let (cluster, lab) = joining_cluster(&args)?;
    let name = args.name.as_deref().unwrap_or(&cluster);
    if let Err(error) = api::names::dns_label(name, "cluster") {
        bail!("{error}\n  give another name: --name NAME");
    }
    let (joining, primary) = clusters(&args, &cluster, lab.as_ref()).await?;
    let patience = Patience::new(args.timeout, "check that it runs and can be reached, or wait longer: --timeout 2m");
    let server = match &args.server {
        Some(server) => server.clone(),
        None => joining.server,
    };
    if api::kubeconfig::is_loopback(&server) {
        print_stderr(&format!(
            "warning: {server} is this machine, which other machines cannot reach\n  give the address for the primary: --server URL"
        ));
    }

    let remote = &joining.cluster;
    let created = create_accounts(&remote.client, &args.namespace, !args.read_only);
    let created = patience.answer(&remote.api_server(), created).await?;
    let writes = created.with_context(|| format!("in {}", remote.name))?;
    print_stderr(&format!(
        "{}: account {}/{READER} created, {} kinds, read only, no secrets",
        remote.name,
        args.namespace,
        api::reader::kinds()
    ));
    if writes {
        print_stderr(&format!(
            "{}: account {}/{WRITER} created, writes Events, the status of exports, and imports",
            remote.name, args.namespace
        ));
    }
    let token = token(&remote.client, &args.namespace, args.token_validity);
    let (token, expires) = patience.answer(&remote.api_server(), token).await??;
    print_stderr(&format!("{}: token of the account, valid until {expires}", remote.name));

    let ca = ca_pem(&remote.config);
    let access = remote_secret::Access {
        cluster: name,
        server: &server,
        tls_server_name: args.tls_server_name.as_deref(),
        ca_pem: ca.as_bytes(),
        token: &token,
    };
    let mut secret = remote_secret::remote_secret(&args.root_namespace, &access)?;
    if let Some(network) = args.network.clone().or(joining.network) {
        secret.annotations_mut().insert(api::names::NETWORK_LABEL.to_owned(), network);
    }
    let Some(primary) = primary else {
        print(&format!("{}\n", printed(&secret)?))?;
        return Ok(ExitCode::SUCCESS);
    };
    let api = Api::<Secret>::namespaced(primary.client.clone(), &args.root_namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let start = Instant::now();
    let (secret_name, applied) = (secret.name_any(), Patch::Apply(typed(&secret)?));
    let applied = patience.answer(&primary.api_server(), api.patch(&secret_name, &params, &applied)).await?;
    applied.with_context(|| format!("applying the remote secret to {}", primary.name))?;
    print_stderr(&format!("{}: secret {}/{secret_name} applied", primary.name, args.root_namespace));
    let Some(own) = wait_for_link(&primary, &args.namespace, name, start, &patience).await? else {
        return Ok(ExitCode::from(TIMED_OUT));
    };
    let tried = primary.option.clone();
    let (primary, joined) =
        (ClusterAccess { name: own, ..primary }, ClusterAccess { name: name.to_owned(), ..joining.cluster });
    let checks = check::of_joined(primary, joined, &args.namespace, &args.root_namespace, &patience).await;
    print_stderr(&printable(&checks));
    print_stderr(&format!("joined\ntry: isthmus status {tried}"));
    Ok(ExitCode::SUCCESS)
}

/// Returns the name of the joining cluster, and the lab if one is selected. `--lab` may be followed by the name of a lab
/// or by none: in `join --lab east` the only name is that of the cluster.
fn joining_cluster(args: &JoinArgs) -> anyhow::Result<(String, Option<LabRecord>)> {
    // Clusters are contexts here, so a lab is used only if --lab is given.
    let Some(choice) = &args.access.lab else {
        return Ok((args.cluster.clone().context("the joining cluster is missing")?, None));
    };
    match (&args.cluster, choice.name()) {
        (Some(cluster), _) => Ok((cluster.clone(), args.access.lab(None)?)),
        (None, Some(name)) if state::choose(Some(name)).is_err() => {
            let lab = state::choose(of_environment()?.name())?;
            match lab.cluster(name.as_str()) {
                Ok(_) => Ok((name.to_string(), Some(lab))),
                Err(_) => Err(state::choose(Some(name)).err().map_or_else(|| missing_cluster(&lab), Into::into)),
            }
        }
        (None, _) => {
            let lab = args.access.lab(None)?.context("the joining cluster is missing")?;
            Err(missing_cluster(&lab))
        }
    }
}

fn missing_cluster(lab: &LabRecord) -> anyhow::Error {
    let remotes = lab.clusters.iter().filter(|cluster| cluster.role != "primary");
    let remotes: Vec<&str> = remotes.map(|cluster| cluster.name.as_str()).collect();
    anyhow::anyhow!(
        "the joining cluster is missing\n  name it: isthmus join --lab {} CLUSTER\n  remote clusters: {}",
        lab.name,
        if remotes.is_empty() { "none".to_owned() } else { remotes.join(", ") }
    )
}

/// Parses the name of a network, which is the value of a label.
fn network_name(text: &str) -> Result<String, String> {
    let of_value = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let valid =
        text.len() <= 63 && text.bytes().all(of_value) && ends(text.bytes().next()) && ends(text.bytes().last());
    let error = || format!("\"{text}\" is not a valid network name (letters, digits, '-', '_' and '.', at most 63)");
    valid.then(|| text.to_owned()).ok_or_else(error)
}

/// The joining cluster.
struct JoiningCluster {
    cluster: ClusterAccess,
    /// URL of its API server for the primary.
    server: String,
    /// Its network, if a lab's topology decides it.
    network: Option<String>,
}

async fn clusters(
    args: &JoinArgs,
    cluster: &str,
    lab: Option<&LabRecord>,
) -> anyhow::Result<(JoiningCluster, Option<ClusterAccess>)> {
    if let Some(lab) = lab {
        let joining = args.access.of_lab(lab, cluster).await?;
        let record = lab.cluster(cluster)?;
        let primary = args.context.as_deref().unwrap_or(&record.primary);
        if primary == cluster {
            bail!(
                "{primary} is a primary and needs no secret for itself\n  name the primary that reads it: --context NAME"
            );
        }
        let primary = args.access.of_lab(lab, primary).await?;
        // Clusters of a lab reach each other's API servers over the bridge between them, not by this machine's
        // loopback.
        let (server, network) = (record.server.clone(), Some(record.network.clone()));
        return Ok((JoiningCluster { cluster: joining, server, network }, Some(primary)));
    }
    let joining = args.access.context(Some(cluster)).await?;
    let primary = match (&args.context, args.apply) {
        (Some(context), _) => Some(args.access.context(Some(context)).await?),
        (None, true) => Some(args.access.context(None).await?),
        (None, false) => None,
    };
    if primary.as_ref().is_some_and(|primary| primary.name == joining.name) {
        bail!("{} cannot join itself\n  name the primary: --context NAME", joining.name);
    }
    let server = joining.config.cluster_url.to_string().trim_end_matches('/').to_owned();
    Ok((JoiningCluster { cluster: joining, server, network: None }, primary))
}

/// Creates the reader account and its roles, and those of the writer if the cluster has no controller of its own, which writes
/// there itself. Returns whether there is a writer.
async fn create_accounts(client: &Client, namespace: &str, writes: bool) -> anyhow::Result<bool> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let own = Namespace {
        metadata: ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match namespaces.create(&PostParams::default(), &own).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).with_context(|| format!("creating namespace {namespace}")),
    }
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let served = match deployments.get_opt(CONTROLLER).await.context("looking for a controller")? {
        Some(_) => Served::ByItself,
        None => Served::ByReader,
    };
    let writes = writes && served == Served::ByReader;
    let writer = if writes { api::reader::writer_objects(namespace) } else { Vec::new() };
    for object in api::reader::objects(namespace, served).into_iter().chain(writer) {
        let object: DynamicObject = serde_json::from_value(object)?;
        let (name, kind) = (object.name_any(), object.types.clone().unwrap_or_default());
        let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind.kind));
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
        applied.with_context(|| format!("applying {} {name}", kind.kind))?;
    }
    Ok(writes)
}

/// Returns a token of the reader account, and its expiry.
async fn token(client: &Client, namespace: &str, validity: Duration) -> anyhow::Result<(String, String)> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let mut request = TokenRequest::default();
    request.spec.expiration_seconds = i64::try_from(validity.as_secs()).ok();
    let made = accounts.create_token_request(READER, &PostParams::default(), &request).await;
    let status = made.context("requesting a token")?.status.context("the API server's answer has no token")?;
    Ok((status.token, status.expiration_timestamp.0.to_string()))
}

fn ca_pem(config: &kube::Config) -> String {
    let roots = config.root_cert.iter().flatten();
    roots.map(|der| identity::certificates_to_pem([&der.as_slice().into()])).collect()
}

/// Returns the Secret with `apiVersion` and `kind`, which server-side apply and files need.
fn typed(secret: &Secret) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(secret)?;
    value["apiVersion"] = "v1".into();
    value["kind"] = "Secret".into();
    Ok(value)
}

fn printed(secret: &Secret) -> anyhow::Result<String> {
    let yaml = api::yaml::to_string(&typed(secret)?).map_err(anyhow::Error::msg)?;
    Ok(format!("# Contains a credential. Created by isthmus join.\n{}", yaml.trim_end()))
}

/// Waits until the primary's controller reports a link that connected after `start`, and prints what it waits for. Returns the
/// primary's name in the mesh; `None`: there is no link within the time.
async fn wait_for_link(
    primary: &ClusterAccess,
    namespace: &str,
    name: &str,
    start: Instant,
    patience: &Patience,
) -> anyhow::Result<Option<String>> {
    let mut said = String::new();
    let pages = DebugPages::new(primary.client.clone(), namespace);
    let controller = primary.controller();
    loop {
        let state = match patience.answer(&controller, pages.read("clusters")).await {
            Ok(Ok(page)) => link_of(&page, name, start.elapsed()),
            Ok(Err(error)) => {
                let error = describe(&error.into());
                Err(format!("the controller in {} does not answer: {error}", primary.name))
            }
            // The time was over during the last look. What the earlier ones found says more.
            Err(_) if !said.is_empty() => Err(said.clone()),
            Err(silent) => Err(silent.to_string()),
        };
        let elapsed = start.elapsed().as_secs_f32();
        match state {
            Ok((own, network)) => {
                let own = own.unwrap_or_else(|| primary.name.clone());
                let network = printable(&network);
                print_stderr(&format!("{}: link to {name} connected after {elapsed:.1}s{network}", primary.name));
                return Ok(Some(own));
            }
            Err(waiting) => {
                let waiting = printable(&waiting);
                if waiting != said {
                    print_stderr(&format!("waiting ({elapsed:.0}s): {waiting}"));
                    said = waiting;
                }
            }
        }
        if patience.is_over() {
            print_stderr(&format!(
                "error: {name} did not connect within {:.0}s: {said}\n  the secret stays and the controller keeps trying; \
                 see: isthmus status {}",
                patience.elapsed().as_secs_f32(),
                primary.option
            ));
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Returns the name of the controller's own cluster, and the network of a cluster whose link has connected within `since`, as a
/// suffix for display; else what to wait for.
fn link_of(page: &str, name: &str, since: Duration) -> Result<(Option<String>, String), String> {
    let page: ClustersPage = serde_json::from_str(page).map_err(|_| UNREADABLE_PAGE.to_owned())?;
    let Some(row) = page.clusters.iter().find(|row| row.name == name) else {
        let about = page.problems.iter().find(|problem| problem.contains(name));
        return Err(about.cloned().unwrap_or_else(|| "the controller has not read the secret yet".to_owned()));
    };
    if row.link != "connected" {
        let why = row.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        return Err(format!("link {}{why}", row.link));
    }
    if let Some(replacement) = &row.replacement {
        return Err(format!("the link with the new credentials is {replacement}"));
    }
    if Duration::from_millis(row.link_age_ms) > since {
        return Err("the controller has not read the new secret yet".to_owned());
    }
    let same = page.clusters.iter().any(|other| other.name != name && other.network == row.network);
    let own = page.clusters.iter().find(|row| row.role == "primary" && row.secret.is_none());
    let own = own.map(|row| row.name.clone());
    let network = match row.network.as_str() {
        "" => ", network unknown: label its root namespace topology.istio.io/network".to_owned(),
        network if same => format!(", network {network}, shared with other clusters"),
        network => format!(", network {network}"),
    };
    Ok((own, network))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_printed_secret_can_be_applied() {
        let access = remote_secret::Access {
            cluster: "east",
            server: "https://203.0.113.2:6443",
            tls_server_name: None,
            ca_pem: b"ca",
            token: "a.b.c",
        };
        let secret = remote_secret::remote_secret("istio-system", &access).unwrap();
        let text = printed(&secret).unwrap();
        assert!(text.starts_with('#'));
        let read: DynamicObject = api::yaml::from_str(&text).unwrap();
        assert_eq!(read.types.unwrap().kind, "Secret");
        assert_eq!(read.data["stringData"]["east"].as_str().map(|k| k.contains("a.b.c")), Some(true));
    }

    #[test]
    fn the_name_of_a_network_is_the_value_of_a_label() {
        assert_eq!(network_name("net-east_1.a"), Ok("net-east_1.a".to_owned()));
        for bad in ["", "-a", "a ", "a/b", "a.", &"a".repeat(64)] {
            assert!(network_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_reason_for_waiting_is_described() {
        let page = |clusters: serde_json::Value, problems: serde_json::Value| {
            json!({"clusters": clusters, "problems": problems}).to_string()
        };
        let row = |link: &str, network: &str| {
            json!({"name": "east", "role": "remote", "network": network, "server": "s", "secret": null, "link": link,
                   "why": if link == "connected" { json!(null) } else { json!("timed out") }, "link_age_ms": 1,
                   "contact_age_ms": null, "heard_age_ms": null, "synced": true, "unconfirmed": [], "services": 0,
                   "exported": 0, "endpoints": 0, "pods": 0, "trust": null})
        };
        let of = |page: String| link_of(&page, "east", Duration::from_secs(1));
        assert_eq!(of(page(json!([]), json!([]))), Err("the controller has not read the secret yet".to_owned()));
        assert_eq!(of(page(json!([]), json!(["s: east: broken"]))), Err("s: east: broken".to_owned()));
        assert_eq!(of(page(json!([row("unreachable", "")]), json!([]))), Err("link unreachable: timed out".to_owned()));
        let mut west = row("connected", "net-west");
        (west["name"], west["role"]) = (json!("west"), json!("primary"));
        assert_eq!(
            of(page(json!([west, row("connected", "net-east")]), json!([]))),
            Ok((Some("west".to_owned()), ", network net-east".to_owned()))
        );
        let mut old = row("connected", "net-east");
        old["link_age_ms"] = json!(60_000);
        assert_eq!(of(page(json!([old]), json!([]))), Err("the controller has not read the new secret yet".to_owned()));
        assert!(of("nonsense".to_owned()).is_err());
    }
}
