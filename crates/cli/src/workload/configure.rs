//! `isthmus workload entry configure`: writes the files with which a machine's sidecar joins the mesh.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::names::{
    CONTROLLER_ISSUER_KEY, NETWORK_LABEL, ROOT_CONFIG_KEY, ROOT_CONFIG_MAP, ROOT_NAMESPACE, SYSTEM_NAMESPACE,
    TOKEN_AUDIENCE,
};
use api::networking::{WorkloadGroup, WorkloadGroupSpec};
use install::components::CONTROLLER;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use lab::console::{Patience, print};

use crate::access::{AccessOptions, ClusterAccess};

/// The port of the controller for proxies of its own cluster, and that of a gateway without a label.
const DISCOVERY_PORT: u16 = 15012;
const GATEWAY_PORT: i32 = 15443;
/// The port of SSH.
const SSH: &str = "22";
/// The port of a gateway Service, if it is not [`GATEWAY_PORT`].
const GATEWAY_PORT_LABEL: &str = "networking.istio.io/gatewayPort";

#[derive(Debug, clap::Args)]
pub(super) struct ConfigureArgs {
    /// Name of the WorkloadGroup
    #[arg(long)]
    name: String,
    /// Namespace of the WorkloadGroup
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    namespace: String,
    /// Directory of the files
    #[arg(short, long, value_name = "DIRECTORY")]
    output: PathBuf,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the cluster with the WorkloadGroup, which is a primary; otherwise the current context
    #[arg(long)]
    context: Option<String>,
    /// WorkloadEntry of the machine, which is written by hand; otherwise the controller registers one when the sidecar connects
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Address of the machine for other workloads; otherwise that of its connections to the controller
    #[arg(long, value_name = "ADDRESS")]
    internal_ip: Option<IpAddr>,
    /// Address of the controller for the machine, as HOST:PORT; otherwise the cluster's east-west gateway, if it has one with an
    /// address, else the controller's Service
    #[arg(long, value_name = "HOST:PORT")]
    discovery: Option<String>,
    /// Validity of the token, within which the sidecar has to start
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::ca::duration)]
    token_validity: Duration,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Time to wait for the API server, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: ConfigureArgs) -> anyhow::Result<ExitCode> {
    let cluster = cluster(&args).await?;
    let patience = Patience::new(args.timeout, "check that it runs and can be reached, or wait longer: --timeout 2m");
    let found = patience.answer(&cluster.api_server(), Found::read(&cluster.client, &args)).await?;
    let found = found.with_context(|| format!("in {}", cluster.name))?;
    let environment = environment(&args, &found);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.output)
        .with_context(|| format!("creating {}", args.output.display()))?;
    let files = [
        ("root-cert.pem", &found.roots),
        ("controller-issuer.pem", &found.issuer),
        ("istio-token", &found.token),
        ("cluster.env", &environment),
    ];
    for (name, content) in files {
        crate::ca::write(&args.output.join(name), content, args.force)?;
    }
    let directory = args.output.display();
    print(&format!(
        "options, roots and a token of service account {}/{} written to {directory}; the token is valid until {}\n\
         next: copy {directory} to the machine, and run there: isthmus sidecar --from DIRECTORY init; isthmus sidecar --from DIRECTORY\n",
        args.namespace, found.account, found.expires
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn cluster(args: &ConfigureArgs) -> anyhow::Result<ClusterAccess> {
    let Some(lab) = args.access.lab(args.context.as_deref())? else {
        return args.access.context(args.context.as_deref()).await;
    };
    let primaries: Vec<&str> =
        lab.clusters.iter().filter(|of| of.role == "primary").map(|of| of.name.as_str()).collect();
    let name = match (args.context.as_deref(), &*primaries) {
        (Some(name), _) => name,
        (None, [name]) => *name,
        _ => {
            bail!("lab \"{}\" has several primaries: {}\n  choose one: --context NAME", lab.name, primaries.join(", "))
        }
    };
    args.access.of_lab(&lab, name).await
}

/// What the cluster says.
struct Found {
    cluster: String,
    identity: Option<String>,
    network: String,
    account: String,
    roots: String,
    issuer: String,
    token: String,
    expires: String,
    gateway: Option<String>,
}

impl Found {
    async fn read(client: &Client, args: &ConfigureArgs) -> anyhow::Result<Found> {
        let group = group(client, args).await?;
        let account = match &*group.template.service_account {
            "" => "default".to_owned(),
            account => account.to_owned(),
        };
        let controller = Api::<Deployment>::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let controller = controller.get_opt(CONTROLLER).await?.with_context(|| {
            format!(
                "there is no Deployment {SYSTEM_NAMESPACE}/{CONTROLLER}: WorkloadGroups are read in a primary cluster"
            )
        })?;
        let option = |name: &str| option(&controller, name);
        let cluster =
            option("--cluster").context("the controller's Deployment does not name its cluster (--cluster)")?;
        let identity =
            option("--trust-domain").map(|domain| format!("spiffe://{domain}/ns/{SYSTEM_NAMESPACE}/sa/{CONTROLLER}"));
        let network = match &*group.template.network {
            "" => network(client).await?,
            network => network.to_owned(),
        };
        let roots = Api::<ConfigMap>::namespaced(client.clone(), &args.namespace).get(ROOT_CONFIG_MAP).await;
        let mut roots = roots.context("the roots of the mesh")?.data.unwrap_or_default();
        let mut entry = |key: &str| {
            roots.remove(key).with_context(|| format!("ConfigMap {}/{ROOT_CONFIG_MAP} has no {key}", args.namespace))
        };
        let (roots, issuer) = (entry(ROOT_CONFIG_KEY)?, entry(CONTROLLER_ISSUER_KEY)?);
        let (token, expires) = token(client, args, &account).await?;
        let gateway = gateway(client).await?;
        Ok(Found { cluster, identity, network, account, roots, issuer, token, expires, gateway })
    }
}

async fn group(client: &Client, args: &ConfigureArgs) -> anyhow::Result<WorkloadGroupSpec> {
    let groups = Api::<WorkloadGroup>::namespaced(client.clone(), &args.namespace);
    let group = groups.get_opt(&args.name).await?.with_context(|| {
        format!(
            "there is no WorkloadGroup {}/{}: write one, with the machine's service account",
            args.namespace, args.name
        )
    })?;
    if let Some(problem) = group.validate().into_iter().find(|problem| problem.is_error()) {
        bail!("WorkloadGroup {}/{} is not valid: {problem}", args.namespace, args.name);
    }
    Ok(group.spec)
}

/// Returns the value of an option of the controller's container.
fn option(controller: &Deployment, name: &str) -> Option<String> {
    let containers = &controller.spec.as_ref()?.template.spec.as_ref()?.containers;
    let args: Vec<&String> = containers.iter().flat_map(|container| container.args.iter().flatten()).collect();
    let joined = args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='));
    let apart = || args.iter().position(|arg| *arg == name).and_then(|at| args.get(at + 1)).map(|value| value.as_str());
    joined.or_else(apart).map(str::to_owned)
}

async fn network(client: &Client) -> anyhow::Result<String> {
    let root = Api::<Namespace>::all(client.clone()).get_opt(ROOT_NAMESPACE).await?;
    let labels = root.and_then(|root| root.metadata.labels).unwrap_or_default();
    Ok(labels.get(NETWORK_LABEL).cloned().unwrap_or_default())
}

async fn token(client: &Client, args: &ConfigureArgs, account: &str) -> anyhow::Result<(String, String)> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &args.namespace);
    let mut request = TokenRequest::default();
    request.spec.audiences = vec![TOKEN_AUDIENCE.to_owned()];
    request.spec.expiration_seconds = i64::try_from(args.token_validity.as_secs()).ok();
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let made = made.with_context(|| format!("a token of service account {}/{account}", args.namespace))?;
    let status = made.status.context("the API server's answer has no token")?;
    Ok((status.token, status.expiration_timestamp.0.to_string()))
}

