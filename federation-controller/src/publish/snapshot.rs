//! The snapshot: the inventory on disk, so that a restart during an outage starts with it.
//!
//! One file for each cluster: a line about the cluster, then one line for each object, in JSON; one file with the
//! mesh-wide settings, one with the public keys of the issuers of tokens, and one with the leases. Files are replaced whole. The objects of a cluster hold until its first lists replace them, and their
//! age is the time when the cluster was last heard of before the restart.
//!
//! The pipeline encodes a file in memory ([`File::of_cluster`]) and writes it on a thread of its own ([`File::write`]), so
//! a slow disk delays no change.

use std::collections::BTreeMap;
use std::fs::{self, File as OpenFile};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::inventory::{ClusterInventory, Inventory};
use crate::leases::Leases;
use crate::objects::event::{Cluster, Mesh};
use crate::objects::{Gateway, KeySource, Keys, Labels, Object, Text};

/// The format of the files. Files of another format are not read.
const FORMAT: u32 = 1;

/// The file of the mesh-wide settings.
const MESH: &str = "mesh.json";

/// The file of the keys of the issuers of tokens.
const KEYS: &str = "keys.jsonl";

/// The file of the leases of remote clusters.
const LEASES: &str = "leases.json";

/// The first line of a cluster's file.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    info: Cluster,
    /// Seconds since 1970.
    heard: u64,
}

/// Why a snapshot was not written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct SnapshotError {
    path: String,
    error: io::Error,
}

/// A file of the snapshot, encoded.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    content: Vec<u8>,
}

impl File {
    /// Encodes the objects of a cluster. Returns `None` if they are not complete.
    pub fn of_cluster(directory: &Path, cluster: &ClusterInventory) -> Option<File> {
        if !cluster.synced() {
            return None;
        }
        let heard = cluster.heard.unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut content = Vec::new();
        line(&mut content, &Header { format: FORMAT, info: cluster.info.clone(), heard });
        cluster.objects().for_each(|object| line(&mut content, &object));
        Some(File { path: path_of(directory, &cluster.info.name), content })
    }

    /// Encodes the mesh-wide settings.
    pub fn of_mesh(directory: &Path, mesh: &Mesh) -> File {
        let mut content = Vec::new();
        line(&mut content, mesh);
        File { path: directory.join(MESH), content }
    }

    /// Encodes the keys of the issuers of tokens, a line for each place.
    pub fn of_keys(directory: &Path, keys: &BTreeMap<KeySource, Keys>) -> File {
        let mut content = Vec::new();
        keys.iter().filter(|(_, keys)| keys.set.is_some()).for_each(|place| line(&mut content, &place));
        File { path: directory.join(KEYS), content }
    }

    /// Encodes the leases.
    pub fn of_leases(directory: &Path, leases: &Leases) -> File {
        let mut content = Vec::new();
        line(&mut content, &leases.save());
        File { path: directory.join(LEASES), content }
    }

    /// Writes the file beside the one of the last snapshot, and replaces that one when it is on disk.
    pub fn write(&self) -> Result<(), SnapshotError> {
        let beside = self.path.with_extension("new");
        let attempt = || {
            let mut file = OpenFile::create(&beside)?;
            file.write_all(&self.content)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        };
        attempt().map_err(|error| SnapshotError { path: self.path.display().to_string(), error })
    }
}

/// Removes the file of a cluster.
pub fn remove(directory: &Path, cluster: &str) {
    // The file may never have been written.
    let _ = fs::remove_file(path_of(directory, cluster));
}

/// Reads the snapshot into an inventory without events. A file that cannot be read is left out, with a warning.
pub fn restore(inventory: &mut Inventory, directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name == MESH {
            match read_json(&path) {
                Ok(mesh) => inventory.restore_mesh(mesh),
                Err(error) => warn!(path = %path.display(), %error, "mesh-wide settings of the snapshot are left out"),
            }
        } else if name == LEASES {
            match read_json(&path) {
                Ok(leases) => inventory.restore_leases(leases),
                Err(error) => {
                    warn!(path = %path.display(), %error, "leases of the snapshot are left out; they begin anew")
                }
            }
        } else if name == KEYS {
            match read_lines(&path) {
                Ok(keys) => inventory.restore_keys(keys.into_iter().collect()),
                Err(error) => warn!(path = %path.display(), %error, "keys of the snapshot are left out"),
            }
        } else if name.starts_with("cluster-") && name.ends_with(".jsonl") {
            match read_cluster(&path) {
                Ok((header, objects)) => {
                    info!(cluster = %header.info.name, objects = objects.len(), "starting from the snapshot");
                    inventory.restore(header.info, UNIX_EPOCH + Duration::from_secs(header.heard), objects);
                }
                Err(error) => warn!(path = %path.display(), %error, "a cluster of the snapshot is left out"),
            }
        }
    }
}

/// Returns the age of objects that were last heard of at this time.
pub fn age(heard: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    heard.and_then(|heard| now.duration_since(heard).ok())
}

fn path_of(directory: &Path, cluster: &str) -> PathBuf {
    // A cluster's name is a data key of a Secret: letters, digits, dots, dashes and underscores.
    directory.join(format!("cluster-{}.jsonl", cluster.replace('/', "_")))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn read_cluster(path: &Path) -> io::Result<(Header, Vec<Object>)> {
    let mut lines = BufReader::new(OpenFile::open(path)?).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let header: Header = serde_json::from_str(&first)?;
    if header.format != FORMAT {
        return Err(io::Error::other(format!("format {} instead of {FORMAT}", header.format)));
    }
    let objects = lines.map(|line| read_object(&line?)).collect::<io::Result<Vec<Object>>>()?;
    Ok((header, objects))
}

fn read_object(line: &str) -> io::Result<Object> {
    serde_json::from_str(line).or_else(|error| {
        let earlier: Result<EarlierGateway, _> = serde_json::from_str(line);
        earlier
            .map(|EarlierGateway::Gateway { namespace, name, selector, hosts }| {
                let hosts: Vec<&str> = hosts.iter().map(|host| &**host).collect();
                Gateway::exporting(&namespace, &name, selector, &hosts).into()
            })
            .map_err(|_| error.into())
    })
}

/// A Gateway as versions wrote it that read only the hosts which it exports.
#[derive(Deserialize)]
enum EarlierGateway {
    Gateway { namespace: Text, name: Text, selector: Labels, hosts: Vec<Text> },
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let lines = BufReader::new(OpenFile::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn line(content: &mut Vec<u8>, value: &impl Serialize) {
    let before = content.len();
    if let Err(error) = serde_json::to_writer(&mut *content, value) {
        // Records have string keys only, so this does not happen.
        warn!(%error, "an object cannot be encoded for the snapshot; it is left out");
        content.truncate(before);
        return;
    }
    content.push(b'\n');
}

#[cfg(test)]
mod tests;
