//! `isthmus join`: lets a primary's controller read another cluster.
//!
//! In the cluster that joins, an account is made that may read what is watched and no Secrets; where that cluster has no
//! controller of its own, it may also do the little that serving it takes (see [`api::reader`]). A token bound to it goes,
//! with the address and CA of that cluster's API server, into a remote secret for the primary. With a primary named the
//! secret is applied there and the link is waited for; without one it is printed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::reader::{READER, Served};
use api::remote_secret::{self, is_cluster_name};
use federation_controller::debug::ClustersPage;
use install::components::CONTROLLER;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt as _};

use crate::access::{Access, Cluster, UNREADABLE_PAGE, controller_page, describe};

/// Waiting ended before what was waited for.
const TIMED_OUT: u8 = 3;
/// Under which name server-side apply knows this command.
const FIELD_MANAGER: &str = "isthmus-join";

/// Lets a primary cluster read another cluster's services.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus join --context prod-eu prod-us\n  isthmus join prod-us | kubectl --context prod-eu apply -f -\n  isthmus join --lab --context west east"
)]
pub(crate) struct Args {
    /// Context of the cluster that joins
    cluster: String,
    #[command(flatten)]
    access: Access,
    /// Context of the primary, to which the remote secret is applied; without it the secret is printed
    #[arg(long)]
    context: Option<String>,
    /// Apply the remote secret to the current context even though none is named
    #[arg(long, conflicts_with = "context")]
    apply: bool,
    /// What the cluster is called in the mesh; otherwise as its context
    #[arg(long)]
    name: Option<String>,
    /// Address of the cluster's API server as the primary reaches it; otherwise as in the kubeconfig
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Name to verify the API server's certificate against, where it is not that of its address
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Namespace of the components, where the reader account is made
    #[arg(long, default_value = api::names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Namespace of the remote secrets in the primary
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::ROOT_NAMESPACE)]
    root_namespace: String,
    /// How long the token is valid
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::ca::duration)]
    token_validity: Duration,
    /// How long to wait for the link, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let name = args.name.as_deref().unwrap_or(&args.cluster);
    if !is_cluster_name(name) {
        bail!("{name:?} is no name for a cluster: use lower-case letters, digits and '-', at most 63; give --name");
    }
    let (joining, primary) = clusters(&args).await?;
    let server = match &args.server {
        Some(server) => server.clone(),
        None => joining.server,
    };
    if api::kubeconfig::is_loopback(&server) {
        eprintln!("warning: {server} is this machine; a controller elsewhere cannot reach it. Give --server");
    }

    let report = |line: &str| eprintln!("{line}");
    let remote = &joining.cluster;
    make_account(&remote.client, &args.namespace).await.with_context(|| format!("in {}", remote.name))?;
    report(&format!(
        "{}: account {}/{READER}, {} kinds, read only, no secrets",
        remote.name,
        args.namespace,
        api::reader::kinds()
    ));
    let (token, expires) = token(&remote.client, &args.namespace, args.token_validity).await?;
    report(&format!("{}: token bound to it, until {expires}", remote.name));

    let ca = ca_pem(&remote.config);
    let access = remote_secret::Access {
        cluster: name,
        server: &server,
        tls_server_name: args.tls_server_name.as_deref(),
        ca_pem: ca.as_bytes(),
        token: &token,
    };
    let secret = remote_secret::remote_secret(&args.root_namespace, &access)?;
    let Some(primary) = primary else {
        println!("{}", printed(&secret)?);
        return Ok(ExitCode::SUCCESS);
    };
    let api = Api::<Secret>::namespaced(primary.client.clone(), &args.root_namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let start = Instant::now();
    api.patch(&secret.name_any(), &params, &Patch::Apply(typed(&secret)?))
        .await
        .with_context(|| format!("applying the remote secret to {}", primary.name))?;
    report(&format!("{}: secret {}/{} applied", primary.name, args.root_namespace, secret.name_any()));
    wait_for_link(&primary, &args.namespace, name, start, args.timeout).await
}

/// The cluster that joins, and the address by which the primary reaches it unless another is given.
struct Joining {
    cluster: Cluster,
    server: String,
}

async fn clusters(args: &Args) -> anyhow::Result<(Joining, Option<Cluster>)> {
    // Naming clusters by contexts is the rule here, so a lab counts only when it is asked for.
    let lab = if args.access.lab.is_some() { args.access.lab(None)? } else { None };
    if let Some(lab) = lab {
        let joining = args.access.of_lab(&lab, &args.cluster).await?;
        let index = lab.clusters.iter().position(|cluster| cluster.name == args.cluster).unwrap_or_default();
        let record = lab.cluster(&args.cluster)?;
        let primary = args.context.as_deref().unwrap_or(&record.primary);
        if primary == args.cluster {
            bail!("{primary} is a primary and needs no secret for itself; name the other one with --context");
        }
        let primary = args.access.of_lab(&lab, primary).await?;
        // Clusters of a lab reach each other's API servers over the wire between them, not by this machine's loopback.
        let server = format!("https://203.0.113.{}:6443", index + 1);
        return Ok((Joining { cluster: joining, server }, Some(primary)));
    }
    let joining = args.access.context(Some(&args.cluster)).await?;
    let primary = match (&args.context, args.apply) {
        (Some(context), _) => Some(args.access.context(Some(context)).await?),
        (None, true) => Some(args.access.context(None).await?),
        (None, false) => None,
    };
    if primary.as_ref().is_some_and(|primary| primary.name == joining.name) {
        bail!("{} cannot join itself; name the primary with --context", joining.name);
    }
    let server = joining.config.cluster_url.to_string().trim_end_matches('/').to_owned();
    Ok((Joining { cluster: joining, server }, primary))
}

