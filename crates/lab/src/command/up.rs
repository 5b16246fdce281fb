//! `lab up` and `lab run`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use install::client_error::system;

use super::outcome::{CommandError, TIMED_OUT, exit_code};
use super::print::print;
use super::stop::{StopSignal, print_stderr};
use crate::orchestration::bring_up::{self, BringUpError, PodSummary};
use crate::orchestration::clients::Clients;
use crate::orchestration::init::InitReport;
use crate::orchestration::launcher::{LabOptions, LauncherError, RunningLab};
use crate::orchestration::progress::{BringUpProgress, columns};
use crate::orchestration::state::LabDirectory;
use crate::topology::Topology;

/// Options of `lab up`.
#[derive(Debug, Args)]
pub struct UpOptions {
    /// Topology file
    file: PathBuf,
    /// Name of the lab; otherwise the topology's name
    #[arg(long)]
    name: Option<String>,
    /// Number of seconds to wait until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Return once everything is ready, and leave the lab running until `isthmus lab down`
    #[arg(long, short)]
    detach: bool,
    /// Keep a lab that did not become ready, for inspection
    #[arg(long)]
    keep: bool,
}

/// Options of `lab run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Topology file
    file: PathBuf,
    /// Name of the lab; otherwise the topology's name
    #[arg(long)]
    name: Option<String>,
    /// Number of seconds to wait until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<String>,
}

/// How waiting for a lab's readiness ended.
enum BringUpOutcome {
    Ready(Vec<PodSummary>),
    Interrupted(ExitCode),
    TimedOut(Vec<String>),
    Failed(CommandError),
}

