//! Exit codes and errors of commands.

use std::process::ExitCode;

use install::client_error;

/// Exit code of a command that timed out.
pub(super) const TIMED_OUT: u8 = 3;

/// An error that ends a command.
pub(super) type CommandError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn exit_code(result: Result<ExitCode, CommandError>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", explain(&error));
        ExitCode::FAILURE
    })
}

/// Describes an error, and on a second line what to do about it, where there is something to try.
fn explain(error: &CommandError) -> String {
    let Some(error) = error.downcast_ref::<kube::Error>() else { return error.to_string() };
    match client_error::advice(error) {
        Some(advice) => format!("{}\n  {advice}", client_error::describe(error)),
        None => client_error::describe(error),
    }
}

pub(super) fn block_on(command: impl Future<Output = Result<ExitCode, CommandError>>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = exit_code(runtime.block_on(command));
            // A pending read of standard input must not keep the process alive.
            runtime.shutdown_background();
            code
        }
        Err(error) => exit_code(Err(error.into())),
    }
}
