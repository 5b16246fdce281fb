//! `isthmus completion`: prints completion scripts.

use std::process::ExitCode;

use clap::CommandFactory;
use lab::console::print_bytes;

/// Options of `isthmus completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  isthmus completion bash > ~/.local/share/bash-completion/completions/isthmus")]
pub(crate) struct CompletionArgs {
    /// Shell of the script
    shell: clap_complete::Shell,
}

pub(crate) async fn run(args: CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut offered(), "isthmus", &mut script);
    print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the command without hidden subcommands, which clap omits from help but not from completion.
fn offered() -> clap::Command {
    let whole = crate::IsthmusArguments::command();
    let offered = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("isthmus").version(env!("CARGO_PKG_VERSION")).propagate_version(true).subcommands(offered)
}
