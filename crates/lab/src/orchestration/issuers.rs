//! Issuers of tokens: servers outside of the clusters whose keys sign the tokens of end users.
//!
//! A lab serves `https://<host>` of each issuer of its topology, with a certificate of an authority that only this lab
//! has. Controllers trust that authority for keys of tokens, and fetch them as they do elsewhere ([`server`]).
//!
//! The keys of an issuer are one file in the lab's directory. `isthmus lab token` signs with them and `isthmus lab
//! rotate-keys` replaces them, without a process in between: the server reads the file for each request.

mod key;
mod key_set;
mod server;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use apiserver::certificates::{CertificateError, ClusterCa};
use install::client_error;

pub use key::SignError;
pub use key_set::{IssuerKeys, KeyUse, RotationError, RotationStep};
pub use server::{IssuersProcessOptions, serve};

use super::state::{LabDirectory, StateError};
use crate::topology::{TokenIssuer, Topology};

/// The directory of issuers in that of the lab. No cluster has this name.
const DIRECTORY: &str = ".issuers";
/// The certificate authority of the servers.
const AUTHORITY: &str = "authority.pem";
/// The certificate of the servers.
const CERTIFICATE: &str = "serving.pem";
/// The key of the certificate.
const CERTIFICATE_KEY: &str = "serving-key.pem";
/// The log of the process that serves the issuers.
pub const LOG: &str = ".issuers/issuers.log";

/// The keys of issuers cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// The certificate of the servers cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key cannot be made, or does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A step of a rotation is not the next one.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// A file cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file cannot be read.
    #[error("{path}: {}", client_error::system(.source), path = .path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file has another form.
    #[error("{path} does not have the keys of an issuer\n  start the lab again: isthmus lab down, isthmus lab up", path = .path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Creates the files of the issuers of a new lab. Returns the certificate authority of their servers, PEM; `None` if there
/// are no issuers.
///
/// # Errors
/// Returns an error if the system has no random numbers, or a file cannot be written.
pub fn create(directory: &LabDirectory, issuers: &[TokenIssuer]) -> Result<Option<String>, IssuersError> {
    if issuers.is_empty() {
        return Ok(None);
    }
    let authority = ClusterCa::named("lab issuers CA")?;
    let hosts: Vec<String> = issuers.iter().map(|issuer| issuer.host.clone()).collect();
    let serving = authority.server("lab issuers", &hosts)?;
    for (name, content) in
        [(AUTHORITY, authority.certificate()), (CERTIFICATE, &serving.certificate), (CERTIFICATE_KEY, &serving.key)]
    {
        directory.write(&format!("{DIRECTORY}/{name}"), content.as_bytes())?;
    }
    for issuer in issuers {
        write(directory, &issuer.host, &IssuerKeys::generate(issuer.algorithm)?)?;
    }
    Ok(Some(authority.certificate().to_owned()))
}

/// Returns the issuers of a running lab.
///
/// # Errors
/// Returns an error if the lab has just ended.
pub fn of_lab(directory: &LabDirectory) -> Result<Vec<TokenIssuer>, IssuersError> {
    let path = directory.path().join("topology.json");
    let text = std::fs::read(&path).map_err(|source| IssuersError::Io { path: path.clone(), source })?;
    let topology: Topology = serde_json::from_slice(&text).map_err(|_| IssuersError::Malformed { path })?;
    Ok(topology.issuers)
}

/// Reads the keys of an issuer.
///
/// # Errors
/// Returns an error if the file cannot be read or has another form.
pub fn read(directory: &LabDirectory, host: &str) -> Result<IssuerKeys, IssuersError> {
    let path = directory.path().join(name_of(host));
    let text = std::fs::read(&path).map_err(|source| IssuersError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|_| IssuersError::Malformed { path })
}

/// Takes a step of the rotation of an issuer's keys, the next one if none is given. Returns the step and the keys after
/// it.
///
/// # Errors
/// Returns an error if the step is not possible, or the file cannot be read or written.
pub fn rotate(
    directory: &LabDirectory,
    host: &str,
    step: Option<RotationStep>,
) -> Result<(RotationStep, IssuerKeys), IssuersError> {
    // One command at a time, so that none undoes what another has done.
    let path = directory.path().join(DIRECTORY);
    let turn = File::open(&path).and_then(|folder| folder.lock().map(|()| folder));
    let _turn = turn.map_err(|source| IssuersError::Io { path, source })?;
    let mut keys = read(directory, host)?;
    let step = step.unwrap_or_else(|| keys.next_step());
    keys.rotate(step)?;
    write(directory, host, &keys)?;
    Ok((step, keys))
}

fn write(directory: &LabDirectory, host: &str, keys: &IssuerKeys) -> Result<(), IssuersError> {
    let text = serde_json::to_vec_pretty(keys).unwrap_or_default();
    Ok(directory.write(&name_of(host), &text)?)
}

/// Returns the name of the file with an issuer's keys, in the lab's directory.
fn name_of(host: &str) -> String {
    format!("{DIRECTORY}/{host}.json")
}
