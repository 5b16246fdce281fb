//! `isthmus ca`: the root of trust and the intermediates of clusters.
//!
//! The root's key signs intermediates and nothing else; it is made where this command runs and stays there. A primary gets
//! its own intermediate as Secret `cacerts`, and those of the remotes that it serves as Secrets `cacerts-<cluster>`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::names;
use identity::{Authority, CaCerts, Constraints};

/// Makes the root of trust and each cluster's intermediate.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  isthmus ca root --directory certs\n  isthmus ca intermediate --cluster west --directory certs --secret | kubectl --context west apply -f -"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a root: root-cert.pem and root-key.pem
    Root(Root),
    /// Makes a cluster's intermediate, as files or as a Secret
    Intermediate(Intermediate),
}

#[derive(Debug, clap::Args)]
struct Root {
    /// Where the files go
    #[arg(short, long, default_value = ".")]
    directory: PathBuf,
    /// Organization in the certificate's name
    #[arg(long, default_value = "Isthmus")]
    organization: String,
    /// How long it is valid, such as 3650d
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = duration)]
    validity: Duration,
    /// Replace files that exist. Everything signed by the old root stops being trusted
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Intermediate {
    /// The cluster that it signs for
    #[arg(short, long)]
    cluster: String,
    /// Where root-cert.pem and root-key.pem are, and where the cluster's own directory is made
    #[arg(short, long, default_value = ".")]
    directory: PathBuf,
    /// How long it is valid, such as 365d; never longer than the root
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration)]
    validity: Duration,
    /// DNS subtrees that it may sign names in, besides svc and cluster.local
    #[arg(long = "dns", value_name = "SUBTREE")]
    dns: Vec<String>,
    /// Print a Secret instead of writing files
    #[arg(long)]
    secret: bool,
    /// With --secret: name it for a primary that serves this cluster as a remote
    #[arg(long, requires = "secret")]
    remote: bool,
    /// With --secret: its namespace
    #[arg(long, default_value = names::ROOT_NAMESPACE)]
    namespace: String,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

const ROOT_CERT: &str = "root-cert.pem";
const ROOT_KEY: &str = "root-key.pem";

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Root(args) => make_root(&args)?,
        Command::Intermediate(args) => make_intermediate(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make_root(args: &Root) -> anyhow::Result<()> {
    let root = Authority::self_signed_root(&args.organization, args.validity)?.to_cacerts();
    fs::create_dir_all(&args.directory).with_context(|| format!("making {}", args.directory.display()))?;
    // The key first: a certificate without its key would look like a root and be none.
    write(&args.directory.join(ROOT_KEY), &root.ca_key, args.force)?;
    write(&args.directory.join(ROOT_CERT), &root.root_cert, args.force)?;
    println!("root written to {}", args.directory.join(ROOT_CERT).display());
    println!("next: isthmus ca intermediate --cluster NAME --directory {}", args.directory.display());
    Ok(())
}

fn make_intermediate(args: &Intermediate) -> anyhow::Result<()> {
    if !api::remote_secret::is_cluster_name(&args.cluster) {
        bail!("{:?} is no name for a cluster: use lower-case letters, digits and '-', at most 63", args.cluster);
    }
    let root = read_root(&args.directory)?;
    let mut constraints = Constraints::default();
    constraints.dns.extend(args.dns.iter().cloned());
    let made = root.intermediate_for(&args.cluster, &constraints, args.validity)?.to_cacerts();
    // What does not verify is found out here and not by the first workload.
    Authority::from_cacerts(&made)?;
    if args.secret {
        let name = if args.remote { names::cacerts_of(&args.cluster) } else { names::CACERTS_SECRET.to_owned() };
        print!("{}", secret(&name, &args.namespace, &made)?);
        return Ok(());
    }
    let directory = args.directory.join(&args.cluster);
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    for (name, content) in made.to_entries() {
        write(&directory.join(name), &content, args.force)?;
    }
    println!("intermediate of {} written to {}", args.cluster, directory.display());
    println!("next: kubectl create secret generic cacerts -n {} --from-file={}", args.namespace, directory.display());
    Ok(())
}

fn read_root(directory: &Path) -> anyhow::Result<Authority> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path)
            .with_context(|| format!("reading {}: make a root first with `isthmus ca root`", path.display()))
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

/// Writes a file that only its owner can read, since some hold keys.
fn write(path: &Path, content: &str, force: bool) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    let options = if force { options.create(true).truncate(true) } else { options.create_new(true) };
    let mut file = match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} exists; --force replaces it", path.display())
        }
        other => other.with_context(|| format!("writing {}", path.display()))?,
    };
    file.write_all(content.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// Days as people write them, or any duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let found = match days {
        Some(days) => Some(Duration::from_secs(u64::from(days) * 24 * 3600)),
        None => api::mesh::parse_duration(text),
    };
    let longest = Duration::from_secs(100 * 366 * 24 * 3600);
    found
        .filter(|d| !d.is_zero() && *d <= longest)
        .ok_or_else(|| "write a duration such as 365d, 24h or 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "d", "0d", "0", "-1d", "1y", "4294967295d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_root_and_what_it_signs() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().to_path_buf();
        let year = Duration::from_secs(365 * 24 * 3600);
        let root = |force| Root { directory: directory.clone(), organization: "a".into(), validity: year, force };
        let intermediate = |cluster: &str| Intermediate {
            cluster: cluster.to_owned(),
            directory: directory.clone(),
            validity: year * 2,
            dns: vec!["example.org".into()],
            secret: false,
            remote: false,
            namespace: "istio-system".into(),
            force: false,
        };
        assert!(format!("{:#}", make_intermediate(&intermediate("west")).unwrap_err()).contains("isthmus ca root"));
        make_root(&root(false)).unwrap();
        assert!(make_root(&root(false)).unwrap_err().to_string().contains("--force"));
        make_intermediate(&intermediate("west")).unwrap();
        assert!(make_intermediate(&intermediate("West")).is_err());
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
