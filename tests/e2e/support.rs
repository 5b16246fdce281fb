//! Labs for tests: started by the `isthmus` command, as root or as an ordinary user, and removed afterwards.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a lab may take to become ready in a test, with programs that are not optimised.
const READY: Duration = Duration::from_secs(180);

/// The ordinary user if the tests run as root.
const NOBODY: u32 = 65534;

/// The user that runs a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// The user that runs the tests.
    Own,
    /// An ordinary user, if the tests run as root.
    Ordinary,
}

impl User {
    /// The users that labs must work for.
    pub(crate) fn all() -> Vec<User> {
        if is_root() { vec![User::Own, User::Ordinary] } else { vec![User::Own] }
    }

    /// The users of checks that take most of a minute: the ordinary one, who has fewer rights; all of them with
    /// `ISTHMUS_TEST_USERS=all`, as in `.ci/full`.
    pub(crate) fn of_long_checks() -> Vec<User> {
        let mut users = User::all();
        if !std::env::var("ISTHMUS_TEST_USERS").is_ok_and(|users| users == "all") {
            users.drain(..users.len() - 1);
        }
        users
    }
}

/// A command's outcome, as text.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Returns the standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "failed\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Returns the standard output of a command that must succeed, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON: {error}\n{text}"))
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The directory of a test's command and labs, readable by the user that runs them.
pub(crate) struct TestDirectory {
    temporary: tempfile::TempDir,
    pub(crate) user: User,
    // Labs are large: one test at a time runs one.
    _turn: MutexGuard<'static, ()>,
}

/// Copies the files of a directory and of the directories in it.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let copy = to.join(entry.file_name());
        match entry.file_type().expect("its type").is_dir() {
            true => copy_directory(&entry.path(), &copy),
            false => drop(std::fs::copy(entry.path(), copy).expect("a copy")),
        }
    }
}

impl TestDirectory {
    pub(crate) fn new(user: User) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let temporary = tempfile::Builder::new().prefix("isthmus-e2e-").tempdir().expect("a temporary directory");
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
        mode(temporary.path(), 0o755);
        let directory = TestDirectory { temporary, user, _turn: turn };
        std::fs::copy(env!("CARGO_BIN_EXE_isthmus"), directory.binary()).expect("a copy of the command");
        mode(&directory.binary(), 0o755);
        std::fs::create_dir(directory.path("run")).expect("a directory");
        copy_directory(&topologies(), &directory.path("topologies"));
        if user == User::Ordinary && is_root() {
            std::os::unix::fs::chown(directory.path("run"), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        directory
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn binary(&self) -> PathBuf {
        self.path("isthmus")
    }

    /// The `isthmus` command, as the lab's user.
    pub(crate) fn isthmus(&self) -> Command {
        self.program(&self.binary())
    }

    /// A program, as the lab's user and with its environment.
    pub(crate) fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.temporary.path())
            .env("ISTHMUS_RUNTIME_DIR", self.path("run"))
            .env("HOME", self.path("run"))
            .env_remove("KUBECONFIG")
            .env_remove("ISTHMUS_LAB")
            .stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.temporary.path().display()));
        if self.user == User::Ordinary && is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Returns the running processes of the copied command.
    pub(crate) fn processes(&self) -> Vec<String> {
        let binary = self.binary();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            if std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == binary) {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Asserts that no process and no file of a lab remains.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let processes = eventually(Duration::from_secs(10), || {
            let processes = self.processes();
            if processes.is_empty() { Ok(()) } else { Err(processes) }
        });
        assert!(processes.is_ok(), "processes left: {:#?}", processes);
        let labs = self.path("run").join("labs");
        let left: Vec<_> =
            std::fs::read_dir(&labs).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default();
        assert!(left.is_empty(), "files left: {left:?}");
    }
}

/// A running lab, which is stopped when dropped.
pub(crate) struct Lab {
    pub(crate) directory: TestDirectory,
    launcher: Child,
    pub(crate) ready_after: Duration,
    output: Arc<Mutex<String>>,
}

impl Lab {
    /// Starts a lab from one of the repository's topologies.
    pub(crate) fn up(topology: &str, user: User) -> Self {
        Self::up_in(TestDirectory::new(user), topology)
    }

