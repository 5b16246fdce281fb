//! The directory of a lab: claimed by a new lab, written by it, and removed with it.
//!
//! Each directory has a marker from its creation to the end of its removal. Only what has the marker is removed, so that
//! nothing else that is in the place of a lab's directory is lost.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LabName, LabRecord, StateError, labs};

/// Name of the file that marks a directory as a lab's. No cluster has this name.
const MARKER: &str = ".isthmus-lab";
/// Name of the file with the record.
const RECORD: &str = "lab.json";
/// Least free space for a lab: what one writes in about an hour.
const LEAST_SPACE: u64 = 16 << 20;
/// Age up to which a directory without a record is that of a lab that is being started.
const STARTING: Duration = Duration::from_secs(2);

/// The directory of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDirectory(PathBuf);

impl LabDirectory {
    /// Returns the directory of lab `name`, which need not exist.
    #[must_use]
    pub fn of(name: &LabName) -> Self {
        Self(labs().join(name.as_str()))
    }

    /// Returns an existing directory by its path, for the lab's own processes.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a cluster's directory.
    #[must_use]
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates the directory of a new lab, and removes what a killed lab of the name left.
    ///
    /// # Errors
    /// Returns [`StateError::Running`] if a lab of the name is running, and [`StateError::NotALab`] if something else has
    /// the directory's place.
    pub fn claim(name: &LabName) -> Result<Self, StateError> {
        Self::claim_in(&labs(), name)
    }

    pub(super) fn claim_in(parent: &Path, name: &LabName) -> Result<Self, StateError> {
        let directory = Self(parent.join(name.as_str()));
        let no_place = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| StateError::NoPlace { path, why: install::client_error::system(&error) }
        };
        make_private(parent).and_then(|()| has_space(parent)).map_err(no_place(parent))?;
        // One process at a time: another could claim the name between the check of a killed lab's directory and its
        // removal.
        let turn = fs::File::open(parent).and_then(|folder| folder.lock().map(|()| folder));
        let _turn = turn.map_err(no_place(parent))?;
        for _ in 0..3 {
            match fs::DirBuilder::new().mode(0o700).create(&directory.0).and_then(|()| directory.mark()) {
                Ok(()) => return Ok(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match directory.record() {
                    Ok(record) if record.is_alive() => {
                        let topology = record.topology.display().to_string();
                        return Err(StateError::Running { name: record.name, pid: record.pid, topology });
                    }
                    // A directory without a record was created a moment ago, or by a lab that was killed at that
                    // moment.
                    Err(_) if directory.is_fresh() => return Err(StateError::Starting(name.clone())),
                    _ => directory.remove()?,
                },
                Err(error) => return Err(no_place(&directory.0)(error)),
            }
        }
        let source = io::Error::other("another process keeps creating the directory");
        Err(StateError::Io { path: directory.0, source })
    }

    fn mark(&self) -> io::Result<()> {
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(self.0.join(MARKER)).map(drop)
    }

    /// Removes what a lab left that was killed before it wrote its record. Returns whether there was anything.
    ///
    /// # Errors
    /// Returns an error if a lab is being started in the directory, or for the reasons of [`Self::remove`].
    pub fn remove_remains(&self, name: &LabName) -> Result<bool, StateError> {
        if fs::symlink_metadata(&self.0).is_err() {
            return Ok(false);
        }
        if self.is_marked() && self.is_fresh() {
            return Err(StateError::Starting(name.clone()));
        }
        self.remove().map(|()| true)
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(&self.0).and_then(|meta| meta.modified()).map(|time| time.elapsed().unwrap_or_default());
        age.is_ok_and(|age| age < STARTING)
    }

    /// Reads `lab.json`.
    ///
    /// # Errors
    /// Returns an error if the file does not exist or has another form.
    pub fn record(&self) -> Result<LabRecord, StateError> {
        let path = self.0.join(RECORD);
        let failed = |source| StateError::Io { path: path.clone(), source };
        let text = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Writes `lab.json`.
    ///
    /// # Errors
    /// Returns an error if the directory does not exist or the disk is full.
    pub fn write_record(&self, record: &LabRecord) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(record).unwrap_or_default();
        self.write(RECORD, &text)
    }

    /// Writes a file that only its owner can read, atomically.
    ///
    /// # Errors
    /// Returns an error if the directory does not exist or the disk is full.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.0.join(name);
        write_private(&path, content).map_err(|source| StateError::Io { path, source })
    }

    /// Removes the directory, if there is one.
    ///
    /// # Errors
    /// Returns [`StateError::NotALab`] if it is not provably a lab's directory of this user, and another error if a file in
    /// it cannot be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: self.0.clone(), source };
        match fs::symlink_metadata(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(failed(source)),
            Ok(metadata) => match self.why_foreign(&metadata) {
                Some(why) => Err(StateError::NotALab { path: self.0.clone(), why }),
                None => unless_gone(self.remove_all()).map_err(failed),
            },
        }
    }

    /// Returns why the directory is not a lab's of this user, if it is not.
    fn why_foreign(&self, metadata: &fs::Metadata) -> Option<&'static str> {
        if metadata.is_symlink() {
            return Some("it is a symbolic link");
        }
        if !metadata.is_dir() {
            return Some("it is not a directory");
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Some("it belongs to another user");
        }
        // A lab that was killed before it could mark its directory left nothing in it.
        let is_empty = fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_none());
        (!self.is_marked() && !is_empty).then_some("it has no file .isthmus-lab, which marks the directories of labs")
    }

    fn is_marked(&self) -> bool {
        fs::symlink_metadata(self.0.join(MARKER)).is_ok_and(|marker| marker.is_file())
    }

    /// Removes the files, and the marker last, so that a removal that failed can be repeated.
    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name() == MARKER {
                continue;
            }
            let removed = match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
            unless_gone(removed)?;
        }
        unless_gone(fs::remove_file(self.0.join(MARKER)))?;
        // A process that has just been killed may have created a file since.
        unless_gone(fs::remove_dir(&self.0)).inspect_err(|_| drop(self.mark()))
    }
}

