//! `isthmus completion`: scripts for shells.

use std::process::ExitCode;

use clap::CommandFactory;

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "For example: isthmus completion bash > ~/.local/share/bash-completion/completions/isthmus")]
pub(crate) struct Args {
    /// The shell to print a script for
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut crate::Arguments::command(), "isthmus", &mut std::io::stdout());
    ExitCode::SUCCESS
}
