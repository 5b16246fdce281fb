//! Processes in pods: namespaces, file trees, exit statuses, users, terminals.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use net::namespace::Namespaces;
use net::namespace::file_tree::{FileTree, MountSource, TreeMount};
use net::process::{
    Exit, Launch, LaunchError, MountNamespace, Process, Program, Signal, Streams, Terminal, User, launch,
};
use tokio::io::AsyncReadExt;

pub(super) const TESTS: &[harness::Test] = &[
    (
        "processes::sockets_of_other_processes_are_not_taken_for_own_ones",
        sockets_of_other_processes_are_not_taken_for_own_ones,
    ),
    ("processes::a_pod_has_its_own_namespaces", a_pod_has_its_own_namespaces),
    ("processes::file_trees_have_replaced_paths", file_trees_have_replaced_paths),
    ("processes::failures_name_the_reason", failures_name_the_reason),
    ("processes::exit_statuses_are_reported", exit_statuses_are_reported),
    ("processes::users_and_capabilities", users_and_capabilities),
    ("processes::terminals_work", terminals_work),
    ("processes::everything_dies_with_the_launcher", everything_dies_with_the_launcher),
];

/// The argument that makes this executable a launcher, which the test kills.
pub(super) const LAUNCHER: &str = "--launcher";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

fn shell(script: &str) -> Launch {
    let mut launch = Launch::new(Program::Named("sh".into()));
    launch.arguments = vec!["-c".into(), script.into()];
    launch.environment = vec![("PATH".into(), "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())];
    launch
}

async fn pod() -> Process {
    let mut pause = Launch::new(Program::Own);
    pause.arguments = vec![net::process::PAUSE.into()];
    pause.make = Namespaces::ALL;
    pause.file_tree = Some(FileTree::default());
    pause.host_name = Some("a-pod".into());
    launch(pause, Streams::none().unwrap()).await.unwrap()
}

/// Runs a process to its end. Returns its output and its exit status.
async fn run(mut wanted: Launch, pod: Option<&Process>) -> (String, Exit) {
    let (mut output, theirs) = std::io::pipe().unwrap();
    let mut streams = Streams::none().unwrap();
    streams.error = OwnedFd::from(theirs.try_clone().unwrap());
    streams.output = OwnedFd::from(theirs);
    if let Some(pod) = pod {
        streams.of = Some(pod.handle().unwrap());
        wanted.join = Namespaces { mount: wanted.file_tree.is_none(), ..Namespaces::ALL };
        wanted.make = Namespaces { mount: wanted.file_tree.is_some(), ..Namespaces::default() };
    }
    let process = launch(wanted, streams).await.unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    });
    (text.await.unwrap(), process.wait().await.unwrap())
}

fn a_pod_has_its_own_namespaces() {
    block_on(async {
        let pod = pod().await;
        let (text, exit) =
            run(shell("hostname; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; cat /proc/net/dev"), Some(&pod)).await;
        assert_eq!(exit, Exit::Code(0), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "a-pod");
        assert_eq!(lines[1], "pause");
        assert!(lines[2].parse::<u32>().unwrap() <= 6, "only processes of the pod are visible: {text}");
        assert!(!text.contains("eth"), "the pod has links of its own");
        pod.kill(Signal::TERM).unwrap();
        assert_eq!(pod.wait().await.unwrap(), Exit::Code(0));
    });
}