/// Applies the reader account and its roles.
async fn make_account(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let own = Namespace {
        metadata: ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match namespaces.create(&PostParams::default(), &own).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).with_context(|| format!("making namespace {namespace}")),
    }
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let served = match deployments.get_opt(CONTROLLER).await.context("looking for a controller there")? {
        Some(_) => Served::ByItself,
        None => Served::ByReader,
    };
    for object in api::reader::objects(namespace, served) {
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
    Ok(())
}

/// A token of the reader account, and until when it is valid.
async fn token(client: &Client, namespace: &str, validity: Duration) -> anyhow::Result<(String, String)> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let mut request = TokenRequest::default();
    request.spec.expiration_seconds = i64::try_from(validity.as_secs()).ok();
    let made = accounts.create_token_request(READER, &PostParams::default(), &request).await;
    let status = made.context("asking for a token")?.status.context("the API server made no token")?;
    Ok((status.token, status.expiration_timestamp.0.to_string()))
}

fn ca_pem(config: &kube::Config) -> String {
    let roots = config.root_cert.iter().flatten();
    roots.map(|der| identity::certificates_to_pem([&der.as_slice().into()])).collect()
}

/// With `apiVersion` and `kind`, which server-side apply and files need.
fn typed(secret: &Secret) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(secret)?;
    value["apiVersion"] = "v1".into();
    value["kind"] = "Secret".into();
    Ok(value)
}

fn printed(secret: &Secret) -> anyhow::Result<String> {
    let yaml = api::yaml::to_string(&typed(secret)?).map_err(anyhow::Error::msg)?;
    Ok(format!("# Holds a credential. Made by isthmus join.\n{}", yaml.trim_end()))
}

/// Waits until the primary's controller reports a link that connected after `start`, and prints what it waits for.
async fn wait_for_link(
    primary: &Cluster,
    namespace: &str,
    name: &str,
    start: Instant,
    timeout: Duration,
) -> anyhow::Result<ExitCode> {
    let mut said = String::new();
    loop {
        let state = match controller_page(&primary.client, namespace, "clusters").await {
            Ok(page) => link_of(&page, name, start.elapsed()),
            Err(error) => Err(format!("the controller in {} does not answer: {}", primary.name, describe(&error))),
        };
        let elapsed = start.elapsed().as_secs_f32();
        match state {
            Ok(network) => {
                eprintln!("{}: link to {name} connected after {elapsed:.1}s{network}", primary.name);
                eprintln!("joined\ntry: isthmus status {}", primary.option);
                return Ok(ExitCode::SUCCESS);
            }
            Err(waiting) => {
                if waiting != said {
                    eprintln!("waiting ({elapsed:.0}s): {waiting}");
                    said = waiting;
                }
            }
        }
        if start.elapsed() >= timeout {
            eprintln!("error: {name} did not connect within {elapsed:.0}s: {said}");
            eprintln!("  the secret stays, and the controller goes on trying; see: isthmus status {}", primary.option);
            return Ok(ExitCode::from(TIMED_OUT));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Returns the network of a cluster whose link has connected within `since`, as a suffix for display; else what to wait for.
fn link_of(page: &str, name: &str, since: Duration) -> Result<String, String> {
    let page: ClustersPage = serde_json::from_str(page).map_err(|_| UNREADABLE_PAGE.to_owned())?;
    let Some(row) = page.clusters.iter().find(|row| row.name == name) else {
        let about = page.problems.iter().find(|problem| problem.contains(name));
        return Err(about.cloned().unwrap_or_else(|| "the controller has not seen the secret".to_owned()));
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
    Ok(match row.network.as_str() {
        "" => ", network not known: label its root namespace topology.istio.io/network".to_owned(),
        network if same => format!(", network {network}, shared with other clusters"),
        network => format!(", network {network}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_can_be_applied_and_read() {
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
    fn what_is_waited_for_is_said() {
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
        assert_eq!(of(page(json!([]), json!([]))), Err("the controller has not seen the secret".to_owned()));
        assert_eq!(of(page(json!([]), json!(["s: east: broken"]))), Err("s: east: broken".to_owned()));
        assert_eq!(of(page(json!([row("unreachable", "")]), json!([]))), Err("link unreachable: timed out".to_owned()));
        assert_eq!(of(page(json!([row("connected", "net-east")]), json!([]))), Ok(", network net-east".to_owned()));
        let mut old = row("connected", "net-east");
        old["link_age_ms"] = json!(60_000);
        assert_eq!(of(page(json!([old]), json!([]))), Err("the controller has not read the new secret yet".to_owned()));
        assert!(of("nonsense".to_owned()).is_err());
    }
}
