//! A volume's content, which is replaced atomically.
//!
//! The layout is the kubelet's (`pkg/volume/util/atomic_writer.go` describes it): the files are in a directory with a
//! name of its own, the link `..data` points to the current directory, and each visible name is a link through
//! `..data`. A program that keeps a directory open sees the old or the new content, never a mixture.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

/// Name of the link to the current content.
const DATA: &str = "..data";

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The content of a volume, by relative path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    files: BTreeMap<String, File>,
}

impl Payload {
    /// Adds a file. A later file of the same path replaces it, as in projected volumes.
    pub(super) fn add(&mut self, path: &str, file: File) -> Result<(), String> {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.is_empty() || path.starts_with("..") {
            return Err(format!("{path:?} is not a path inside of a volume"));
        }
        self.files.insert(path.to_owned(), file);
        Ok(())
    }

    /// Makes this the volume's content, if it is not already.
    pub(super) fn write(&self, volume: &Path) -> io::Result<()> {
        let old = fs::read_link(volume.join(DATA)).ok();
        if old.as_ref().is_some_and(|old| self.is_in(&volume.join(old))) {
            return Ok(());
        }
        let mut number = 0;
        let fresh = loop {
            let name = format!("..{number}");
            match fs::create_dir(volume.join(&name)) {
                Ok(()) => break name,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        let content = volume.join(&fresh);
        fs::set_permissions(&content, fs::Permissions::from_mode(0o755))?;
        for (path, file) in &self.files {
            let path = content.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, &file.bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        let link = volume.join("..data_tmp");
        let _ = fs::remove_file(&link);
        symlink(&fresh, &link)?;
        fs::rename(&link, volume.join(DATA))?;
        self.link_names(volume)?;
        if let Some(old) = old {
            fs::remove_dir_all(volume.join(old))?;
        }
        Ok(())
    }

    /// Updates the visible names to the content.
    fn link_names(&self, volume: &Path) -> io::Result<()> {
        let names: std::collections::BTreeSet<&str> =
            self.files.keys().filter_map(|path| path.split('/').next()).collect();
        for entry in fs::read_dir(volume)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with("..") && !names.contains(name.as_ref()) {
                fs::remove_file(volume.join(name.as_ref()))?;
            }
        }
        for name in names {
            match symlink(Path::new(DATA).join(name), volume.join(name)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reports whether a directory has exactly this content.
    fn is_in(&self, directory: &Path) -> bool {
        let mut found = 0;
        let mut todo = vec![directory.to_owned()];
        while let Some(next) = todo.pop() {
            let Ok(entries) = fs::read_dir(next) else { return false };
            for entry in entries.flatten() {
                if entry.path().is_dir() {
                    todo.push(entry.path());
                } else {
                    found += 1;
                }
            }
        }
        found == self.files.len()
            && self.files.iter().all(|(path, file)| {
                let path = directory.join(path);
                fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o7777 == file.mode)
                    && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let mut payload = Payload::default();
        for (path, text) in files {
            payload.add(path, File { bytes: text.as_bytes().to_vec(), mode: 0o640 }).unwrap();
        }
        payload
    }

    #[test]
    fn content_is_replaced_atomically() {
        let volume = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(volume.path().join(path)).ok();
        let first = payload(&[("a", "1"), ("b/c", "2")]);
        first.write(volume.path()).unwrap();
        assert_eq!((read("a"), read("b/c")), (Some("1".into()), Some("2".into())));
        let in_force = fs::read_link(volume.path().join(DATA)).unwrap();
        first.write(volume.path()).unwrap();
        assert_eq!(fs::read_link(volume.path().join(DATA)).unwrap(), in_force, "equal content is not written again");

        let held = volume.path().join(DATA).canonicalize().unwrap();
        payload(&[("a", "3"), ("d", "4")]).write(volume.path()).unwrap();
        assert_eq!((read("a"), read("b/c"), read("d")), (Some("3".into()), None, Some("4".into())));
        assert!(!held.exists(), "the old content is removed");
        let mode = fs::metadata(volume.path().join("a")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640);
        payload(&[]).write(volume.path()).unwrap();
        assert_eq!(read("a"), None);
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["../x", "/x", "", "a/../../b", "..data"] {
            let file = File { bytes: vec![], mode: 0o644 };
            assert!(Payload::default().add(path, file).is_err(), "{path}");
        }
    }
}
