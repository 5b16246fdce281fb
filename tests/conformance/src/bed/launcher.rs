//! The lab, made by the `isthmus` command.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a lab may take to become ready, with programs that are not optimised, on a busy machine.
const READY: Duration = Duration::from_secs(180);

/// A running `isthmus lab up`.
pub(super) struct Launcher {
    directory: PathBuf,
    process: Child,
}

impl Launcher {
    /// Starts a lab with the `isthmus` of a directory, and waits until it is ready.
    pub(super) async fn up(directory: &Path, topology: &Path) -> Result<Self> {
        std::fs::create_dir(directory.join("run"))?;
        let mut command = program(directory);
        command.args(["lab", "up"]).arg(topology).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("starting isthmus lab up")?;
        let ready = tokio::time::timeout(READY, until_ready(&mut process)).await;
        ready.with_context(|| format!("the lab is not ready after {READY:?}"))??;
        Ok(Self { directory: directory.to_owned(), process })
    }

    /// Stops the lab, as Ctrl-C does.
    pub(super) async fn down(mut self) {
        if let Some(id) = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        }
        if tokio::time::timeout(Duration::from_secs(20), self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }

    /// The output of `isthmus ARGUMENTS`.
    pub(super) async fn output(&self, arguments: &[&str]) -> Result<String> {
        match self.run(arguments).await? {
            (true, output) => Ok(output),
            (false, output) => bail!("isthmus {}: {}", arguments.join(" "), output.trim()),
        }
    }

    /// Whether `isthmus ARGUMENTS` succeeds, and its output; with that of errors if it does not.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = program(&self.directory).args(arguments).output().await?;
        let mut text = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.success(), text))
    }
}

fn program(directory: &Path) -> Command {
    let mut command = Command::new(directory.join("isthmus"));
    command.env("ISTHMUS_RUNTIME_DIR", directory.join("run"));
    command.env_remove("KUBECONFIG").env_remove("ISTHMUS_LAB");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Waits until the launcher reports that the lab is ready, and then reads its output to nowhere.
async fn until_ready(process: &mut Child) -> Result<()> {
    let (Some(output), Some(errors)) = (process.stdout.take(), process.stderr.take()) else { bail!("no output") };
    let mut errors = BufReader::new(errors).lines();
    let said = tokio::spawn(async move {
        let mut said = String::new();
        while let Ok(Some(line)) = errors.next_line().await {
            if said.len() < 1 << 16 {
                said.push_str(&line);
                said.push('\n');
            }
        }
        said
    });
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("ready in") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(());
        }
    }
    bail!("the lab ended:\n{}", said.await?)
}