/// Returns the address and port of an east-west gateway of the cluster.
async fn gateway(client: &Client) -> anyhow::Result<Option<String>> {
    let services = Api::<Service>::all(client.clone()).list(&ListParams::default().labels(NETWORK_LABEL)).await?;
    let address = |service: &Service| {
        let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
        let ip = balancer.ingress.iter().flatten().find_map(|ingress| ingress.ip.as_deref()?.parse::<IpAddr>().ok())?;
        let labels = service.metadata.labels.as_ref();
        let port = labels.and_then(|labels| labels.get(GATEWAY_PORT_LABEL)?.parse().ok()).unwrap_or(GATEWAY_PORT);
        Some(if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
    };
    Ok(services.iter().find_map(address))
}

/// Returns the options as lines of a shell.
fn environment(args: &ConfigureArgs, found: &Found) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| _ = writeln!(text, "{name}='{value}'");
    line("ISTIO_META_CLUSTER_ID", &found.cluster);
    line("ISTIO_META_NETWORK", &found.network);
    line("POD_NAMESPACE", &args.namespace);
    match &args.entry {
        Some(entry) => line("ISTHMUS_WORKLOAD_ENTRY", entry),
        None => line("ISTIO_META_AUTO_REGISTER_GROUP", &args.name),
    }
    if let Some(ip) = args.internal_ip {
        line("INSTANCE_IP", &ip.to_string());
    }
    // An administrator has no identity in the mesh, and must not be locked out by strict mutual TLS.
    line("EXCLUDE_INBOUND_PORTS", SSH);
    let name = format!("{CONTROLLER}.{SYSTEM_NAMESPACE}.svc");
    match (&args.discovery, &found.gateway) {
        (Some(address), _) | (None, Some(address)) => {
            line("DISCOVERY_ADDRESS", address);
            // A gateway finds the controller by it.
            line("ISTHMUS_DISCOVERY_NAME", &name);
        }
        (None, None) => line("DISCOVERY_ADDRESS", &format!("{name}:{DISCOVERY_PORT}")),
    }
    if let Some(identity) = &found.identity {
        line("ISTHMUS_CONTROLLER_IDENTITY", identity);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: ConfigureArgs,
    }

    fn found() -> Found {
        Found {
            cluster: "west".into(),
            identity: Some("spiffe://cluster.local/ns/isthmus-system/sa/isthmus-controller".into()),
            network: "net-west".into(),
            account: "legacy".into(),
            roots: String::new(),
            issuer: String::new(),
            token: "secret".into(),
            expires: String::new(),
            gateway: Some("203.0.113.10:15443".into()),
        }
    }

    #[test]
    fn a_machine_reaches_the_controller_through_the_gateway() {
        let parse = |further: &[&str]| {
            let arguments = [&["configure", "--name", "legacy", "-n", "shop", "-o", "out"], further].concat();
            Command::try_parse_from(arguments).expect("arguments").args
        };
        let text = environment(&parse(&[]), &found());
        for line in [
            "ISTIO_META_AUTO_REGISTER_GROUP='legacy'",
            "POD_NAMESPACE='shop'",
            "ISTIO_META_NETWORK='net-west'",
            "DISCOVERY_ADDRESS='203.0.113.10:15443'",
            "ISTHMUS_DISCOVERY_NAME='isthmus-controller.isthmus-system.svc'",
        ] {
            assert!(text.lines().any(|of| of == line), "{text}");
        }
        assert!(!text.contains("secret") && !text.contains("INSTANCE_IP"), "{text}");
        let by_hand = environment(&parse(&["--entry", "vm-1", "--internal-ip", "10.0.0.5"]), &found());
        assert!(by_hand.contains("ISTHMUS_WORKLOAD_ENTRY='vm-1'") && by_hand.contains("INSTANCE_IP='10.0.0.5'"));
        assert!(!by_hand.contains("AUTO_REGISTER"), "{by_hand}");
        let direct = environment(&parse(&[]), &Found { gateway: None, ..found() });
        assert!(direct.contains("DISCOVERY_ADDRESS='isthmus-controller.isthmus-system.svc:15012'"), "{direct}");
    }

    #[test]
    fn options_of_the_controller_are_read_in_both_forms() {
        let deployment = |args: &[&str]| -> Deployment {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": {"selector": {}, "template": {
                "spec": {"containers": [{"name": "controller", "args": args}]}}}}))
            .expect("a Deployment")
        };
        for args in [&["--cluster=west"][..], &["--network", "x", "--cluster", "west"]] {
            assert_eq!(option(&deployment(args), "--cluster").as_deref(), Some("west"));
        }
        assert_eq!(option(&deployment(&["--clusters=1"]), "--cluster"), None);
    }
}
