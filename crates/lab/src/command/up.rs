//! `lab up` and `lab run`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;

use super::outcome::{Failure, TIMED_OUT, told};
use super::print::print;
use super::stop::{Stop, say};
use crate::orchestration::bring_up::{self, BringUpError, PodLine};
use crate::orchestration::clients::Clients;
use crate::orchestration::front::{FrontError, Options, Running};
use crate::orchestration::init::ToFront;
use crate::orchestration::progress::{Progress, columns};
use crate::orchestration::state::Directory;
use crate::topology::Topology;

/// Options of `lab up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The topology file
    file: PathBuf,
    /// The lab's name; the topology's by default
    #[arg(long)]
    name: Option<String>,
    /// How long it may take until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Returns once everything is ready, and leaves the lab running until `isthmus lab down`
    #[arg(long, short)]
    detach: bool,
    /// Keeps a lab that did not get ready, for a look at it
    #[arg(long)]
    keep: bool,
}

/// Options of `lab run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The topology file
    file: PathBuf,
    /// The lab's name; the topology's by default
    #[arg(long)]
    name: Option<String>,
    /// How long it may take until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<String>,
}

/// How waiting for the lab ended.
enum Outcome {
    Ready(Vec<PodLine>),
    Interrupted(ExitCode),
    TimedOut(Vec<String>),
    Failed(Failure),
}

