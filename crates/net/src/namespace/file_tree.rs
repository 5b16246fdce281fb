//! The file tree of a container: the host's tree with some paths replaced.
//!
//! A lab has no images to unpack and no privilege for overlay mounts, so the tree consists of bind mounts on a tmpfs. A
//! path that exists is mounted over. A path that does not exist must not be created in a directory of the host. Such a
//! directory is rebuilt on the tmpfs with each of its entries bound in place (a "mimic" in sandbox tools), and the path
//! is created there. All of this works in a user namespace.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{NamespaceError, mount};

/// The maximum number of symbolic links in one path, as in the kernel. More count as a loop.
const MAX_LINKS: usize = 40;
/// The maximum number of entries of a rebuilt directory: each entry costs a mount.
const MAX_ENTRIES: usize = 4096;
/// Top-level directories that are not the host's.
const OWN: [&str; 2] = ["proc", "run"];

/// The content of a replaced path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, by its canonical path (without symbolic links).
    Host(PathBuf),
    /// An empty in-memory directory.
    Memory,
}

/// A replaced path of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMount {
    /// The absolute path in the container. It need not exist.
    pub target: PathBuf,
    /// The content.
    pub source: MountSource,
    /// Whether the path is read-only.
    pub read_only: bool,
}

/// The file tree of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTree {
    /// The replaced paths, in any order. Parents are mounted before their children.
    pub mounts: Vec<TreeMount>,
}

impl FileTree {
    /// Makes this tree the root of the calling process. The process must have a mount namespace of its own and be in
    /// the pid namespace that `/proc` shows.
    ///
    /// # Errors
    /// Returns an error if a source does not exist, or source and target are not both files or both directories.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        mount::make_private()?;
        let builder = TreeBuilder::new()?;
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        mounts.sort_by_key(|mount| mount.target.components().count());
        for mount in mounts {
            builder.put(mount)?;
        }
        mount::pivot(&builder.root)
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError {
    let action = format!("{action} {}", path.display());
    move |source| NamespaceError::new(action, source)
}

/// Builds a tree. It works in a temporary root, a tmpfs with the new tree (`/new`), the host's tree (`/old`) and the
/// rebuilt directories (`/mimic`).
struct TreeBuilder {
    root: PathBuf,
    old: PathBuf,
    mimic: PathBuf,
    /// The device number of the tmpfs. Directories on it belong to the container and are writable.
    device: u64,
}

impl TreeBuilder {
    fn new() -> Result<Self, NamespaceError> {
        let base = Path::new("/tmp");
        mount::tmpfs(base, 0o755)?;
        for directory in ["new", "old", "mimic"] {
            make_directory(&base.join(directory), 0o755)?;
        }
        rustix::process::chdir(base).map_err(|source| NamespaceError::new("enter /tmp", source))?;
        rustix::process::pivot_root(".", "old").map_err(|source| NamespaceError::new("change the root", source))?;
        rustix::process::chdir("/").map_err(|source| NamespaceError::new("enter the new root", source))?;
        let builder = Self {
            root: "/new".into(),
            old: "/old".into(),
            mimic: "/mimic".into(),
            device: fs::metadata("/").map_err(failed("read", Path::new("/")))?.dev(),
        };
        mount::bind(&builder.root, &builder.root)?;
        builder.skeleton()?;
        Ok(builder)
    }

    fn skeleton(&self) -> Result<(), NamespaceError> {
        self.copy_entries(&self.old, &self.root, &OWN)?;
        make_directory(&self.root.join("proc"), 0o555)?;
        mount::proc(&self.root.join("proc"), &self.old.join("proc"))?;
        make_directory(&self.root.join("run"), 0o755)?;
        make_directory(&self.root.join("run/lock"), 0o1777)
    }

