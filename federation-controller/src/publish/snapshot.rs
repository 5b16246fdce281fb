//! The last view on disk, so that a restart during an outage starts with it.
//!
//! One file per cluster: a line about the cluster, then one line per object, all JSON; and one file with the mesh's
//! settings. Files are replaced whole. A cluster's remembered objects hold until its first lists replace them, and its age
//! is told as what it is: the time when it was last heard, before the restart.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::inventory::{ClusterIndex, Group, Index, SystemNamespaces};
use crate::objects::event::{Cluster, Export, Gateway, Link, Mesh, Namespace, Node, Object, Pod, Service, Slice};

/// The form of the files. Another one is not read.
const FORMAT: u32 = 1;

/// The first line of a cluster's file.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    info: Cluster,
    /// Seconds since 1970.
    heard: u64,
}

/// An [`Object`] that is not owned; written in the same form.
#[derive(Serialize)]
enum ObjectRef<'a> {
    Namespace(&'a Namespace),
    Node(&'a Node),
    Service(&'a Service),
    Slice(&'a Slice),
    Pod(&'a Pod),
    Export(&'a Export),
    Gateway(&'a Gateway),
}

/// Why a view could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct SnapshotError {
    path: String,
    error: io::Error,
}

impl Index {
    /// Writes the view of a cluster, if it has one that is complete.
    pub fn save(&self, cluster: &str, directory: &Path) -> Result<(), SnapshotError> {
        let Some(cluster) = self.clusters.get(cluster).filter(|cluster| cluster.synced()) else { return Ok(()) };
        let path = file_of(directory, &cluster.info.name);
        write_whole(&path, |file| {
            let heard = cluster.heard.unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            line(file, &Head { format: FORMAT, info: cluster.info.clone(), heard })?;
            cluster.namespaces.values().try_for_each(|of| line(file, &ObjectRef::Namespace(of)))?;
            cluster.nodes.values().try_for_each(|of| line(file, &ObjectRef::Node(of)))?;
            cluster.services.values().try_for_each(|of| line(file, &ObjectRef::Service(of)))?;
            cluster.slices.values().try_for_each(|of| line(file, &ObjectRef::Slice(of)))?;
            cluster.pods.values().try_for_each(|of| line(file, &ObjectRef::Pod(of)))?;
            cluster.exports.values().try_for_each(|of| line(file, &ObjectRef::Export(of)))?;
            cluster.gateways.values().try_for_each(|of| line(file, &ObjectRef::Gateway(of)))
        })
    }

    /// Writes the mesh's settings.
    pub fn save_mesh(&self, directory: &Path) -> Result<(), SnapshotError> {
        write_whole(&directory.join("mesh.json"), |file| line(file, &self.mesh))
    }

    /// Forgets a cluster's view.
    pub fn forget(cluster: &str, directory: &Path) {
        // It may never have been written.
        let _ = fs::remove_file(file_of(directory, cluster));
    }

    /// Reads all views back. What cannot be read is left out, and said. For an index that has taken no events yet.
    pub fn restore(&mut self, directory: &Path) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name == "mesh.json" {
                match fs::read_to_string(&path).map(|text| serde_json::from_str::<Mesh>(&text)) {
                    Ok(Ok(mesh)) => self.mesh = mesh,
                    other => {
                        warn!(path = %path.display(), ?other, "remembered mesh settings cannot be read; they are left out")
                    }
                }
            } else if name.starts_with("cluster-") && name.ends_with(".jsonl") {
                match read_cluster(&path) {
                    Ok((head, objects)) => {
                        info!(cluster = %head.info.name, objects = objects.len(), "starting with the remembered view");
                        self.remember(head, objects);
                    }
                    Err(error) => {
                        warn!(%error, path = %path.display(), "a remembered view cannot be read; it is left out")
                    }
                }
            }
        }
    }

    fn remember(&mut self, head: Head, objects: Vec<Object>) {
        let system =
            SystemNamespaces { root: self.settings.root_namespace.clone(), own: self.settings.namespace.clone() };
        let heard = UNIX_EPOCH + Duration::from_secs(head.heard);
        let name = head.info.name.clone();
        let mut cluster = ClusterIndex::new(head.info, system, heard);
        cluster.link = (Link::Lost("not heard since the controller started".into()), heard);
        cluster.heard = Some(heard);
        cluster.restored = true;
        for object in objects {
            cluster.upsert(self.strings.intern(object));
        }
        let affected = cluster.everything();
        if !cluster.info.own {
            self.remembered.insert(name.clone());
        }
        self.clusters.insert(name.clone(), cluster);
        self.touch(&name, affected);
        self.dirty.insert(Group::Mesh);
        self.dirty_all();
    }
}

fn file_of(directory: &Path, cluster: &str) -> PathBuf {
    // A cluster's name is a Secret's data key: letters, digits, dots, dashes and underscores.
    directory.join(format!("cluster-{}.jsonl", cluster.replace('/', "_")))
}

fn read_cluster(path: &Path) -> io::Result<(Head, Vec<Object>)> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let head: Head = serde_json::from_str(&first)?;
    if head.format != FORMAT {
        return Err(io::Error::other(format!("format {} instead of {FORMAT}", head.format)));
    }
    let objects = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<io::Result<Vec<Object>>>()?;
    Ok((head, objects))
}

fn line(file: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.write_all(b"\n")
}

/// Writes beside the file and puts it in its place when complete.
fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), SnapshotError> {
    let beside = path.with_extension("new");
    let attempt = || {
        let mut file = BufWriter::new(File::create(&beside)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)
    };
    attempt().map_err(|error| SnapshotError { path: path.display().to_string(), error })
}

/// How old a remembered or stale view is; for status.
pub fn age(heard: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    heard.and_then(|heard| now.duration_since(heard).ok())
}