    pub(crate) fn up_in(directory: TestDirectory, topology: &str) -> Self {
        let started = Instant::now();
        let mut launcher = directory
            .isthmus()
            .args(["lab", "up", &format!("topologies/{topology}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("isthmus lab up");
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, ready) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(launcher.stdout.take().expect("piped")), Box::new(launcher.stderr.take().expect("piped"))];
        for stream in streams {
            let (sender, output) = (sender.clone(), output.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let is_ready = line.starts_with("ready in");
                    let mut output = output.lock().expect("output");
                    output.push_str(&line);
                    output.push('\n');
                    if is_ready {
                        sender.send(()).ok();
                    }
                }
            });
        }
        drop(sender);
        let mut lab = Lab { directory, launcher, ready_after: Duration::ZERO, output };
        if ready.recv_timeout(READY).is_err() {
            let diagnosis = lab.diagnosis();
            panic!("lab {topology} is not ready after {:?}\n{diagnosis}", started.elapsed());
        }
        lab.ready_after = started.elapsed();
        println!("lab {topology} ready in {:.1}s as {:?}", lab.ready_after.as_secs_f64(), lab.directory.user);
        lab
    }

    /// Returns the output of the lab.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("output").clone()
    }

    fn diagnosis(&mut self) -> String {
        let mut text = self.output();
        if let Ok(output) = self.directory.isthmus().args(["lab", "status", "-o", "wide"]).output() {
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        for log in logs_below(&self.directory.path("run").join("labs")) {
            text.push_str(&format!("\n== {}\n", log.display()));
            let content = std::fs::read_to_string(&log).unwrap_or_default();
            // Successful requests do not explain a failure.
            let lines: Vec<_> = content.lines().filter(|line| !line.contains("\" 200 ")).collect();
            text.extend(lines.iter().skip(lines.len().saturating_sub(8)).map(|line| format!("{line}\n")));
        }
        text
    }

    /// `isthmus ARGS` as the lab's user.
    pub(crate) fn isthmus(&self, arguments: &[&str]) -> Outcome {
        self.directory.isthmus().args(arguments).output().expect("isthmus").into()
    }

    /// `isthmus lab kubectl CLUSTER -- ARGS`.
    pub(crate) fn kubectl(&self, cluster: &str, arguments: &[&str]) -> Outcome {
        self.isthmus(&[&["lab", "kubectl", cluster, "--"][..], arguments].concat())
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, cluster: &str, manifest: &str) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        std::fs::write(file.path(), manifest).expect("written");
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).expect("chmod");
        self.kubectl(cluster, &["apply", "-f", &file.path().display().to_string()]).ok();
    }

    /// Runs a command in a pod, as `isthmus lab exec` does.
    pub(crate) fn exec(&self, target: &str, command: &[&str]) -> Outcome {
        self.isthmus(&[&["lab", "exec", target, "--"][..], command].concat())
    }

    /// Returns a service's response to a caller in a pod.
    pub(crate) fn get(&self, target: &str, url: &str) -> Result<Value, String> {
        let outcome = self.exec(target, &["curl", "-sS", "--fail", "--max-time", "5", url]);
        match outcome.code {
            Some(0) => serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error}: {}", outcome.stdout)),
            _ => Err(format!("{:?} {} {}", outcome.code, outcome.stdout, outcome.stderr)),
        }
    }

    /// Stops the lab as Ctrl-C does, and asserts that nothing of it remains.
    pub(crate) fn down(mut self) {
        self.interrupt();
        self.directory.assert_nothing_left();
    }

    /// Sends SIGINT, as a terminal does for Ctrl-C, and waits.
    pub(crate) fn interrupt(&mut self) {
        signal(&self.launcher, "INT");
        let ended = eventually(Duration::from_secs(20), || match self.launcher.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(ended.is_ok(), "the lab did not end after Ctrl-C: {ended:?}\n{}", self.output());
    }

    /// Kills the lab's launcher.
    pub(crate) fn kill(&mut self) {
        self.launcher.kill().expect("killed");
        self.launcher.wait().expect("waited");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if matches!(self.launcher.try_wait(), Ok(Some(_))) {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.diagnosis());
        }
        signal(&self.launcher, "INT");
        if eventually(Duration::from_secs(20), || self.launcher.try_wait().ok().flatten().ok_or(())).is_err() {
            self.launcher.kill().ok();
            self.launcher.wait().ok();
        }
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    Command::new("kill").args([&format!("-{name}"), pid.as_str()]).status().expect("kill");
}

fn logs_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                Ok(kind) if kind.is_file() && path.extension().is_some_and(|extension| extension == "log") => {
                    found.push(path)
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Repeats `attempt` until it succeeds or the limit is over; then returns the last failure.
pub(crate) fn eventually<T, E>(limit: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Panics with advice if kubectl is missing: the tests inspect and change labs with it.
pub(crate) fn kubectl_is_installed() {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get_or_init(|| Command::new("kubectl").args(["version", "--client"]).output().is_ok());
    assert!(*found, "kubectl is not installed. The end-to-end tests use it: https://kubernetes.io/docs/tasks/tools/");
}

fn topologies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies")
}

pub(crate) fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| {
        let output = Command::new("id").arg("-u").output().expect("id");
        output.stdout.trim_ascii() == b"0"
    })
}