    /// Binds each entry of `from` into `to`, a directory on the tmpfs.
    fn copy_entries(&self, from: &Path, to: &Path, without: &[&str]) -> Result<(), NamespaceError> {
        let entries: Vec<_> = fs::read_dir(from).and_then(Iterator::collect).map_err(failed("list", from))?;
        if entries.len() > MAX_ENTRIES {
            let error = io::Error::other(format!("it has more than {MAX_ENTRIES} entries; choose another mount path"));
            return Err(NamespaceError::new(format!("rebuild {}", from.display()), error));
        }
        for entry in entries {
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            if without.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let kind = entry.file_type().map_err(failed("read", &source))?;
            if kind.is_symlink() {
                let link_target = fs::read_link(&source).map_err(failed("read", &source))?;
                symlink(link_target, &target).map_err(failed("create", &target))?;
                continue;
            }
            if kind.is_dir() {
                make_directory(&target, 0o755)?;
            } else {
                make_file(&target)?;
            }
            // An entry that cannot be bound (removed in the meantime, or on a mount that refuses) stays empty.
            let _ = mount::bind(&source, &target);
        }
        Ok(())
    }

    fn put(&self, mount: &TreeMount) -> Result<(), NamespaceError> {
        let source = match &mount.source {
            MountSource::Host(path) => Some(self.old.join(path.strip_prefix("/").unwrap_or(path))),
            MountSource::Memory => None,
        };
        let directory = match &source {
            Some(source) => fs::metadata(source).map_err(failed("read", source))?.is_dir(),
            None => true,
        };
        let target = self.make(&mount.target, directory)?;
        match source {
            Some(source) => mount::bind(&source, &target)?,
            None => mount::tmpfs(&target, 0o1777)?,
        }
        if mount.read_only { mount::read_only(&target) } else { Ok(()) }
    }

    /// Creates a path in the new tree if it does not exist, resolving symbolic links within that tree. Returns the
    /// resolved path.
    fn make(&self, path: &Path, directory: bool) -> Result<PathBuf, NamespaceError> {
        let mut links = 0;
        let mut done = PathBuf::new();
        let mut todo: Vec<_> = components(path);
        todo.reverse();
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            let here = self.root.join(&next);
            let metadata = match fs::symlink_metadata(&here) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_writable(&self.root.join(&done))?;
                    if todo.is_empty() && !directory {
                        make_file(&here)?;
                    } else {
                        make_directory(&here, 0o755)?;
                    }
                    done = next;
                    continue;
                }
                Err(error) => return Err(failed("read", &here)(error)),
            };
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(failed("resolve", path)(io::Error::from_raw_os_error(libc::ELOOP)));
                }
                let link_target = fs::read_link(&here).map_err(failed("read", &here))?;
                if link_target.is_absolute() {
                    done = PathBuf::new();
                }
                todo.extend(components(&link_target).into_iter().rev());
                continue;
            }
            done = next;
        }
        Ok(self.root.join(done))
    }

    /// Rebuilds a directory of the host on the tmpfs, so that entries can be created without changing the host.
    fn make_writable(&self, directory: &Path) -> Result<(), NamespaceError> {
        let metadata = fs::metadata(directory).map_err(failed("read", directory))?;
        if metadata.dev() == self.device {
            return Ok(());
        }
        let number = fs::read_dir(&self.mimic).map_err(failed("list", &self.mimic))?.count();
        let rebuilt = self.mimic.join(number.to_string());
        make_directory(&rebuilt, metadata.mode() & 0o7777)?;
        self.copy_entries(directory, &rebuilt, &[])?;
        mount::bind(&rebuilt, directory)
    }
}

/// Returns the components of a path without `.` and the leading `/`, but with `..`.
fn components(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

fn make_directory(path: &Path, mode: u32) -> Result<(), NamespaceError> {
    fs::create_dir(path).map_err(failed("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn make_file(path: &Path) -> Result<(), NamespaceError> {
    fs::File::create(path).map(drop).map_err(failed("create", path))
}
