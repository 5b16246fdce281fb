//! Access to the clusters of a command: contexts of a kubeconfig, or the clusters of a running lab.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use install::client_error;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use lab::console::NoAnswer;
use lab::orchestration::state::{self, LAB, LabChoice, LabRecord, StateError};

/// Time for the credential plugin of a kubeconfig, in which its user may have to log in.
const PLUGIN: Duration = Duration::from_secs(120);

/// Options that select a kubeconfig or a lab.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AccessOptions {
    /// Path of the kubeconfig; otherwise $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Use the clusters of a running lab; the name is optional if one lab is running
    #[arg(long, value_name = "NAME", env = LAB, num_args = 0..=1, default_missing_value = "", conflicts_with = "kubeconfig")]
    pub(crate) lab: Option<LabChoice>,
}

/// A cluster and its client.
#[derive(Clone)]
pub(crate) struct ClusterAccess {
    /// Name of the context, or of the cluster in the lab.
    pub(crate) name: String,
    /// Options of `isthmus` that select the cluster.
    pub(crate) option: String,
    pub(crate) client: Client,
    /// Command by which `kubectl` uses the cluster.
    pub(crate) kubectl: String,
    /// Address and certificate authority of the API server, for this machine.
    pub(crate) config: kube::Config,
}

impl ClusterAccess {
    /// Describes the API server of the cluster, for messages.
    pub(crate) fn api_server(&self) -> String {
        let server = self.config.cluster_url.to_string();
        format!("the API server of {} ({})", self.name, server.trim_end_matches('/'))
    }

    /// Describes the controller of the cluster, which answers through the API server.
    pub(crate) fn controller(&self) -> String {
        format!("the controller in {}, through {}", self.name, self.api_server())
    }
}

impl AccessOptions {
    /// Returns the selected lab, if any. Without options, a running lab is selected if there is no kubeconfig in the
    /// environment, and the context, if given, is one of the lab's clusters and no known context.
    pub(crate) fn lab(&self, context: Option<&str>) -> anyhow::Result<Option<LabRecord>> {
        match &self.lab {
            Some(choice) => match choice.name() {
                Some(name) => Ok(Some(state::choose(Some(name))?)),
                None => Ok(Some(state::choose(of_environment()?.name())?)),
            },
            None if self.kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some() => Ok(None),
            None => Ok(state::choose(None).ok().filter(|lab| match context {
                Some(context) => lab.cluster(context).is_ok() && !is_known_context(context),
                None => true,
            })),
        }
    }

    /// Returns a context of the kubeconfig; the current one without a name.
    pub(crate) async fn context(&self, context: Option<&str>) -> anyhow::Result<ClusterAccess> {
        let file = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?,
            None => Kubeconfig::read().map_err(|error| {
                let instead = instead(state::choose(None));
                anyhow::anyhow!("{}\n  give --kubeconfig FILE, or {instead}", client_error::kubeconfig(&error))
            })?,
        };
        if let Some(name) = context.filter(|name| file.contexts.iter().all(|known| known.name != **name)) {
            let known: Vec<_> = file.contexts.iter().map(|known| known.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            anyhow::bail!(
                "the kubeconfig has no context \"{name}\"\n  contexts: {known}\n  for a cluster of a lab, give --lab"
            );
        }
        let named = context.map(str::to_owned).or_else(|| file.current_context.clone());
        let name = named.context("the kubeconfig has no current context\n  give --context NAME")?;
        let option = match &self.kubeconfig {
            Some(path) => format!("--kubeconfig {} --context {name}", path.display()),
            None => format!("--context {name}"),
        };
        let kubectl = format!("kubectl {option}");
        connect(ClusterOptions { name, option, kubectl }, file, context).await
    }

    /// Returns a cluster of a lab.
    pub(crate) async fn of_lab(&self, lab: &LabRecord, name: &str) -> anyhow::Result<ClusterAccess> {
        let cluster = lab.cluster(name)?;
        let file = Kubeconfig::read_from(&cluster.kubeconfig)
            .with_context(|| format!("kubeconfig {}", cluster.kubeconfig.display()))?;
        let option = format!("--lab {} --context {name}", lab.name);
        let kubectl = format!("isthmus lab kubectl {name} --lab {} --", lab.name);
        connect(ClusterOptions { name: name.to_owned(), option, kubectl }, file, None).await
    }
}

/// Returns the lab that the environment selects. An option without a name leaves the choice to it.
pub(crate) fn of_environment() -> anyhow::Result<LabChoice> {
    std::env::var(LAB).unwrap_or_default().parse::<LabChoice>().map_err(|error| anyhow::anyhow!("{LAB}: {error}"))
}

