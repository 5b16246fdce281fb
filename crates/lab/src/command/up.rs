//! `lab up` and `lab run`.

mod background;

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use install::client_error::system;

use super::outcome::{CommandError, exit_code, explain};
use super::ports::ports_table;
use super::selection::option_of;
use super::stop::StopSignal;
use crate::console::{TIMED_OUT, print, print_stderr};
use crate::orchestration::bring_up::{self, BringUpError, PodSummary};
use crate::orchestration::clients::Clients;
use crate::orchestration::init::InitReport;
use crate::orchestration::launcher::{LabOptions, LauncherError, RunningLab};
use crate::orchestration::progress::{BringUpProgress, columns};
use crate::orchestration::state::{LabName, LabState};
use crate::topology::{Diagnostic, Topology};

/// Options of `lab up`.
#[derive(Debug, Args)]
pub struct UpOptions {
    /// Topology file
    file: PathBuf,
    /// Name of the lab; otherwise the topology's name
    #[arg(long)]
    name: Option<LabName>,
    /// Number of seconds to wait until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Return once everything is ready, and leave the lab running until `isthmus lab down`
    #[arg(long, short)]
    detach: bool,
    /// Keep a lab that did not become ready, for inspection
    #[arg(long)]
    keep: bool,
    /// This process was started by `--detach`, so that no Ctrl-C reaches it
    #[arg(long, hide = true, conflicts_with = "detach")]
    background: bool,
}

/// Options of `lab run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Topology file
    file: PathBuf,
    /// Name of the lab; otherwise the topology's name
    #[arg(long)]
    name: Option<LabName>,
    /// Number of seconds to wait until everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<String>,
}

/// A lab to start.
struct LabStart {
    options: LabOptions,
    /// How long to wait until it is ready.
    timeout: Duration,
    /// Whether to keep it if it does not become ready.
    keep: bool,
    /// Whether it runs without a terminal.
    background: bool,
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
            return exit_code(background::start(&self));
        }
        let start = LabStart {
            options: LabOptions { topology: self.file, name: self.name },
            timeout: Duration::from_secs(self.timeout),
            keep: self.keep,
            background: self.background,
        };
        with_lab(&start, |lab, runtime, stop, pods| {
            if let Err(error) = announce(lab, pods, self.background) {
                return exit_code(Err(error));
            }
            runtime.block_on(until_stopped(lab, stop));
            ExitCode::SUCCESS
        })
    }
}

/// Records that a lab is ready, and prints its clusters and pods.
fn announce(lab: &mut RunningLab, pods: &[PodSummary], background: bool) -> Result<(), CommandError> {
    let text = summary(lab, pods, &how_to_stop(&lab.record.name, background));
    // The process that waits for a lab in the background returns when it reads the state, and has to print everything
    // before; a user of any other lab may ask for the state as soon as the text appears.
    if background {
        print(&text)?;
        lab.set_state(LabState::Ready)?;
    } else {
        lab.set_state(LabState::Ready)?;
        print(&text)?;
    }
    Ok(())
}

/// Returns what stops a lab.
fn how_to_stop(name: &LabName, background: bool) -> String {
    match background {
        true => format!("stop: isthmus lab down {name}"),
        false => "Ctrl-C stops the lab".to_owned(),
    }
}

fn report_topology(diagnostic: &Diagnostic) -> ExitCode {
    print_stderr(&diagnostic.to_string());
    ExitCode::FAILURE
}

impl RunOptions {
    pub(super) fn run(self) -> ExitCode {
        let start = LabStart {
            options: LabOptions { topology: self.file, name: self.name },
            timeout: Duration::from_secs(self.timeout),
            keep: false,
            background: false,
        };
        let command = self.command;
        if let Err((code, why)) = runnable(&command[0], std::env::var_os("PATH").as_deref()) {
            print_stderr(&format!("error: {why}"));
            return ExitCode::from(code);
        }
        with_lab(&start, |lab, runtime, stop, _| {
            if let Err(error) = lab.set_state(LabState::Ready) {
                return exit_code(Err(error.into()));
            }
            let took = lab.begin.elapsed().as_secs_f64();
            print_stderr(&format!("lab {} ready in {took:.1}s; running: {}", lab.record.name, command.join(" ")));
            exit_code(runtime.block_on(run_command(lab, stop, &command)))
        })
    }
}

/// Starts a lab, waits until it is ready, calls `then` with it, and stops it.
fn with_lab(
    start: &LabStart,
    then: impl FnOnce(&mut RunningLab, &tokio::runtime::Runtime, &StopSignal, &[PodSummary]) -> ExitCode,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(made) => made,
        Err(error) => return exit_code(Err(error.into())),
    };
    // From here on no signal ends this process before it has cleaned up.
    let stop = match StopSignal::listen(&runtime) {
        Ok(stop) => stop,
        Err(error) => {
            print_stderr(&format!("error: cannot listen for signals: {}", system(&error)));
            return ExitCode::FAILURE;
        }
    };
    // The lab's processes end with the thread that starts them, so the main thread starts them.
    let mut lab = match RunningLab::start(&start.options, &|| stop.is_received()) {
        Ok(lab) => lab,
        Err(LauncherError::Interrupted) => {
            print_stderr("interrupted");
            return stop.code();
        }
        Err(LauncherError::Topology(diagnostic)) => return report_topology(&diagnostic),
        Err(error) => {
            print_stderr(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let names: Vec<&str> = lab.topology.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    print_stderr(&headline(&lab));
    let progress = BringUpProgress::new(&names, lab.begin);
    let messages = lab.messages();
    let outcome = runtime.block_on(wait(&lab, messages, &progress, start.timeout, &stop));
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
            print_stderr(&format!("error: not ready after {}s", start.timeout.as_secs()));
            for line in lines {
                print_stderr(&format!("  {line}"));
            }
            keep(&mut lab, start, LabState::TimedOut, &runtime, &stop);
            ExitCode::from(TIMED_OUT)
        }
        BringUpOutcome::Failed(error) => {
            let _ = progress.finish();
            print_stderr(&format!("error: {}", explain(&error)));
            keep(&mut lab, start, LabState::Failed, &runtime, &stop);
            ExitCode::FAILURE
        }
    };
    runtime.shutdown_background();
    drop(lab);
    code
}

