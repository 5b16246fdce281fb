//! The file tree that a container sees: the host's, with some places of its own.
//!
//! There is no image to unpack and no privilege to overlay: the tree is put together from bind mounts on a fresh tmpfs.
//! A place to be replaced that exists is mounted over. One that does not exist, below a directory of the host, must not
//! be made on the host: that directory is rebuilt on the tmpfs with each of its entries bound in place (the "mimic" of
//! sandbox tools), and there the place can be made. All of it works in a user namespace.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{NamespaceError, mount};

/// More links than this in one path are taken for a loop, as the kernel does.
const MAX_LINKS: usize = 40;
/// A directory with more entries is not rebuilt: each costs a mount.
const MAX_ENTRIES: usize = 4096;
/// Top-level directories that a container gets of its own.
const OWN: [&str; 2] = ["proc", "run"];

/// What is put in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A file or directory of the host, by its canonical path (without symbolic links).
    Host(PathBuf),
    /// An empty directory in memory.
    Memory,
}

/// One place of the tree that is not the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Absolute path in the container; it need not exist.
    pub target: PathBuf,
    /// What is seen there.
    pub source: Source,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A container's file tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// In any order; parents are put in place before what is below them.
    pub places: Vec<Place>,
}

impl View {
    /// Makes this view the root of the calling process, which must have a mount namespace of its own, and be in the
    /// pid namespace that `/proc` is to show.
    ///
    /// # Errors
    /// When a source is missing, or a target is a file where the source is a directory or the other way round.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        mount::make_private()?;
        let builder = Builder::new()?;
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|place| place.target.components().count());
        for place in places {
            builder.put(place)?;
        }
        mount::pivot(&builder.root)
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError {
    let action = format!("{action} {}", path.display());
    move |source| NamespaceError::new(action, source)
}

/// Works inside the first new root, a tmpfs that holds the tree to be (`/new`), the host's tree (`/old`), and the
/// rebuilt directories (`/mimic`).
struct Builder {
    root: PathBuf,
    old: PathBuf,
    mimic: PathBuf,
    /// Device number of the tmpfs: a directory on it is the container's own and may be written to.
    device: u64,
}

impl Builder {
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

    /// Shows each entry of `from` in `to`, a directory on the tmpfs.
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
                let leads_to = fs::read_link(&source).map_err(failed("read", &source))?;
                symlink(leads_to, &target).map_err(failed("make", &target))?;
                continue;
            }
            if kind.is_dir() {
                make_directory(&target, 0o755)?;
            } else {
                make_file(&target)?;
            }
            // An entry that cannot be shown (removed meanwhile, or on a mount that refuses) stays empty.
            let _ = mount::bind(&source, &target);
        }
        Ok(())
    }

    fn put(&self, place: &Place) -> Result<(), NamespaceError> {
        let source = match &place.source {
            Source::Host(path) => Some(self.old.join(path.strip_prefix("/").unwrap_or(path))),
            Source::Memory => None,
        };
        let directory = match &source {
            Some(source) => fs::metadata(source).map_err(failed("read", source))?.is_dir(),
            None => true,
        };
        let target = self.make(&place.target, directory)?;
        match source {
            Some(source) => mount::bind(&source, &target)?,
            None => mount::tmpfs(&target, 0o1777)?,
        }
        if place.read_only { mount::read_only(&target) } else { Ok(()) }
    }

    /// Makes sure that a path exists in the new tree, following links inside that tree; gives where it is.
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
                let leads_to = fs::read_link(&here).map_err(failed("read", &here))?;
                if leads_to.is_absolute() {
                    done = PathBuf::new();
                }
                todo.extend(components(&leads_to).into_iter().rev());
                continue;
            }
            done = next;
        }
        Ok(self.root.join(done))
    }

    /// Makes a directory one in which entries can be made without touching the host.
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

/// The names in a path; `.` and the leading `/` dropped, `..` kept.
fn components(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

fn make_directory(path: &Path, mode: u32) -> Result<(), NamespaceError> {
    fs::create_dir(path).map_err(failed("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn make_file(path: &Path) -> Result<(), NamespaceError> {
    fs::File::create(path).map(drop).map_err(failed("make", path))
}