/// Describes how to use a lab instead of a kubeconfig.
fn instead(lab: Result<LabRecord, StateError>) -> String {
    match lab {
        Ok(lab) => {
            let names: Vec<_> = lab.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            format!("use a cluster of lab \"{}\" with --lab: {}", lab.name, names.join(", "))
        }
        Err(StateError::Several(names)) => format!("name one of the running labs with --lab NAME: {names}"),
        Err(_) => "start a lab: isthmus lab up topologies/primary-remote.yaml".to_owned(),
    }
}

fn is_known_context(name: &str) -> bool {
    Kubeconfig::read().is_ok_and(|file| file.contexts.iter().any(|context| context.name == name))
}

/// How commands select a cluster.
struct ClusterOptions {
    name: String,
    option: String,
    kubectl: String,
}

async fn connect(of: ClusterOptions, file: Kubeconfig, context: Option<&str>) -> anyhow::Result<ClusterAccess> {
    let ClusterOptions { name, option, kubectl } = of;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let about = || format!("context \"{name}\"");
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.with_context(about)?;
    let client = client(config.clone(), PLUGIN).await.with_context(about)?;
    Ok(ClusterAccess { name, option, client, kubectl, config })
}

/// Creates a client. A credential plugin of the kubeconfig runs on a thread of its own, because it blocks.
async fn client(config: kube::Config, patience: Duration) -> anyhow::Result<Client> {
    let Some(plugin) = config.auth_info.exec.as_ref().and_then(|plugin| plugin.command.clone()) else {
        return Ok(Client::try_from(config)?);
    };
    let (sender, created) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let _guard = runtime.enter();
        // After the timeout nobody receives the client.
        let _ = sender.send(Client::try_from(config));
    });
    match tokio::time::timeout(patience, created).await {
        Ok(Ok(created)) => Ok(created?),
        Ok(Err(_)) => anyhow::bail!("the kubeconfig's credential plugin {plugin} cannot be run"),
        Err(_) => anyhow::bail!(
            "the kubeconfig's credential plugin {plugin} did not end within {} s\n  run {plugin} by itself, to see what it waits for",
            patience.as_secs()
        ),
    }
}

/// Returns a text with every control character but line ends and tabs replaced. API servers and controllers of other
/// clusters write parts of what a command prints, and a terminal would obey escape sequences in it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Describes an error with its causes in one line. Errors of a Kubernetes client are described by [`client_error`]; their own
/// causes name layers of the client and add nothing.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<kube::Error>() {
            parts.push(client_error::describe(error));
            break;
        }
        if let Some(error) = cause.downcast_ref::<KubeconfigError>() {
            parts.push(client_error::kubeconfig(error));
            break;
        }
        let text = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => client_error::system(error),
            None => cause.to_string(),
        };
        // Some errors contain their cause.
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    printable(&parts.join(": "))
}

/// Describes an error, and on a second line what to do about it, where there is something to try.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    if let Some(silent) = error.chain().find_map(|cause| cause.downcast_ref::<NoAnswer>()) {
        return format!("{}\n  {}", describe(error), silent.advice);
    }
    let client_error = error.chain().find_map(|cause| cause.downcast_ref::<kube::Error>());
    match client_error.and_then(client_error::advice) {
        Some(advice) => format!("{}\n  {advice}", describe(error)),
        None => describe(error),
    }
}

/// The error for a page of another form.
pub(crate) const UNREADABLE_PAGE: &str =
    "the controller's answer has another form: compare its version with isthmus version";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_plugin_has_a_timeout() {
        let config = async |command: &str, arguments: &[&str]| {
            let file = serde_json::json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "a",
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "a", "user": {"exec": {
                    "apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": arguments,
                    "interactiveMode": "Never",
                }}}],
            });
            let file: Kubeconfig = serde_json::from_value(file).expect("a kubeconfig");
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a configuration")
        };
        let slow = config("sleep", &["5"]).await;
        let error = client(slow, Duration::from_millis(50)).await.err().expect("the plugin does not end").to_string();
        assert!(error.contains("credential plugin sleep did not end") && error.contains("run sleep"), "{error}");
        let credential =
            r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}"#;
        let quick = config("echo", &[credential]).await;
        assert!(client(quick, Duration::from_secs(20)).await.is_ok());
    }

    #[test]
    fn causes_appear_once_and_client_errors_in_plain_words() {
        let inner = std::io::Error::other("connection refused");
        let service = anyhow::Error::new(kube::Error::Service(Box::new(inner))).context("in east");
        let text = explain(&service);
        assert!(text.starts_with("in east: the API server cannot be reached: connection refused\n  check"), "{text}");
        let hostile = explain(&anyhow::anyhow!("refused: \u{1b}]0;x\u{7}\u{9b}2J\rforged").context("in east"));
        assert!(hostile.starts_with("in east: refused: ") && !hostile.contains(char::is_control), "{hostile:?}");
        let twice = anyhow::anyhow!("no such file").context("reading a: no such file").context("starting");
        assert_eq!(explain(&twice), "starting: reading a: no such file");
    }
}
