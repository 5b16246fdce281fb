//! `lab down`: takes labs down, also those that were killed and left their directory.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::outcome::Failure;
use super::print::print;
use crate::orchestration::state::{self, LAB, Record};

/// How long a lab may take to end in order before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// Options of `lab down`.
#[derive(Debug, Args)]
pub struct Down {
    /// The lab; may be left out if there is just one
    #[arg(env = LAB)]
    name: Option<String>,
    /// Every lab
    #[arg(long)]
    all: bool,
}

impl Down {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let labs = state::all();
        if self.all {
            for lab in &labs {
                end(lab)?;
            }
            if labs.is_empty() {
                print("no lab is running\n");
            }
            return Ok(ExitCode::SUCCESS);
        }
        match (&self.name, labs.as_slice()) {
            (Some(name), labs) => match labs.iter().find(|lab| lab.name == *name) {
                Some(lab) => end(lab)?,
                None => {
                    // One that was killed while it was starting left a directory without a record.
                    let directory = state::Directory::of(name);
                    if !directory.path().is_dir() {
                        return Err(Box::new(state::choose(Some(name)).err().ok_or("it has just started; try again")?));
                    }
                    directory.remove()?;
                    print(&format!("lab {name}: removed what was left of it\n"));
                }
            },
            (None, []) => print("no lab is running\n"),
            (None, [one]) => end(one)?,
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|lab| lab.name.as_str()).collect();
                return Err(format!(
                    "there are several labs: {}\n  say which: isthmus lab down NAME, or all: isthmus lab down --all",
                    names.join(", ")
                )
                .into());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn end(lab: &Record) -> Result<(), Failure> {
    let alive = lab.is_alive();
    lab.stop(PATIENCE)?;
    print(&match alive {
        true => format!("lab {} is down\n", lab.name),
        false => format!("lab {}: removed what was left of it\n", lab.name),
    });
    Ok(())
}
