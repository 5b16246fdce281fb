//! Certificates in files of the router's own, which are read again when they change.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use identity::edge::ServerCertificate;
use wire::discovery::ServerTls;

/// The maximum size of a file. A bundle of authorities has some 250 KiB.
const MAX_FILE: u64 = 1 << 20;

/// The contents of the files that servers name, by path.
#[derive(Default)]
pub(crate) struct Files {
    parsed: HashMap<[String; 4], (Contents, Parsed)>,
}

type Contents = [Vec<u8>; 4];
type Parsed = Result<Arc<ServerCertificate>, Arc<str>>;

impl Files {
    /// Returns the certificate in the files of a server, which are read. If they are the same as before, so is the certificate.
    pub(crate) fn certificate(&mut self, tls: &ServerTls) -> Parsed {
        let paths = paths(tls);
        let contents = match read_all(&paths) {
            Ok(contents) => contents,
            Err(error) => return self.last_good(&paths).ok_or(error.to_string().into()),
        };
        if let Some((_, parsed)) = self.parsed.get(&paths).filter(|(before, _)| *before == contents) {
            return parsed.clone();
        }
        let [chain, key, authorities, revoked] = &contents;
        match ServerCertificate::parse(chain, key, authorities, revoked) {
            Ok(certificate) => {
                let parsed = Ok(Arc::new(certificate));
                self.parsed.insert(paths, (contents, parsed.clone()));
                parsed
            }
            Err(why) => {
                tracing::warn!(%why, certificate = paths[0], "the files of a server's certificate cannot be used");
                // Half-written files: the ones before them stay in use.
                self.last_good(&paths).ok_or(why.into())
            }
        }
    }

    fn last_good(&self, paths: &[String; 4]) -> Option<Arc<ServerCertificate>> {
        self.parsed.get(paths).and_then(|(_, parsed)| parsed.clone().ok())
    }

    /// Forgets files that no server names.
    pub(crate) fn retain<'a>(&mut self, named: impl Iterator<Item = &'a ServerTls>) {
        let named: Vec<[String; 4]> = named.map(paths).collect();
        self.parsed.retain(|paths, _| named.contains(paths));
    }
}

/// Returns whether a server's certificate is in files.
pub(crate) fn are_used_by(tls: &ServerTls) -> bool {
    tls.credentials.is_empty() && !tls.server_certificate.is_empty()
}

fn paths(tls: &ServerTls) -> [String; 4] {
    [&tls.server_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl].map(String::clone)
}

fn read_all(paths: &[String; 4]) -> io::Result<Contents> {
    let [chain, key, authorities, revoked] = paths;
    Ok([read(chain)?, read(key)?, read(authorities)?, read(revoked)?])
}

/// Reads a file; an empty path is an empty file.
fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if path.is_empty() {
        return Ok(text);
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    read.map_err(named)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} has more than 1 MiB")));
    }
    Ok(text)
}