fn file_trees_have_replaced_paths() {
    let own = Path::new("/tmp").join(format!("isthmus-view-{}", std::process::id()));
    std::fs::create_dir_all(own.join("volume")).unwrap();
    std::fs::write(own.join("volume/key"), "value").unwrap();
    std::fs::write(own.join("resolv.conf"), "nameserver 10.96.0.10\n").unwrap();
    let host = |name: &str| MountSource::Host(own.join(name));
    let mount = |target: &str, source: MountSource, read_only| TreeMount { target: target.into(), source, read_only };
    block_on(async {
        let pod = pod().await;
        let mut wanted = shell(
            "cat /etc/resolv.conf /etc/no-such/deep/mount/key /var/run/secrets/tokens/key /usr/of-its-own/key; \
             test -e /etc/passwd && test -x /usr/bin/env && echo host; \
             echo x > /etc/no-such/deep/mount/new && echo wrote; echo x 2>&1 > /var/run/secrets/tokens/new || echo refused; \
             touch /scratch/file && ls /scratch; touch /run/mine && echo run; ls /tmp | grep -c isthmus-view; pwd",
        );
        wanted.directory = Some("/work/dir".into());
        wanted.file_tree = Some(FileTree {
            mounts: vec![
                mount("/etc/resolv.conf", host("resolv.conf"), false),
                mount("/etc/no-such/deep/mount", host("volume"), false),
                mount("/var/run/secrets/tokens", host("volume"), true),
                mount("/usr/of-its-own/key", host("volume/key"), true),
                mount("/scratch", MountSource::Memory, false),
                mount("/work", MountSource::Memory, false),
            ],
        });
        let (text, exit) = run(wanted, Some(&pod)).await;
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("Read-only")).collect();
        assert_eq!(exit, Exit::Code(0), "{text}");
        assert_eq!(
            lines,
            ["nameserver 10.96.0.10", "valuevaluevaluehost", "wrote", "refused", "file", "run", "1", "/work/dir"],
            "{text}"
        );
        assert!(own.join("volume/new").exists(), "a volume is written through");
        assert!(!Path::new("/etc/no-such").exists() && !Path::new("/usr/of-its-own").exists(), "the host is untouched");

        let mut wrong = shell("true");
        wrong.file_tree =
            Some(FileTree { mounts: vec![mount("/x", MountSource::Host("/no/such/source".into()), false)] });
        wrong.make = Namespaces { mount: true, ..Namespaces::default() };
        let error = launch(wrong, Streams::none().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/source"), "{error}");
        pod.kill(Signal::KILL).unwrap();
        pod.wait().await.unwrap();
    });
    std::fs::remove_dir_all(own).unwrap();
}

fn failures_name_the_reason() {
    block_on(async {
        let mut missing = shell("");
        missing.program = Program::Named("no-such-program".into());
        let error = launch(missing, Streams::none().unwrap()).await.unwrap_err();
        assert!(matches!(error, LaunchError::Refused(_)));
        assert_eq!(error.to_string(), "exec: \"no-such-program\": executable file not found in $PATH");
        let mut not_executable = shell("");
        not_executable.program = Program::Named("/etc/passwd".into());
        let error = launch(not_executable, Streams::none().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "exec: \"/etc/passwd\": Permission denied (os error 13)");
        let mut joined = shell("");
        joined.join = Namespaces { net: true, ..Namespaces::default() };
        let error = launch(joined, Streams::none().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "the process whose namespaces to join is missing");
    });
}

fn exit_statuses_are_reported() {
    block_on(async {
        let (text, exit) = run(shell("echo to be seen; exit 7"), None).await;
        assert_eq!((text.as_str(), exit), ("to be seen\n", Exit::Code(7)));
        let process = launch(shell("exec sleep 60"), Streams::none().unwrap()).await.unwrap();
        let started = Instant::now();
        process.kill(Signal::KILL).unwrap();
        assert_eq!(process.wait().await.unwrap(), Exit::Signal(9));
        assert_eq!(Exit::Signal(9).code(), 137);
        assert!(started.elapsed() < Duration::from_secs(1));
        process.kill(Signal::KILL).unwrap();

        // The processes that a container leaves behind are killed by its mount namespace; other containers keep running.
        let pod = pod().await;
        let mut wanted = shell("sleep 60 & read line; exit 0");
        wanted.file_tree = Some(FileTree::default());
        let mut other = shell("exec sleep 60");
        other.file_tree = Some(FileTree::default());
        other.make = Namespaces { mount: true, ..Namespaces::default() };
        let other = launch(other, Streams::none().unwrap()).await.unwrap();
        let (theirs, input) = std::io::pipe().unwrap();
        let mut streams = Streams { of: Some(pod.handle().unwrap()), ..Streams::none().unwrap() };
        streams.input = theirs.into();
        wanted.join = Namespaces { mount: false, ..Namespaces::ALL };
        wanted.make = Namespaces { mount: true, ..Namespaces::default() };
        let first = launch(wanted, streams).await.unwrap();
        let id = MountNamespace::of(first.pid()).unwrap();
        drop(input);
        assert_eq!(first.wait().await.unwrap(), Exit::Code(0));
        assert_eq!(id.kill_all(), 1);
        assert_eq!(MountNamespace::of(other.pid()).unwrap().kill_all(), 1);
        assert_eq!(other.wait().await.unwrap(), Exit::Signal(9));
        pod.kill(Signal::KILL).unwrap();
        pod.wait().await.unwrap();
    });
}

