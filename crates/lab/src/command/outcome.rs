//! How a command ends: its exit code and its error.

use std::process::ExitCode;

use install::client_error;

/// Exit code of what did not finish in time.
pub const TIMED_OUT: u8 = 3;
/// Exit code of wrong usage, as clap has it.
pub const WRONG_USAGE: u8 = 2;

/// An error that ends a command, printed as it is.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn told(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", explained(&error));
        ExitCode::FAILURE
    })
}

/// An error for display: what is wrong, and what to do about it.
fn explained(error: &Failure) -> String {
    let Some(error) = error.downcast_ref::<kube::Error>() else { return error.to_string() };
    match client_error::advice(error) {
        Some(advice) => format!("{}\n  {advice}", client_error::describe(error)),
        None => client_error::describe(error),
    }
}

pub(super) fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = told(runtime.block_on(command));
            // A read of standard input that nobody waits for any more must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => told(Err(error.into())),
    }
}
