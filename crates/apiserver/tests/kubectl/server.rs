//! A server on loopback, and kubectl with a kubeconfig and cache of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isthmus_apiserver::{Options, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// How long one kubectl may take, on a machine busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The API server of a test, with a simulated node agent.
pub(crate) struct TestServer {
    directory: TempDir,
    stop: CancellationToken,
    log: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// Output and exit code of a kubectl.
#[derive(Debug)]
pub(crate) struct KubectlOutput {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// A running kubectl.
pub(crate) struct RunningKubectl {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// Returns the version of kubectl, or why it cannot be run.
pub(crate) fn kubectl_version() -> Result<String, String> {
    let output = Command::new(program()).args(["version", "--client", "-o", "json"]).output();
    let output = output.map_err(|error| format!("{} cannot be run: {error}", program().display()))?;
    let output: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("kubectl version: {error}"))?;
    Ok(output["clientVersion"]["gitVersion"].as_str().unwrap_or("unknown").to_owned())
}

fn program() -> PathBuf {
    std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from)
}

impl TestServer {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let (mut options, kubeconfig) = Options::for_tests(vec![listener]).expect("a new cluster");
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).expect("the kubeconfig is written");
        let socket = directory.path().join("node.sock");
        options.node_socket = Some(socket.clone());
        let stop = CancellationToken::new();
        let log = Arc::new(Notify::new());
        let (stopped, node_log, ready) = (stop.clone(), Arc::clone(&log), mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let node = Node::listen(&socket, node_log);
                let server = Server::new(options).expect("the server starts");
                ready.0.send(()).expect("the test waits");
                tokio::select! {
                    () = server.run(stopped) => {}
                    () = node.serve() => {}
                }
            });
        });
        ready.1.recv().expect("the server started");
        Self { directory, stop, log, thread: Some(thread) }
    }

    /// Starts a server whose default namespace has its service account, which pods require.
    pub(crate) fn with_account() -> Self {
        let server = Self::start();
        server.kubectl("create serviceaccount default");
        server
    }

    /// Makes the container write the fourth line of its log.
    pub(crate) fn write_log(&self) {
        self.log.notify_one();
    }

    /// Creates a file in the test's directory.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("the file is written");
        path.display().to_string()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("KUBECACHEDIR", self.directory.path().join("cache"))
            .current_dir(self.directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs kubectl with standard input and environment variables.
    pub(crate) fn run(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> KubectlOutput {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied()).stdin(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A kubectl that fails early does not read its input.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let (done, finished) = mpsc::channel();
        let id = child.id();
        std::thread::spawn(move || {
            let _ = done.send(child.wait_with_output());
        });
        let output = finished.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
            let _ = Command::new("kill").arg(id.to_string()).status();
            panic!("kubectl {arguments:?} did not end")
        });
        let output = output.expect("kubectl's output");
        KubectlOutput {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Runs a kubectl that must succeed. Arguments are separated by spaces.
    pub(crate) fn kubectl(&self, arguments: &str) -> String {
        self.kubectl_with(&arguments.split_whitespace().collect::<Vec<_>>(), "")
    }

    /// Runs a kubectl with standard input. It must succeed.
    pub(crate) fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input, &[]);
        assert_eq!(output.code, Some(0), "kubectl {arguments:?} failed: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a kubectl that must fail, and returns its standard error.
    pub(crate) fn refused(&self, arguments: &str, input: &str) -> String {
        let output = self.run(&arguments.split_whitespace().collect::<Vec<_>>(), input, &[]);
        assert_ne!(output.code, Some(0), "kubectl {arguments} succeeded: {}", output.stdout);
        output.stderr
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], manifest)
    }

    /// Reads an object as JSON.
    pub(crate) fn object(&self, what: &str) -> Value {
        let text = self.kubectl(&format!("get {what} -o json"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// Sets the status of an object, as a controller does.
    pub(crate) fn set_status(&self, what: &str, status: &Value) {
        let patch = serde_json::json!({"status": status}).to_string();
        let arguments = ["patch", what, "--subresource=status", "--type=merge", "-p", &patch];
        self.kubectl_with(&arguments, "");
    }

    /// Starts a kubectl in the background.
    pub(crate) fn spawn(&self, arguments: &str) -> RunningKubectl {
        let mut command = self.command(&arguments.split_whitespace().collect::<Vec<_>>());
        let mut child = command.stdin(Stdio::null()).spawn().expect("kubectl runs");
        let (sender, lines) = mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        RunningKubectl { child, lines }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl RunningKubectl {
    /// Waits until kubectl, at verbosity 6, has logged that the server answered its watch.
    pub(crate) fn watches(&self) {
        self.line_where("an answered watch", |line| line.contains("watch=true") && line.contains("200 OK"));
    }

    /// Waits for a line that contains `part`.
    pub(crate) fn line_with(&self, part: &str) -> String {
        self.line_where(part, |line| line.contains(part))
    }

    fn line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if matches(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {what:?} in {seen:?}")
    }

    /// Waits for the exit of kubectl.
    pub(crate) fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("kubectl did not end")
    }
}

impl Drop for RunningKubectl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of each line of a table.
pub(crate) fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}
