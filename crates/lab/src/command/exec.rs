//! `lab exec`: runs a command in a container through the API server, as `kubectl exec` does.

use std::io::{IsTerminal as _, Read as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::SinkExt as _;
use install::client_error;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::outcome::CommandError;
use super::selection::{LabSelection, api_server, client, patience};
use super::target::ContainerTarget;

/// Exit code if nobody reads the output any more: that of a shell for SIGPIPE.
const CLOSED: u8 = 128 + 13;

/// Options of `lab exec`.
#[derive(Debug, Args)]
pub struct ExecOptions {
    /// Pod, Deployment or StatefulSet, and optionally a container, such as west/default/frontend
    #[arg(value_name = "CLUSTER/NAMESPACE/POD[/CONTAINER]")]
    target: ContainerTarget,
    /// Run the command without standard input
    #[arg(long, short = 'n')]
    no_stdin: bool,
    #[command(flatten)]
    which: LabSelection,
    /// Command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<String>,
}

impl ExecOptions {
    pub(super) async fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let client = client(&record, &self.target.cluster).await?;
        let (patience, from) = (patience(&self.target.cluster), api_server(&self.target.cluster));
        let pods = patience.answer(&from, self.target.pods(&client)).await??;
        let pod = pods.first().ok_or("no pod")?;
        let api: Api<Pod> = Api::namespaced(client, &self.target.namespace);
        let terminal = !self.no_stdin && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let mut params = AttachParams::default().stdin(!self.no_stdin).stdout(true).stderr(!terminal).tty(terminal);
        if let Some(container) = self.target.container_of(pod) {
            params = params.container(container);
        }
        let name = pod.name_any();
        let process = patience.answer(&from, api.exec(&name, &self.command, &params)).await?;
        let mut process =
            process.map_err(|error| format!("{}/{name}: {}", self.target.cluster, client_error::describe(&error)))?;
        let _raw = terminal.then(RawTerminal::enter).flatten();
        if let Some(sizes) = process.terminal_size() {
            tokio::spawn(follow_size(sizes));
        }
        if let Some(stdin) = process.stdin() {
            // The task is not awaited: the command may end while standard input stays open.
            tokio::spawn(pass_input(stdin));
        }
        let status = process.take_status();
        let out = pass_output(process.stdout(), std::io::stdout());
        let err = pass_output(process.stderr(), std::io::stderr());
        if tokio::try_join!(out, err).is_err() {
            // The command in the container ends with the connection.
            return Ok(ExitCode::from(CLOSED));
        }
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        drop(_raw);
        exit_of(status)
    }
}

/// Copies a stream until it ends. The command's end is reported by its status.
///
/// # Errors
/// Returns an error if `to` is closed, so that nobody reads the rest.
async fn pass_output(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 1 << 15];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        to.write_all(&buffer[..length]).and_then(|()| to.flush())?;
    }
    Ok(())
}

/// Copies standard input until it ends. A thread reads it, because a read of a terminal cannot be cancelled.
async fn pass_input(mut to: impl AsyncWrite + Unpin) {
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 15];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(chunk) = chunks.recv().await {
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Returns the exit code from the `Status` of the API server, as kubectl reads it.
fn exit_of(status: Option<Status>) -> Result<ExitCode, CommandError> {
    let Some(status) = status else {
        return Err("the connection closed before the command ended; check that the pod still exists: isthmus lab kubectl CLUSTER -- get pods".into());
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(status.message.unwrap_or_else(|| "the command could not be run".to_owned()).into()),
    }
}

/// Raw mode of the terminal, until this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

async fn follow_size(mut sizes: impl futures_util::Sink<TerminalSize> + Unpin) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let sent = sizes.send(TerminalSize { width: size.ws_col, height: size.ws_row }).await;
            if sent.is_err() {
                return;
            }
        }
        tokio::select! {
            _ = changed.recv() => {}
            // Some terminals do not send the signal.
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let status = |text: &str| Some(serde_json::from_str::<Status>(text).expect(text));
        assert_eq!(exit_of(status(r#"{"status":"Success"}"#)).ok(), Some(ExitCode::SUCCESS));
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"22"}]}}"#;
        assert_eq!(exit_of(status(failed)).ok(), Some(ExitCode::from(22)));
        let error = exit_of(status(r#"{"status":"Failure","message":"no such program"}"#)).expect_err("an error");
        assert_eq!(error.to_string(), "no such program");
        assert!(exit_of(None).is_err());
    }
}
