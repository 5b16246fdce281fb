//! `lab down`: stops labs, and cleans up after labs that were killed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::outcome::CommandError;
use super::print::print;
use crate::orchestration::state::{self, LAB, LabRecord};

/// How long a lab may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// Options of `lab down`.
#[derive(Debug, Args)]
pub struct DownOptions {
    /// Name of the lab; optional if there is only one
    #[arg(env = LAB)]
    name: Option<String>,
    /// Stop every lab
    #[arg(long)]
    all: bool,
}

impl DownOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
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
                    // A lab that was killed while it started left a directory without a record.
                    let directory = state::LabDirectory::of(name);
                    if !directory.path().is_dir() {
                        return Err(Box::new(
                            state::choose(Some(name)).err().ok_or("the lab has just started; try again")?,
                        ));
                    }
                    directory.remove()?;
                    print(&format!("lab {name} had been killed; its files are removed\n"));
                }
            },
            (None, []) => print("no lab is running\n"),
            (None, [one]) => end(one)?,
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|lab| lab.name.as_str()).collect();
                return Err(format!(
                    "several labs are running: {}\n  name one: isthmus lab down NAME, or stop all: isthmus lab down --all",
                    names.join(", ")
                )
                .into());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn end(lab: &LabRecord) -> Result<(), CommandError> {
    let alive = lab.is_alive();
    lab.stop(PATIENCE)?;
    print(&match alive {
        true => format!("lab {} stopped\n", lab.name),
        false => format!("lab {} had been killed; its files are removed\n", lab.name),
    });
    Ok(())
}
