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
    clap_complete::generate(args.shell, &mut offered(), "isthmus", &mut std::io::stdout());
    ExitCode::SUCCESS
}

/// The command without what is hidden: clap hides that from help and not from completion.
fn offered() -> clap::Command {
    let whole = crate::Arguments::command();
    let offered = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("isthmus").version(env!("CARGO_PKG_VERSION")).propagate_version(true).subcommands(offered)
}
