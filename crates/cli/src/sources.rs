//! The objects that a command is about: of files, and of clusters.

use std::path::PathBuf;
use std::time::Duration;

use api::analyze::{Message, Object};

use crate::access::AccessOptions;

pub(crate) mod clusters;
mod files;

/// Options that name files and clusters.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceOptions {
    /// Files and directories with YAML; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) access: AccessOptions,
    /// Context of a cluster, or cluster of the lab; may be repeated. Without files and contexts, the current context, or
    /// every cluster of the running lab
    #[arg(long = "context", value_name = "CONTEXT")]
    pub(crate) contexts: Vec<String>,
    /// Read directories within directories as well
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace of the objects in files that name none
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    pub(crate) namespace: String,
    /// Leave out documents that are not YAML or not objects of Kubernetes
    #[arg(long)]
    pub(crate) ignore_unknown: bool,
    /// Time to wait for the API servers, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    pub(crate) timeout: Duration,
}

/// What files and clusters have.
pub(crate) struct Sources {
    /// The objects, those of files first.
    pub(crate) objects: Vec<Object>,
    /// What is not YAML, or no object of Kubernetes.
    pub(crate) unreadable: Vec<Message>,
    /// Where the objects come from, in words.
    pub(crate) places: String,
}

impl SourceOptions {
    /// Reads the objects. Of clusters, objects of these kinds, without those that a file is about to replace.
    pub(crate) async fn read(&self, kinds: &[clusters::ReadKind]) -> anyhow::Result<Sources> {
        let files::ReadFiles { files, mut objects, unreadable } = files::read(self)?;
        let of_files = objects.len();
        let chosen = clusters::chosen(self).await?;
        let stored = clusters::objects(&chosen, kinds, self.timeout).await?;
        let known: std::collections::HashSet<_> = objects.iter().map(identity).collect();
        objects.extend(stored.into_iter().filter(|object| !known.contains(&identity(object))));
        let names: Vec<&str> = chosen.iter().map(|cluster| cluster.name.as_str()).collect();
        let places = places(files, of_files, &names, objects.len() - of_files);
        Ok(Sources { objects, unreadable, places })
    }
}

/// Returns what makes an object the same as another one.
fn identity(object: &Object) -> (String, String, String, String) {
    let text = |text: &str| text.to_owned();
    (text(object.group()), text(object.kind()), object.namespace.clone(), text(object.name()))
}

/// Describes where objects come from.
fn places(files: usize, of_files: usize, clusters: &[&str], of_clusters: usize) -> String {
    let mut places = Vec::new();
    if files > 0 {
        places.push(format!("{} in {}", count(of_files, "object"), count(files, "file")));
    }
    if !clusters.is_empty() {
        places.push(format!("{} of {}", count(of_clusters, "object"), clusters.join(", ")));
    }
    places.join(" and ")
}

/// Returns a number with a noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
