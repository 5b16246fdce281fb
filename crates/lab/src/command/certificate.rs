//! `lab certificate`: certificates of the lab's own authority, for gateways and their clients.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiserver::certificates::{Pair, Usage};
use clap::Args;
use install::client_error::system;

use super::outcome::CommandError;
use super::selection::LabSelection;
use super::token::{Expiry, expiry};
use crate::console::print;
use crate::orchestration::outside::{self, EdgeAuthority};
use crate::orchestration::state::{LabDirectory, write_private};

/// Issue a certificate for a gateway, as a Secret or as files.
///
/// Without --directory, prints a Secret of type kubernetes.io/tls for kubectl. The certificate authority is the lab's own, of
/// which --authority prints the path, for clients such as curl.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isthmus lab certificate shop.example.com --secret shop | isthmus lab kubectl west -- apply -f -\n  \
                  isthmus lab certificate alice.example.com --client --directory alice\n  \
                  curl --cacert $(isthmus lab certificate --authority) https://shop.example.com/"
)]
pub struct CertificateOptions {
    /// Names of the certificate, such as shop.example.com or '*.example.com'
    #[arg(value_name = "HOST", required_unless_present = "authority")]
    hosts: Vec<String>,
    /// Name of the Secret
    #[arg(long, value_name = "NAME", required_unless_present_any = ["directory", "authority"])]
    secret: Option<String>,
    /// Namespace of the Secret, which is that of the gateway
    #[arg(long, short, value_name = "NAMESPACE", default_value = api::names::ROOT_NAMESPACE)]
    namespace: String,
    /// Write tls.crt, tls.key and ca.crt to this directory instead
    #[arg(long, value_name = "PATH", conflicts_with = "secret")]
    directory: Option<PathBuf>,
    /// Issue the certificate of a client
    #[arg(long)]
    client: bool,
    /// Time until the certificate expires, such as 1h or 90s; a negative time makes an expired one
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = expiry, allow_hyphen_values = true)]
    expires: Expiry,
    /// Print the path of the authority's certificate
    #[arg(long, conflicts_with_all = ["hosts", "secret", "directory", "client"])]
    authority: bool,
    #[command(flatten)]
    which: LabSelection,
}

impl CertificateOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let lab = LabDirectory::of(&record.name);
        let authority = EdgeAuthority::of_lab(&lab)?;
        if self.authority {
            print(&format!("{}\n", outside::authority_path(&lab).display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let expires = UNIX_EPOCH + Duration::from_secs(self.expires.after(now));
        let usage = if self.client { Usage::Client } else { Usage::Server };
        let pair = authority.issue(usage, &self.hosts, expires)?;
        match (&self.directory, &self.secret) {
            (Some(directory), _) => write(directory, &authority, &pair)?,
            (None, Some(secret)) => {
                print(&serde_saphyr::to_string(&authority.secret(&self.namespace, secret, &pair))?)?;
            }
            (None, None) => return Err("neither --secret nor --directory is given".into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the files of a certificate, which only their owner can read.
fn write(directory: &Path, authority: &EdgeAuthority, pair: &Pair) -> Result<(), CommandError> {
    for (name, text) in [("tls.crt", &*pair.certificate), ("tls.key", &*pair.key), ("ca.crt", authority.certificate())]
    {
        let path = directory.join(name);
        write_private(&path, text.as_bytes())
            .map_err(|error| format!("{} cannot be written: {}", path.display(), system(&error)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CertificateCommand {
        #[command(flatten)]
        options: CertificateOptions,
    }

    #[test]
    fn a_certificate_needs_a_name_and_a_place() {
        let parses =
            |arguments: &[&str]| CertificateCommand::try_parse_from([&["certificate"], arguments].concat()).is_ok();
        for good in
            [&["a.example", "--secret", "a"][..], &["a.example", "b.example", "--directory", "d"], &["--authority"]]
        {
            assert!(parses(good), "{good:?}");
        }
        for bad in [&[][..], &["a.example"], &["--secret", "a"], &["a.example", "--secret", "a", "--directory", "d"]] {
            assert!(!parses(bad), "{bad:?}");
        }
    }
}
