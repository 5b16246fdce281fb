//! `lab down`: stops labs, and cleans up after labs that were killed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::outcome::CommandError;
use crate::console::{Waiting, print};
use crate::orchestration::state::{self, LAB, LabChoice, LabDirectory, LabName, LabRecord};

/// How long a lab may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// Options of `lab down`.
#[derive(Debug, Args)]
pub struct DownOptions {
    /// Name of the lab; optional if there is only one
    #[arg(env = LAB)]
    name: Option<LabChoice>,
    /// Stop every lab
    #[arg(long)]
    all: bool,
}

impl DownOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let labs = state::all();
        let name = self.name.as_ref().and_then(LabChoice::name);
        if self.all {
            for lab in &labs {
                end(lab)?;
            }
            if labs.is_empty() {
                print("no lab is running\n")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        match (name, labs.as_slice()) {
            (Some(name), labs) => match labs.iter().find(|lab| lab.name == *name) {
                Some(lab) => end(lab)?,
                None => clean_up(name)?,
            },
            (None, []) => print("no lab is running\n")?,
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
    let waiting = Waiting::show(format!("lab {} to stop, at most {PATIENCE:?} before it is killed", lab.name));
    lab.stop(PATIENCE)?;
    drop(waiting);
    match alive {
        true => print(&format!("lab {} stopped\n", lab.name))?,
        false => report_cleaned(&lab.name)?,
    }
    Ok(())
}

/// Cleans up after a lab that was killed while it started, which left a directory without a record.
fn clean_up(name: &LabName) -> Result<(), CommandError> {
    if LabDirectory::of(name).remove_remains(name)? {
        return report_cleaned(name);
    }
    Err(state::choose(Some(name)).err().map_or_else(|| "the lab has just started; try again".into(), Into::into))
}

fn report_cleaned(name: &LabName) -> Result<(), CommandError> {
    Ok(print(&format!("lab {name} had been killed; its files are removed\n"))?)
}
