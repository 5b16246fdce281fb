//! `isthmus ca`: creates the mesh's root and the intermediates of clusters.
//!
//! The root's key signs only intermediates; it stays where this command runs. A primary needs its own intermediate as
//! Secret `cacerts`, and those of the remotes that it serves as Secrets `cacerts-<cluster>`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::names;
use identity::{Authority, CaCerts, Constraints};
use lab::console::print;

/// Create the mesh's root and each cluster's intermediate.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  isthmus ca root --directory certs\n  isthmus ca intermediate --cluster west --directory certs --secret | kubectl --context west apply -f -"
)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CaCommand {
    /// Create a root: root-cert.pem and root-key.pem
    Root(RootArgs),
    /// Create a cluster's intermediate, as files or as a Secret
    Intermediate(IntermediateArgs),
}

#[derive(Debug, clap::Args)]
struct RootArgs {
    /// Directory of the files
    #[arg(short, long, default_value = ".")]
    directory: PathBuf,
    /// Organization in the certificate's subject
    #[arg(long, default_value = "Isthmus")]
    organization: String,
    /// Validity of the certificate, such as 3650d
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = duration)]
    validity: Duration,
    /// Replace existing files. Certificates of the old root are no longer trusted
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct IntermediateArgs {
    /// Name of the cluster
    #[arg(short, long)]
    cluster: String,
    /// Directory of root-cert.pem and root-key.pem; the cluster's files are written to a directory below
    #[arg(short, long, default_value = ".")]
    directory: PathBuf,
    /// Validity of the certificate, such as 365d; at most that of the root
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration)]
    validity: Duration,
    /// DNS subtree in which the intermediate may sign names, in addition to svc and cluster.local
    #[arg(long = "dns", value_name = "SUBTREE")]
    dns: Vec<String>,
    /// Print a Secret instead of writing files
    #[arg(long)]
    secret: bool,
    /// Name the Secret for a primary that serves this cluster as a remote, with --secret
    #[arg(long, requires = "secret")]
    remote: bool,
    /// Namespace of the Secret, with --secret
    #[arg(long, default_value = names::ROOT_NAMESPACE, value_parser = names::namespace)]
    namespace: String,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

const ROOT_CERT: &str = "root-cert.pem";
const ROOT_KEY: &str = "root-key.pem";

pub(crate) async fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        CaCommand::Root(args) => create_root(&args)?,
        CaCommand::Intermediate(args) => create_intermediate(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create_root(args: &RootArgs) -> anyhow::Result<()> {
    let root = Authority::self_signed_root(&args.organization, args.validity)?.to_cacerts();
    fs::create_dir_all(&args.directory).with_context(|| format!("creating {}", args.directory.display()))?;
    // The key comes first: a certificate without its key would look like a root.
    write(&args.directory.join(ROOT_KEY), &root.ca_key, args.force)?;
    write(&args.directory.join(ROOT_CERT), &root.root_cert, args.force)?;
    print(&format!(
        "root written to {}\nnext: isthmus ca intermediate --cluster NAME --directory {}\n",
        args.directory.join(ROOT_CERT).display(),
        args.directory.display()
    ))?;
    Ok(())
}

fn create_intermediate(args: &IntermediateArgs) -> anyhow::Result<()> {
    names::dns_label(&args.cluster, "cluster").map_err(anyhow::Error::msg)?;
    let root = read_root(&args.directory)?;
    let mut constraints = Constraints::default();
    constraints.dns.extend(args.dns.iter().cloned());
    let made = root.intermediate_for(&args.cluster, &constraints, args.validity)?.to_cacerts();
    // An intermediate that does not verify fails here instead of at the first workload.
    Authority::from_cacerts(&made)?;
    if args.secret {
        let name = if args.remote { names::cacerts_of(&args.cluster) } else { names::CACERTS_SECRET.to_owned() };
        print(&secret(&name, &args.namespace, &made)?)?;
        return Ok(());
    }
    let directory = args.directory.join(&args.cluster);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    for (name, content) in made.to_entries() {
        write(&directory.join(name), &content, args.force)?;
    }
    print(&format!(
        "intermediate of {} written to {}\nnext: kubectl create secret generic cacerts -n {} --from-file={}\n",
        args.cluster,
        directory.display(),
        args.namespace,
        directory.display()
    ))?;
    Ok(())
}

fn read_root(directory: &Path) -> anyhow::Result<Authority> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path)
            .with_context(|| format!("reading {} (create a root first: isthmus ca root)", path.display()))
    };
    let (certificate, key) = (read(ROOT_CERT)?, read(ROOT_KEY)?);
    let cacerts =
        CaCerts { ca_cert: certificate.clone(), ca_key: key, root_cert: certificate, cert_chain: String::new() };
    Authority::from_cacerts(&cacerts).with_context(|| format!("the root in {}", directory.display()))
}

fn secret(name: &str, namespace: &str, cacerts: &CaCerts) -> anyhow::Result<String> {
    let secret = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": cacerts.to_entries(),
    });
    api::yaml::to_string(&secret).map_err(anyhow::Error::msg)
}

/// Writes a file that only its owner can read, because some contain keys.
pub(crate) fn write(path: &Path, content: &str, force: bool) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    let options = if force { options.create(true).truncate(true) } else { options.create_new(true) };
    let mut file = match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} already exists\n  replace it: --force", path.display())
        }
        other => other.with_context(|| format!("writing {}", path.display()))?,
    };
    file.write_all(content.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// Parses days, such as `365d`, or any other duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let found = match days {
        Some(days) => Some(Duration::from_secs(u64::from(days) * 24 * 3600)),
        None => api::duration::parse_duration(text),
    };
    let longest = Duration::from_secs(100 * 366 * 24 * 3600);
    found.filter(|d| !d.is_zero() && *d <= longest).ok_or_else(|| "not a duration, such as 365d, 24h or 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "d", "0d", "0", "-1d", "1y", "4294967295d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn intermediates_verify_against_their_root() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().to_path_buf();
        let year = Duration::from_secs(365 * 24 * 3600);
        let root = |force| RootArgs { directory: directory.clone(), organization: "a".into(), validity: year, force };
        let intermediate = |cluster: &str| IntermediateArgs {
            cluster: cluster.to_owned(),
            directory: directory.clone(),
            validity: year * 2,
            dns: vec!["example.org".into()],
            secret: false,
            remote: false,
            namespace: "istio-system".into(),
            force: false,
        };
        assert!(format!("{:#}", create_intermediate(&intermediate("west")).unwrap_err()).contains("isthmus ca root"));
        create_root(&root(false)).unwrap();
        assert!(create_root(&root(false)).unwrap_err().to_string().contains("--force"));
        create_intermediate(&intermediate("west")).unwrap();
        assert!(create_intermediate(&intermediate("West")).is_err());
        let entries = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"];
        let entries = entries.iter().map(|name| {
            let path = directory.join("west").join(name);
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            ((*name).to_owned(), fs::read(path).unwrap())
        });
        let cacerts = CaCerts::from_entries(&entries.collect()).unwrap();
        let west = Authority::from_cacerts(&cacerts).unwrap();
        assert_eq!(west.roots(), read_root(&directory).unwrap().roots());
        let text = secret("cacerts-west", "istio-system", &cacerts).unwrap();
        let read: k8s_openapi::api::core::v1::Secret = api::yaml::from_str(&text).unwrap();
        assert_eq!(read.metadata.name.as_deref(), Some("cacerts-west"));
        assert_eq!(read.string_data.unwrap()["ca-key.pem"], cacerts.ca_key);
    }
}