impl UpOptions {
    pub(super) fn run(self) -> ExitCode {
        if self.detach {
            return exit_code(self.detached());
        }
        let options = LabOptions { topology: self.file, name: self.name };
        with_lab(&options, Duration::from_secs(self.timeout), self.keep, |lab, runtime, stop, pods| {
            if let Err(error) = lab.set_ready() {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
            print(&summary(lab, pods));
            runtime.block_on(until_stopped(lab, stop));
            ExitCode::SUCCESS
        })
    }

    /// Runs the lab in a process of its own, copies its output until it is ready, and leaves it running.
    fn detached(self) -> Result<ExitCode, CommandError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => Topology::load(&self.file)?.name,
        };
        // An anonymous file in memory: no log file is left when the lab ends.
        let output = rustix::fs::memfd_create("isthmus-lab", rustix::fs::MemfdFlags::CLOEXEC)?;
        let output = File::from(output);
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["lab", "up", "--name", &name, "--timeout", &self.timeout.to_string()]).arg(&self.file);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?).process_group(0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let stop = StopSignal::listen(&runtime)?;
        let mut child = command.spawn()?;
        let directory = LabDirectory::of(&name);
        let mut shown = 0;
        let mut passed_on = false;
        loop {
            if stop.is_received() && !passed_on {
                passed_on = true;
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    // If the process has just ended, the next iteration reports how.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            let ended = child.try_wait()?;
            let ready = directory.record().is_ok_and(|record| record.ready && record.pid == child.id());
            shown += pass_on(&output, shown)?;
            match ended {
                Some(status) => return Ok(code_of(status)),
                None if ready && !passed_on => {
                    pass_on(&output, shown)?;
                    print(&format!("stop: isthmus lab down {name}\n"));
                    return Ok(ExitCode::SUCCESS);
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn pass_on(output: &File, from: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let length = std::os::unix::fs::FileExt::read_at(output, &mut buffer, from)?;
    std::io::stdout().write_all(&buffer[..length])?;
    Ok(u64::try_from(length).unwrap_or(0))
}

impl RunOptions {
    pub(super) fn run(self) -> ExitCode {
        let options = LabOptions { topology: self.file, name: self.name };
        let command = self.command;
        if let Err((code, why)) = runnable(&command[0], std::env::var_os("PATH").as_deref()) {
            print_stderr(&format!("error: {why}"));
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
            exit_code(runtime.block_on(run_command(lab, stop, &command)))
        })
    }
}

/// Starts a lab, waits until it is ready, calls `then` with it, and stops it.
fn with_lab(
    options: &LabOptions,
    timeout: Duration,
    keep: bool,
    then: impl FnOnce(&mut RunningLab, &tokio::runtime::Runtime, &StopSignal, &[PodSummary]) -> ExitCode,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(made) => made,
        Err(error) => {
            print_stderr(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // From here on no signal ends this process before it has cleaned up.
    let stop = match StopSignal::listen(&runtime) {
        Ok(stop) => stop,
        Err(error) => {
            print_stderr(&format!("error: cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // The lab's processes end with the thread that starts them, so the main thread starts them.
    let mut lab = match RunningLab::start(options, &|| stop.is_received()) {
        Ok(lab) => lab,
        Err(LauncherError::Interrupted) => {
            print_stderr("interrupted");
            return stop.code();
        }
        Err(LauncherError::Topology(diagnostic)) => {
            eprintln!("{diagnostic}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let names: Vec<&str> = lab.topology.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    print_stderr(&headline(&lab));
    let progress = BringUpProgress::new(&names, lab.begin);
    let messages = lab.messages();
    let outcome = runtime.block_on(wait(&lab, messages, &progress, timeout, &stop));
    let code = match outcome {
        BringUpOutcome::Ready(pods) => {
            let steps = progress.finish();
            if std::io::stderr().is_terminal() {
                // The progress lines are cleared; a table keeps their content.
                let of = |name: &String| steps.iter().find(|(cluster, _)| cluster == name);
                let rows = lab.record.clusters.iter().filter_map(|cluster| of(&cluster.name));
                let rows: Vec<Vec<String>> =
                    rows.map(|(name, steps)| std::iter::once(name).chain(steps).cloned().collect()).collect();
                print_stderr(columns(&rows, "  ").trim_end());
            }
            then(&mut lab, &runtime, &stop, &pods)
        }
        BringUpOutcome::Interrupted(code) => {
            let _ = progress.finish();
            print_stderr("interrupted: stopping the lab");
            code
        }
        BringUpOutcome::TimedOut(lines) => {
            let _ = progress.finish();
            eprintln!("error: not ready after {}s", timeout.as_secs());
            for line in lines {
                eprintln!("  {line}");
            }
            if !keep {
                eprintln!("  to inspect it, keep it: isthmus lab up --keep {}", options.topology.display());
            }
            if keep {
                eprintln!("  logs of the lab's processes: {}/*/*.log", lab.directory.path().display());
                eprintln!("the lab is kept; inspect it: isthmus lab status; Ctrl-C stops it");
                if lab.set_ready().is_ok() {
                    runtime.block_on(until_stopped(&lab, &stop));
                }
            }
            ExitCode::from(TIMED_OUT)
        }
        BringUpOutcome::Failed(error) => {
            let _ = progress.finish();
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    };
    runtime.shutdown_background();
    drop(lab);
    code
}

fn headline(lab: &RunningLab) -> String {
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
    lab: &RunningLab,
    messages: Option<std::sync::mpsc::Receiver<InitReport>>,
    progress: &BringUpProgress,
    timeout: Duration,
    stop: &StopSignal,
) -> BringUpOutcome {
    let clients = match Clients::new(&lab.topology, &lab.kubeconfigs).await {
        Ok(clients) => clients,
        Err(error) => return BringUpOutcome::Failed(error.into()),
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
                if let InitReport::Ended { cluster, process, how } = message {
                    let log = directory.cluster(&cluster).join(format!("{process}.log"));
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = &lines[lines.len().saturating_sub(5)..];
                    let message = format!("{process} of cluster {cluster} ended: {how}\n  {}", last.join("\n  "));
                    let _ = died.send(message);
                }
            }
        });
    }
    tokio::select! {
        up = up => match up {
            Ok(pods) => {
                warn_of_deaths(deaths);
                BringUpOutcome::Ready(pods)
            }
            Err(error) => BringUpOutcome::Failed(error.into()),
        },
        Some(death) = deaths.recv() => BringUpOutcome::Failed(death.into()),
        () = tokio::time::sleep(timeout.saturating_sub(lab.begin.elapsed())) => {
            let lines = tokio::time::timeout(Duration::from_secs(5), bring_up::explain(&lab.topology, &clients, lab.directory.path())).await;
            BringUpOutcome::TimedOut(lines.unwrap_or_default())
        }
        code = stop.received() => BringUpOutcome::Interrupted(code),
    }
}

/// Prints a warning for each process that ends.
fn warn_of_deaths(mut deaths: tokio::sync::mpsc::UnboundedReceiver<String>) {
    tokio::spawn(async move {
        while let Some(death) = deaths.recv().await {
            eprintln!("warning: {death}");
        }
    });
}

/// Waits for a signal, or for the end of the lab's first process.
async fn until_stopped(lab: &RunningLab, stop: &StopSignal) {
    let gone = async {
        while lab.is_alive() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        print_stderr("error: the lab's first process has ended, and with it the lab");
    };
    tokio::select! {
        _ = stop.received() => print_stderr("stopping the lab"),
        () = gone => {}
    }
}

fn summary(lab: &RunningLab, pods: &[PodSummary]) -> String {
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

/// Returns a command to try: a call from a workload to a service, in another cluster if there is one.
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

/// Checks that `program` exists and is executable, before a lab is started for it. The error has the exit code of a
/// shell.
fn runnable(program: &str, path: Option<&OsStr>) -> Result<(), (u8, String)> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(ToOwned::to_owned));
    let folders = own.into_iter().chain(path.into_iter().flat_map(std::env::split_paths));
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => folders.map(|folder| folder.join(program)).collect(),
    };
    let hint = "after -- write a program of this machine and its arguments";
    let found: Vec<&PathBuf> = places.iter().filter(|place| place.is_file()).collect();
    let may_run = |place: &&&PathBuf| rustix::fs::access(place.as_path(), rustix::fs::Access::EXEC_OK).is_ok();
    match (found.first(), found.iter().find(may_run)) {
        (_, Some(_)) => Ok(()),
        (Some(place), None) => Err((126, format!("{} is not executable\n  {hint}", place.display()))),
        (None, None) => Err((127, format!("program \"{program}\" is not found\n  {hint}"))),
    }
}

/// Runs a command with the lab's environment and returns its exit code.
async fn run_command(lab: &RunningLab, stop: &StopSignal, command: &[String]) -> Result<ExitCode, CommandError> {
    let (program, arguments) = command.split_first().ok_or("no command is given")?;
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).envs(lab.environment());
    // `isthmus` in the command is this program.
    if let Some(folder) = std::env::current_exe().ok().and_then(|path| path.parent().map(ToOwned::to_owned)) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(folder).chain(std::env::split_paths(&path));
        child.env("PATH", std::env::join_paths(paths)?);
    }
    let mut child = child.kill_on_drop(true).spawn().map_err(|error| {
        format!(
            "cannot run {program}: {}\n  after -- write a program of this machine and its arguments",
            system(&error)
        )
    })?;
    tokio::select! {
        status = child.wait() => Ok(code_of(status?)),
        code = stop.received() => {
            // Ctrl-C and the end of the terminal reach the command as well; a signal for this process only is passed
            // on. The command has a moment to end by itself.
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
    fn a_missing_program_is_found_before_a_lab_starts() {
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