/// Writes a file that only its owner can read, atomically, with the directory that it is in.
///
/// # Errors
/// Returns an error if the directory cannot be made or the disk is full.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_private(folder)?;
    }
    let beside = path.with_extension("new");
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    io::Write::write_all(&mut file, content)?;
    fs::rename(&beside, path)
}

/// Counts a file that another process has removed as removed.
fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks the free space. A lab writes logs and its pods' files; without space it would start and fail later.
fn has_space(path: &Path) -> io::Result<()> {
    let state = rustix::fs::statvfs(path)?;
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    if free < LEAST_SPACE {
        return Err(io::Error::other(format!(
            "{} KiB are free, but a lab needs {} KiB",
            free >> 10,
            LEAST_SPACE >> 10
        )));
    }
    Ok(())
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let owner = rustix::fs::stat(path)?.st_uid;
    if owner != rustix::process::geteuid().as_raw() && !rustix::process::geteuid().is_root() {
        // Another user could have created the directory in /tmp to read the credentials in it.
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory belongs to another user"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn name(text: &str) -> LabName {
        text.parse().expect("a name")
    }

    #[test]
    fn one_claim_replaces_a_killed_lab() {
        let folder = tempfile::tempdir().expect("a directory");
        let labs = folder.path().join("labs");
        for _ in 0..20 {
            let stale = LabDirectory::claim_in(&labs, &name("a")).expect("claimed");
            stale.write_record(&LabRecord { pid: u32::MAX, ..record("a") }).expect("written");
            let claims: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(|| LabDirectory::claim_in(&labs, &name("a"))));
                threads.map(|thread| thread.join().expect("no panic")).into()
            });
            assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
            stale.remove().expect("removed");
        }
    }

    #[test]
    fn only_a_directory_that_a_lab_has_marked_is_removed() {
        let folder = tempfile::tempdir().expect("a directory");
        let labs = folder.path().join("labs");
        let lab = LabDirectory::claim_in(&labs, &name("a")).expect("claimed");
        lab.write("west/authority.pem", b"x").expect("written");
        lab.remove().expect("it is a lab's");
        assert!(!lab.path().exists());
        lab.remove().expect("there is nothing to remove");

        let precious = labs.join("precious");
        fs::create_dir(&precious).expect("made");
        fs::write(precious.join("file"), "x").expect("written");
        std::os::unix::fs::symlink(&precious, labs.join("link")).expect("linked");
        fs::write(labs.join("plain"), "x").expect("written");
        for (entry, why) in [("precious", ".isthmus-lab"), ("link", "symbolic link"), ("plain", "not a directory")] {
            let directory = LabDirectory(labs.join(entry));
            let error = directory.remove().expect_err(entry).to_string();
            assert!(error.contains(entry) && error.contains(why) && error.contains("nothing is removed"), "{error}");
            assert!(LabDirectory::claim_in(&labs, &name(entry)).is_err(), "{entry} is claimed");
        }
        assert!(precious.join("file").is_file() && labs.join("plain").is_file());
    }

    #[test]
    fn a_marked_link_leads_to_no_removal() {
        let folder = tempfile::tempdir().expect("a directory");
        let target = LabDirectory::claim_in(&folder.path().join("elsewhere"), &name("a")).expect("claimed");
        let link = LabDirectory(folder.path().join("a"));
        std::os::unix::fs::symlink(target.path(), link.path()).expect("linked");
        assert!(link.remove().is_err_and(|error| error.to_string().contains("symbolic link")));
        assert!(target.is_marked());
    }

    #[test]
    fn remains_without_a_record_are_removed_once_no_lab_starts_there() {
        let folder = tempfile::tempdir().expect("a directory");
        let lab = LabDirectory::claim_in(folder.path(), &name("a")).expect("claimed");
        let error = lab.remove_remains(&name("a")).expect_err("just created").to_string();
        assert!(error.contains("is being started"), "{error}");
        let long_ago = std::time::SystemTime::now() - STARTING * 2;
        fs::File::open(lab.path()).and_then(|folder| folder.set_modified(long_ago)).expect("set");
        assert_eq!(lab.remove_remains(&name("a")).ok(), Some(true));
        assert_eq!(lab.remove_remains(&name("a")).ok(), Some(false));
    }
}
