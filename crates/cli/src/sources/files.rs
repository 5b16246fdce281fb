//! The objects of files and directories.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use api::analyze::{Message, Object};
use api::networking::Severity;
use api::networking::problem::SCHEMA_ERROR;
use api::yaml;

use super::SourceOptions;

/// The size of a file, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// The number of files.
const MAX_FILES: usize = 100_000;
/// The name of standard input.
const STDIN: &str = "-";

/// What files have.
#[derive(Default)]
pub(super) struct ReadFiles {
    /// The number of files.
    pub(super) files: usize,
    pub(super) objects: Vec<Object>,
    /// What is not YAML, or no object of Kubernetes.
    pub(super) unreadable: Vec<Message>,
}

/// Reads the files and directories of a command.
pub(super) fn read(args: &SourceOptions) -> anyhow::Result<ReadFiles> {
    let mut paths = Vec::new();
    for path in &args.files {
        if path.is_dir() {
            find(path, args.recursive, &mut paths)?;
        } else {
            paths.push(path.clone());
        }
    }
    if paths.is_empty() && !args.files.is_empty() {
        bail!("no file with the ending .yaml, .yml or .json is found\n  for directories within directories, give -R");
    }
    let mut read = ReadFiles { files: paths.len(), ..ReadFiles::default() };
    for path in paths {
        let text = text(&path).with_context(|| format!("reading {}", path.display()))?;
        let name: Arc<str> = path.to_string_lossy().into();
        for document in yaml::documents(&text) {
            let found = match document {
                Ok(document) => Object::of_document(document, &name, &args.namespace),
                Err(error) => vec![Err((error.line, format!("is not YAML: {}", error.message)))],
            };
            for found in found {
                match found {
                    Ok(object) => read.objects.push(object),
                    Err(_) if args.ignore_unknown => {}
                    Err((line, message)) => read.unreadable.push(unreadable(&name, line, message)),
                }
            }
        }
    }
    Ok(read)
}

/// Adds the files of a directory, in order. Links to directories are not followed.
fn find(directory: &Path, recursive: bool, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let reading = || format!("reading {}", directory.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(reading)?);
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if kind.is_dir() {
                open.extend(recursive.then_some(path));
            } else if path.is_file() && ["yaml", "yml", "json"].contains(&ending) {
                found.push(path);
            }
        }
        found.sort();
        paths.extend(found);
        if paths.len() > MAX_FILES {
            bail!("{} has more than {MAX_FILES} files\n  give a directory with fewer", directory.display());
        }
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some(STDIN) => std::io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text),
        _ => std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text),
    };
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => bail!("it is not UTF-8 text"),
        read => read?,
    };
    if text.len() as u64 > MAX_FILE {
        bail!("it has more than {} MiB\n  give fewer objects at a time", MAX_FILE >> 20);
    }
    Ok(text)
}

fn unreadable(file: &Arc<str>, line: u64, message: String) -> Message {
    Message {
        file: Some(file.to_string()),
        line: Some(line),
        cluster: None,
        kind: "Document".to_owned(),
        name: String::new(),
        field: String::new(),
        code: SCHEMA_ERROR,
        level: Severity::Error,
        message,
    }
}