fn users_and_capabilities() {
    super::needs_several_users();
    block_on(async {
        let mut wanted = shell("id -u; id -g; grep CapEff /proc/self/status; grep CapAmb /proc/self/status");
        wanted.user = Some(User { uid: 1337, gid: 1337, groups: vec![], capabilities: vec!["NET_ADMIN".into()] });
        let (text, _) = run(wanted, None).await;
        assert_eq!(text, "1337\n1337\nCapEff:\t0000000000001000\nCapAmb:\t0000000000001000\n");
        let mut wrong = shell("");
        wrong.user = Some(User { uid: 1, gid: 1, groups: vec![], capabilities: vec!["FLY".into()] });
        let error = launch(wrong, Streams::none().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "unknown capability \"FLY\"");
    });
}

fn terminals_work() {
    block_on(async {
        let (mut terminal, theirs) = Terminal::open().unwrap();
        terminal.resize(100, 40).unwrap();
        let mut wanted = shell("stty size; tty > /dev/null && echo a terminal; read line; echo got $line");
        wanted.terminal = true;
        let streams = Streams {
            input: theirs.try_clone().unwrap(),
            output: theirs.try_clone().unwrap(),
            error: theirs,
            of: None,
        };
        let process = launch(wanted, streams).await.unwrap();
        // The terminal echoes input. Input is sent after the program has printed its output, so that the echo comes
        // after it.
        let mut said = Vec::new();
        let printed = async {
            while !said.ends_with(b"a terminal\r\n") {
                assert_ne!(terminal.read_buf(&mut said).await.unwrap(), 0, "{said:?}");
            }
        };
        tokio::time::timeout(Duration::from_secs(5), printed).await.unwrap();
        assert_eq!(said, b"40 100\r\na terminal\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut terminal, b"words\n").await.unwrap();
        let mut text = String::new();
        tokio::time::timeout(Duration::from_secs(5), terminal.read_to_string(&mut text)).await.unwrap().unwrap();
        assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
        assert_eq!(text, "words\r\ngot words\r\n");
    });
}

/// Starts a pod with a process, prints their process ids, and waits until it is killed.
pub(super) fn launcher() -> ExitCode {
    block_on(async {
        let pod = pod().await;
        let mut wanted = shell("exec sleep 60");
        wanted.join = Namespaces { net: true, pid: true, ..Namespaces::default() };
        let streams = Streams { of: Some(pod.handle().unwrap()), ..Streams::none().unwrap() };
        let inner = launch(wanted, streams).await.unwrap();
        println!("{} {}", pod.pid(), inner.pid());
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    ExitCode::SUCCESS
}

fn everything_dies_with_the_launcher() {
    let mut launcher = std::process::Command::new("/proc/self/exe")
        .arg(LAUNCHER)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(launcher.stdout.take().unwrap()), &mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    let runs = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
    };
    assert!(pids.iter().all(|pid| runs(*pid)));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < deadline, "still running: {pids:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The child holds the listener as its standard input, as a container of the same pod holds its own.
fn sockets_of_other_processes_are_not_taken_for_own_ones() {
    use std::process::Stdio;

    assert!(!net::socket::are_used_by_others(), "nothing runs in a new network namespace");
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    assert!(!net::socket::are_used_by_others(), "the listener is this process's own");
    let input = Stdio::from(OwnedFd::from(listener));
    let mut child = std::process::Command::new("sleep").arg("60").stdin(input).spawn().unwrap();
    assert!(net::socket::are_used_by_others(), "the child listens");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!net::socket::are_used_by_others(), "the child has ended");
}