impl Up {
    pub(super) fn run(self) -> ExitCode {
        if self.detach {
            return told(self.detached());
        }
        let options = Options { topology: self.file, name: self.name };
        with_lab(&options, Duration::from_secs(self.timeout), self.keep, |lab, runtime, stop, pods| {
            if let Err(error) = lab.set_ready() {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
            print(&summary(lab, pods));
            runtime.block_on(until_told(lab, stop));
            ExitCode::SUCCESS
        })
    }

    /// Runs the lab in a process of its own, passes on what it says until it is ready, and leaves it.
    fn detached(self) -> Result<ExitCode, Failure> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => Topology::load(&self.file)?.name,
        };
        // In memory, so that no log file is left when the lab ends.
        let said = rustix::fs::memfd_create("isthmus-lab", rustix::fs::MemfdFlags::CLOEXEC)?;
        let said = File::from(said);
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["lab", "up", "--name", &name, "--timeout", &self.timeout.to_string()]).arg(&self.file);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?).process_group(0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let stop = Stop::listen(&runtime)?;
        let mut child = command.spawn()?;
        let directory = Directory::of(&name);
        let mut shown = 0;
        let mut passed_on = false;
        loop {
            if stop.is_told() && !passed_on {
                passed_on = true;
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    // If it has just ended, the next look tells how.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            let ended = child.try_wait()?;
            let ready = directory.record().is_ok_and(|record| record.ready && record.pid == child.id());
            shown += pass_on(&said, shown)?;
            match ended {
                Some(status) => return Ok(code_of(status)),
                None if ready && !passed_on => {
                    pass_on(&said, shown)?;
                    print(&format!("stop it: isthmus lab down {name}\n"));
                    return Ok(ExitCode::SUCCESS);
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn pass_on(said: &File, from: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let length = std::os::unix::fs::FileExt::read_at(said, &mut buffer, from)?;
    std::io::stdout().write_all(&buffer[..length])?;
    Ok(u64::try_from(length).unwrap_or(0))
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        let options = Options { topology: self.file, name: self.name };
        let command = self.command;
        if let Err((code, why)) = runnable(&command[0], std::env::var_os("PATH").as_deref()) {
            say(&format!("error: {why}"));
            return ExitCode::from(code);
        }
        with_lab(&options, Duration::from_secs(self.timeout), false, |lab, runtime, stop, _| {
            if let Err(error) = lab.set_ready() {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
            eprintln!(
                "lab {} ready in {:.1}s; running: {}",
                lab.record.name,
                lab.begin.elapsed().as_secs_f64(),
                command.join(" ")
            );
            told(runtime.block_on(run_command(lab, stop, &command)))
        })
    }
}

/// Starts a lab, waits until it is ready, hands it to `then`, and ends it.
fn with_lab(
    options: &Options,
    timeout: Duration,
    keep: bool,
    then: impl FnOnce(&mut Running, &tokio::runtime::Runtime, &Stop, &[PodLine]) -> ExitCode,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(made) => made,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // From here on no signal ends this process before it has cleaned up.
    let stop = match Stop::listen(&runtime) {
        Ok(stop) => stop,
        Err(error) => {
            say(&format!("error: cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // The lab's processes end when the thread that starts them does: so it is this one.
    let mut lab = match Running::start(options, &|| stop.is_told()) {
        Ok(lab) => lab,
        Err(FrontError::Interrupted) => {
            say("interrupted");
            return stop.code();
        }
        Err(FrontError::Topology(diagnostic)) => {
            eprintln!("{diagnostic}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let names: Vec<&str> = lab.topology.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    say(&headline(&lab));
    let progress = Progress::new(&names, lab.begin);
    let messages = lab.messages();
    let outcome = runtime.block_on(wait(&lab, messages, &progress, timeout, &stop));
    let code = match outcome {
        Outcome::Ready(pods) => {
            let steps = progress.finish();
            if std::io::stderr().is_terminal() {
                // The lines that were filled up are gone with the progress; they stay as a table.
                let of = |name: &String| steps.iter().find(|(cluster, _)| cluster == name);
                let rows = lab.record.clusters.iter().filter_map(|cluster| of(&cluster.name));
                let rows: Vec<Vec<String>> =
                    rows.map(|(name, steps)| std::iter::once(name).chain(steps).cloned().collect()).collect();
                say(columns(&rows, "  ").trim_end());
            }
            then(&mut lab, &runtime, &stop, &pods)
        }
        Outcome::Interrupted(code) => {
            let _ = progress.finish();
            say("interrupted: stopping the lab");
            code
        }
        Outcome::TimedOut(lines) => {
            let _ = progress.finish();
            eprintln!("error: not ready after {}s", timeout.as_secs());
            for line in lines {
                eprintln!("  {line}");
            }
            if !keep {
                eprintln!("  once more, kept for a look: isthmus lab up --keep {}", options.topology.display());
            }
            if keep {
                eprintln!("  logs of the lab's own processes: {}/*/*.log", lab.directory.path().display());
                eprintln!("kept for a look: isthmus lab status; Ctrl-C stops the lab");
                if lab.set_ready().is_ok() {
                    runtime.block_on(until_told(&lab, &stop));
                }
            }
            ExitCode::from(TIMED_OUT)
        }
        Outcome::Failed(error) => {
            let _ = progress.finish();
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    };
    runtime.shutdown_background();
    drop(lab);
    code
}

fn headline(lab: &Running) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    format!(
        "lab {}: {}, {}, {}, no Docker",
        lab.record.name,
        count(lab.topology.clusters.len(), "cluster"),
        count(lab.topology.networks.len(), "network"),
        if lab.rootless { "no root" } else { "as root" },
    )
}

async fn wait(
    lab: &Running,
    messages: Option<std::sync::mpsc::Receiver<ToFront>>,
    progress: &Progress,
    timeout: Duration,
    stop: &Stop,
) -> Outcome {
    let clients = match Clients::new(&lab.topology, &lab.kubeconfigs).await {
        Ok(clients) => clients,
        Err(error) => return Outcome::Failed(error.into()),
    };
    let up = async {
        bring_up::bring_up(lab, &clients, progress).await?;
        Ok::<_, BringUpError>(bring_up::pods(&lab.topology, &clients).await)
    };
    let (died, mut deaths) = tokio::sync::mpsc::unbounded_channel();
    if let Some(messages) = messages {
        let directory = lab.directory.clone();
        std::thread::spawn(move || {
            for message in messages {
                if let ToFront::Ended { cluster, process, how } = message {
                    let log = directory.cluster(&cluster).join(format!("{process}.log"));
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = &lines[lines.len().saturating_sub(5)..];
                    let told = format!("{process} of cluster {cluster} ended: {how}\n  {}", last.join("\n  "));
                    let _ = died.send(told);
                }
            }
        });
    }
    tokio::select! {
        up = up => match up {
            Ok(pods) => {
                warn_of_deaths(deaths);
                Outcome::Ready(pods)
            }
            Err(error) => Outcome::Failed(error.into()),
        },
        Some(death) = deaths.recv() => Outcome::Failed(death.into()),
        () = tokio::time::sleep(timeout.saturating_sub(lab.begin.elapsed())) => {
            let lines = tokio::time::timeout(Duration::from_secs(5), bring_up::explain(&lab.topology, &clients, lab.directory.path())).await;
            Outcome::TimedOut(lines.unwrap_or_default())
        }
        code = stop.told() => Outcome::Interrupted(code),
    }
}

/// Tells, from now on, of processes that end.
fn warn_of_deaths(mut deaths: tokio::sync::mpsc::UnboundedReceiver<String>) {
    tokio::spawn(async move {
        while let Some(death) = deaths.recv().await {
            eprintln!("warning: {death}");
        }
    });
}

/// Waits for Ctrl-C, for a signal, or for the end of the lab's first process.
async fn until_told(lab: &Running, stop: &Stop) {
    let gone = async {
        while lab.is_alive() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        say("error: the lab's first process has ended");
    };
    tokio::select! {
        _ = stop.told() => say("stopping the lab"),
        () = gone => {}
    }
}

fn summary(lab: &Running, pods: &[PodLine]) -> String {
    let mut text = String::new();
    let mut rows = vec![["CLUSTER", "ROLE", "NETWORK", "REGION", "GATEWAY", "API"].map(str::to_owned).to_vec()];
    rows.extend(lab.record.clusters.iter().map(|cluster| {
        [&cluster.name, &cluster.role, &cluster.network, &cluster.region, &cluster.gateway, &cluster.api]
            .map(ToOwned::to_owned)
            .to_vec()
    }));
    text.push_str(&columns(&rows, ""));
    let mut rows = vec![["POD", "VERSION", "ZONE", "ADDRESS", "READY"].map(str::to_owned).to_vec()];
    rows.extend(pods.iter().map(|pod| {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            format!("{}/{}/{}", pod.cluster, pod.namespace, pod.name),
            or_dash(&pod.version),
            or_dash(&pod.zone),
            or_dash(&pod.address),
            if pod.ready { "yes" } else { "no" }.to_owned(),
        ]
    }));
    text.push('\n');
    text.push_str(&columns(&rows, ""));
    let took = lab.begin.elapsed().as_secs_f64();
    text.push_str(&format!("\nready in {took:.1}s    Ctrl-C stops the lab\n"));
    if let Some(hint) = hint(&lab.topology) {
        text.push_str(&format!("\ntry: {hint}\n     isthmus status\n"));
    }
    text
}

/// A command that shows something: from a workload to a service that another cluster serves, if there is one.
fn hint(topology: &Topology) -> Option<String> {
    let from = topology.workloads.iter().find(|workload| workload.replicas > 0)?;
    let has_http = |workload: &&crate::topology::Workload| {
        workload.name != from.name && workload.ports.iter().any(|port| port.name.starts_with("http"))
    };
    let elsewhere = topology.workloads.iter().filter(has_http).find(|workload| workload.cluster != from.cluster);
    let to = elsewhere.or_else(|| topology.workloads.iter().find(has_http))?;
    let port = to.ports.iter().find(|port| port.name.starts_with("http"))?.port;
    let host = if to.namespace == from.namespace { to.name.clone() } else { format!("{}.{}", to.name, to.namespace) };
    Some(format!(
        "isthmus lab exec {}/{}/{} -- curl -s http://{host}:{port}/",
        from.cluster, from.namespace, from.deployment
    ))
}

/// Whether `program` can be found and run, before a lab is started for it; else what a shell would exit with, and why.
fn runnable(program: &str, path: Option<&OsStr>) -> Result<(), (u8, String)> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(ToOwned::to_owned));
    let folders = own.into_iter().chain(path.into_iter().flat_map(std::env::split_paths));
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => folders.map(|folder| folder.join(program)).collect(),
    };
    let hint = "the command after -- is a program of this machine with its arguments";
    let found: Vec<&PathBuf> = places.iter().filter(|place| place.is_file()).collect();
    let may_run = |place: &&&PathBuf| rustix::fs::access(place.as_path(), rustix::fs::Access::EXEC_OK).is_ok();
    match (found.first(), found.iter().find(may_run)) {
        (_, Some(_)) => Ok(()),
        (Some(place), None) => Err((126, format!("{} is not executable\n  {hint}", place.display()))),
        (None, None) => Err((127, format!("there is no program {program:?}\n  {hint}"))),
    }
}

/// Runs a command in the lab's surroundings and gives its exit code.
async fn run_command(lab: &Running, stop: &Stop, command: &[String]) -> Result<ExitCode, Failure> {
    let (program, arguments) = command.split_first().ok_or("no command was given")?;
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).envs(lab.environment());
    // So that `isthmus` in the command is this very program.
    if let Some(folder) = std::env::current_exe().ok().and_then(|path| path.parent().map(ToOwned::to_owned)) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(folder).chain(std::env::split_paths(&path));
        child.env("PATH", std::env::join_paths(paths)?);
    }
    let mut child = child.kill_on_drop(true).spawn().map_err(|error| {
        format!("cannot run {program}: {error}\n  the command after -- is a program of this machine with its arguments")
    })?;
    tokio::select! {
        status = child.wait() => Ok(code_of(status?)),
        code = stop.told() => {
            // Ctrl-C and the terminal's end have reached the command too; what was for this process alone is passed on. The
            // command gets a moment to end by itself.
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid.filter(|_| stop.is_for_this_process()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let ended = tokio::time::timeout(Duration::from_secs(3), child.wait()).await;
            Ok(ended.ok().and_then(Result::ok).map_or(code, code_of))
        }
    }
}

fn code_of(status: std::process::ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_crosses_clusters() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies/primary-remote.yaml");
        let topology = Topology::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let hint = hint(&topology).expect("there is something to try");
        assert_eq!(hint, "isthmus lab exec west/default/frontend -- curl -s http://reviews:9080/");
    }

    #[test]
    fn programs_are_looked_for_first() {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join("data"), "").expect("written");
        let code = |program: &str| runnable(program, Some(folder.path().as_os_str())).map_err(|(code, _)| code);
        assert_eq!(runnable("sh", std::env::var_os("PATH").as_deref()), Ok(()));
        assert_eq!(code("/bin/sh"), Ok(()));
        assert_eq!(code("no-such-program"), Err(127));
        assert_eq!(code("/no/such/program"), Err(127));
        assert_eq!(code("data"), Err(126));
    }
}
