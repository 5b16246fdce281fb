//! TLS with servers outside the mesh: certificates and authorities from files, which are read again when they change.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use identity::alpn::Alpn;
use identity::outside::{Files, client_config};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

use crate::mesh::{ClientTls, OriginatedTls};

/// How long files are believed to be unchanged: certificates are renewed hours before they expire.
const UNCHANGED: Duration = Duration::from_secs(5);
/// The maximum size of a file. A system's bundle of authorities has some 250 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Where systems keep the bundle of authorities that they trust, in the order of Istio.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];

/// TLS with a server outside the mesh.
#[derive(Debug)]
pub struct Origination {
    settings: Arc<OriginatedTls>,
    server_name: ServerName<'static>,
    configs: Mutex<Vec<(Alpn, Loaded)>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    /// The times of the last changes of the files.
    changed: Vec<Option<SystemTime>>,
    checked: Instant,
}

/// Two are equal if they connect alike.
impl PartialEq for Origination {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.server_name == other.server_name
    }
}

impl Origination {
    /// Returns the TLS of a policy for a host, if the policy originates any. `names` are those of which the server's certificate must
    /// have one if the policy names none. A host that is no server name is the server of no
    /// certificate: connections to it fail.
    pub(super) fn new(policy: &ClientTls, host: &str, names: &[Box<str>]) -> Option<Arc<Self>> {
        let ClientTls::Originate(settings) = policy else { return None };
        let name = settings.sni.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned()).or_else(|_| "invalid.invalid".try_into()).ok()?;
        let settings = match settings.names.is_empty() && !names.is_empty() {
            true => Arc::new(OriginatedTls { names: names.into(), ..OriginatedTls::clone(settings) }),
            false => settings.clone(),
        };
        Some(Arc::new(Self { settings, server_name, configs: Mutex::default() }))
    }

    /// Carries out the handshake on a connection.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        alpn: Alpn,
    ) -> io::Result<TlsStream<S>> {
        let config = self.config(alpn, Instant::now())?;
        TlsConnector::from(config).connect(self.server_name.clone(), stream).await
    }

    fn config(&self, alpn: Alpn, now: Instant) -> io::Result<Arc<ClientConfig>> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let at = configs.iter().position(|(of, _)| *of == alpn);
        if let Some((_, loaded)) = at.map(|at| &mut configs[at]) {
            if now.saturating_duration_since(loaded.checked) < UNCHANGED {
                return Ok(loaded.config.clone());
            }
            if loaded.changed == self.changes() {
                loaded.checked = now;
                return Ok(loaded.config.clone());
            }
        }
        let changed = self.changes();
        let config = Arc::new(self.load(alpn)?);
        configs.retain(|(of, _)| *of != alpn);
        configs.push((alpn, Loaded { config: config.clone(), changed, checked: now }));
        Ok(config)
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        let settings = &*self.settings;
        let client = settings.client.iter().flat_map(|(certificate, key)| [&**certificate, &**key]);
        client.chain(settings.authorities.as_deref()).chain(settings.revoked.as_deref())
    }

    fn changes(&self) -> Vec<Option<SystemTime>> {
        self.files().map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()).collect()
    }

    fn load(&self, alpn: Alpn) -> io::Result<ClientConfig> {
        let settings = &*self.settings;
        let client =
            settings.client.as_ref().map(|(certificate, key)| Ok::<_, io::Error>((read(certificate)?, read(key)?)));
        let authorities = match (&settings.authorities, settings.insecure) {
            (_, true) => None,
            (Some(file), _) => Some(read(file)?),
            (None, _) => Some(system_authorities()?),
        };
        let files = Files {
            client: client.transpose()?,
            authorities,
            revoked: settings.revoked.as_deref().map(read).transpose()?,
        };
        client_config(&files, &settings.names, alpn).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn system_authorities() -> io::Result<Vec<u8>> {
    let found = SYSTEM_AUTHORITIES.iter().find(|file| Path::new(file).exists());
    read(
        found.ok_or_else(|| {
            io::Error::other("the system has no bundle of certificate authorities; set caCertificates")
        })?,
    )
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{file}: {error}"));
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|opened| opened.take(MAX_FILE + 1).read_to_end(&mut text));
    read.map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{file} has more than 4 MiB")));
    }
    Ok(text)
}