/// Keeps a lab that did not become ready until it is stopped, if that is wanted; otherwise says how to keep it.
fn keep(lab: &mut RunningLab, start: &LabStart, state: LabState, runtime: &tokio::runtime::Runtime, stop: &StopSignal) {
    if !start.keep {
        print_stderr(&format!("  to inspect it, keep it: isthmus lab up --keep {}", start.options.topology.display()));
        return;
    }
    let name = lab.record.name.clone();
    print_stderr(&format!("  logs of the lab's processes: {}/*/*.log", lab.directory.path().display()));
    print_stderr(&format!("the lab is kept; inspect it: isthmus lab status {name}"));
    print_stderr(&how_to_stop(&name, start.background));
    match lab.set_state(state) {
        Ok(()) => runtime.block_on(until_stopped(lab, stop)),
        Err(error) => print_stderr(&format!("error: {error}")),
    }
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
        std::thread::spawn(move || {
            for message in messages {
                if let InitReport::Ended { process, log, how } = message {
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = &lines[lines.len().saturating_sub(5)..];
                    let message = format!("{process} ended: {how}\n  {}", last.join("\n  "));
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
            BringUpOutcome::TimedOut(lines.unwrap_or_else(|_| vec!["the API servers do not answer".to_owned()]))
        }
        code = stop.received() => BringUpOutcome::Interrupted(code),
    }
}

/// Prints a warning for each process that ends.
fn warn_of_deaths(mut deaths: tokio::sync::mpsc::UnboundedReceiver<String>) {
    tokio::spawn(async move {
        while let Some(death) = deaths.recv().await {
            print_stderr(&format!("warning: {death}"));
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

fn summary(lab: &RunningLab, pods: &[PodSummary], stop: &str) -> String {
    let mut text = String::new();
    let mut rows = vec![["CLUSTER", "ROLE", "NETWORK", "REGION", "GATEWAY", "API"].map(str::to_owned).to_vec()];
    rows.extend(lab.record.clusters.iter().map(|cluster| {
        [&cluster.name, &cluster.role, &cluster.network, &cluster.region, &cluster.gateway, &cluster.api]
            .map(ToOwned::to_owned)
            .to_vec()
    }));
    text.push_str(&columns(&rows, ""));
    if let Some(ports) = ports_table(&lab.record) {
        text.push('\n');
        text.push_str(&ports);
    }
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
    text.push_str(&format!("\nready in {took:.1}s    {stop}\n"));
    let option = option_of(&lab.record.name);
    if let Some(hint) = hint(&lab.topology, &option) {
        text.push_str(&format!("\ntry: {hint}\n     isthmus status{option}\n"));
        if let Some(issuer) = lab.topology.issuers.first() {
            text.push_str(&format!("     isthmus lab token{option} --issuer {} --subject alice\n", issuer.host));
        }
    }
    text
}

/// Returns a command to try: a call from a workload to a service, in another cluster if there is one.
fn hint(topology: &Topology, option: &str) -> Option<String> {
    let from = topology.workloads.iter().find(|workload| workload.replicas > 0)?;
    let has_http = |workload: &&crate::topology::Workload| {
        workload.name != from.name && workload.ports.iter().any(|port| port.name.starts_with("http"))
    };
    let elsewhere = topology.workloads.iter().filter(has_http).find(|workload| workload.cluster != from.cluster);
    let to = elsewhere.or_else(|| topology.workloads.iter().find(has_http))?;
    let port = to.ports.iter().find(|port| port.name.starts_with("http"))?.port;
    let host = if to.namespace == from.namespace { to.name.clone() } else { format!("{}.{}", to.name, to.namespace) };
    Some(format!(
        "isthmus lab exec {}/{}/{}{option} -- curl -s http://{host}:{port}/",
        from.cluster, from.namespace, from.controller_name
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
    use super::super::selection::option_among;
    use super::*;

    #[test]
    fn the_hint_crosses_clusters() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies/primary-remote.yaml");
        let topology = Topology::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let hint = |running: usize| {
            let option = option_among(&"mesh".parse().expect("a name"), running);
            hint(&topology, &option).expect("there is something to try")
        };
        assert_eq!(hint(1), "isthmus lab exec west/default/frontend -- curl -s http://reviews:9080/");
        assert_eq!(hint(2), "isthmus lab exec west/default/frontend --lab mesh -- curl -s http://reviews:9080/");
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
