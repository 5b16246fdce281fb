//! What every scenario is given.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The `isthmus` to measure; by default the one that `setup` built.
    #[arg(long, global = true, env = "ISTHMUS_BINARY")]
    pub isthmus: Option<PathBuf>,
    /// Start everything once and measure next to nothing: shows that the rig works, not how fast anything is.
    #[arg(long, global = true)]
    pub quick: bool,
    /// How often each pair of systems takes turns (A B B A is two).
    #[arg(long, global = true, default_value_t = 2)]
    pub turns: usize,
}

/// Where and how a scenario measures.
#[derive(Debug)]
pub struct Rig {
    /// The program that is measured.
    pub isthmus: PathBuf,
    /// See [`Options::quick`].
    pub quick: bool,
    /// See [`Options::turns`].
    pub turns: usize,
    directory: tempfile::TempDir,
}

impl Rig {
    /// Finds what is measured.
    pub fn new(options: &Options) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("isthmus-bench-").tempdir();
        Ok(Self {
            isthmus: setup::isthmus(options.isthmus.as_deref())?,
            quick: options.quick,
            turns: options.turns.max(1),
            directory: directory.context("making a directory for logs and configurations")?,
        })
    }

    /// A rig for a program that need not be the one of `setup`.
    pub fn of(program: &Path, turns: usize, quick: bool) -> Result<Self> {
        Self::new(&Options { isthmus: Some(program.to_owned()), quick, turns })
    }

    /// Where logs, certificates and configurations of this run are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The log file of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.log"))
    }

    /// The order in which `count` systems take turns: forth and back, so that what drifts meets all of them alike.
    pub fn order(&self, count: usize) -> Vec<usize> {
        let turns = if self.quick { 1 } else { self.turns };
        (0..turns).flat_map(|turn| (0..count).map(move |at| if turn % 2 == 0 { at } else { count - 1 - at })).collect()
    }
}
