//! The options and the directory of a run, which every scenario receives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup;

/// Options of all scenarios.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Path of the `isthmus` program to measure [default: the one that `setup` builds]
    #[arg(long, global = true, env = "ISTHMUS_BINARY")]
    pub isthmus: Option<PathBuf>,
    /// Start every system once and measure almost nothing: shows that the rig works, and says nothing of speed
    #[arg(long, global = true)]
    pub quick: bool,
    /// Number of turns of each system (A B B A is two)
    #[arg(long, global = true, default_value_t = 2)]
    pub turns: usize,
}

/// The environment of a scenario.
#[derive(Debug)]
pub struct Rig {
    /// The program to measure.
    pub isthmus: PathBuf,
    /// See [`Options::quick`].
    pub quick: bool,
    /// See [`Options::turns`].
    pub turns: usize,
    directory: tempfile::TempDir,
}

impl Rig {
    /// Creates the directory of a run, and checks that the program exists.
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

    /// The directory for logs, certificates and configurations.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The log file of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.log"))
    }

    /// The order in which `count` systems take turns: forth and back, so that drift affects all of them alike.
    pub fn order(&self, count: usize) -> Vec<usize> {
        let turns = if self.quick { 1 } else { self.turns };
        (0..turns).flat_map(|turn| (0..count).map(move |at| if turn % 2 == 0 { at } else { count - 1 - at })).collect()
    }
}
