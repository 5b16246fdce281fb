//! Output, exit codes and errors of the other commands.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;

use crate::support::{Lab, Outcome, TestDirectory, User, eventually, kubectl_is_installed};

const WRONG_USAGE: Option<i32> = Some(2);
const TIMED_OUT: Option<i32> = Some(3);
const PANICKED: Option<i32> = Some(101);

fn isthmus(directory: &TestDirectory, arguments: &[&str]) -> Outcome {
    directory.isthmus().args(arguments).output().expect("isthmus").into()
}

/// Asserts that a command fails with this code, and prints all of this to stderr and nothing to stdout.
#[track_caller]
fn fails(directory: &TestDirectory, arguments: &[&str], code: Option<i32>, parts: &[&str]) {
    let Outcome { code: found, stdout, stderr } = isthmus(directory, arguments);
    let said = format!("$ isthmus {}\n{stdout}{stderr}", arguments.join(" "));
    println!("{said}");
    assert_eq!(found, code, "{said}");
    assert_eq!(stdout, "", "an error goes to stderr: {said}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!stderr.contains("panicked"), "{said}");
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn every_command_has_help() {
    let directory = TestDirectory::new(User::Own);
    let mut open = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = isthmus(&directory, &arguments).ok();
        seen += 1;
        has(&help, &["Usage: isthmus", "-h, --help"]);
        let first = help.lines().next().unwrap_or_default();
        assert!(first.starts_with(char::is_uppercase) && !first.ends_with('.'), "{arguments:?}: {first:?}");
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        for line in commands {
            // A long description continues in a line with a larger indent.
            let Some(line) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let (name, about) = line.split_once(' ').unwrap_or((line, ""));
            let about = about.trim();
            assert!(about.is_empty() || about.starts_with(char::is_uppercase), "{arguments:?}: {line:?}");
            if name != "help" {
                open.push(path.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    assert!(seen >= 20, "only {seen} commands were found");
    fails(&directory, &["bogus"], WRONG_USAGE, &["unrecognized subcommand 'bogus'", "--help"]);
    fails(&directory, &[], WRONG_USAGE, &["Usage: isthmus <COMMAND>", "isthmus lab up"]);
}

#[test]
fn versions_and_completions_are_printed() {
    let directory = TestDirectory::new(User::Own);
    let text = isthmus(&directory, &["version"]).ok();
    assert!(text.starts_with("isthmus ") && text.contains("Kubernetes API"), "{text}");
    let version = isthmus(&directory, &["version", "-o", "json"]).json();
    assert!(text.contains(version["isthmus"].as_str().expect("a version")), "{version}");
    has(&isthmus(&directory, &["version", "-o", "yaml"]).ok(), &["isthmus: ", "platform: "]);
    has(&isthmus(&directory, &["completion", "bash"]).ok(), &["complete -F _isthmus", "kubeconfig"]);
    has(&isthmus(&directory, &["completion", "zsh"]).ok(), &["#compdef isthmus", "kubeconfig"]);
    has(&isthmus(&directory, &["completion", "fish"]).ok(), &["complete -c isthmus", "kubeconfig"]);
    for shell in ["bash", "zsh", "fish"] {
        let script = isthmus(&directory, &["completion", shell]).ok();
        assert!(!script.contains("lab-init"), "{shell} offers what is for the lab itself");
    }
    fails(&directory, &["completion", "cmd"], WRONG_USAGE, &["possible values: bash"]);
}

#[test]
fn authorities_chain() {
    let directory = TestDirectory::new(User::Own);
    fails(
        &directory,
        &["ca", "intermediate", "-c", "west", "-d", "certs"],
        Some(1),
        &["certs/root-cert.pem", "isthmus ca root"],
    );
    has(
        &isthmus(&directory, &["ca", "root", "-d", "certs"]).ok(),
        &["certs/root-cert.pem", "next: isthmus ca intermediate"],
    );
    fails(&directory, &["ca", "root", "-d", "certs"], Some(1), &["already exists", "--force"]);
    for cluster in ["west", "east"] {
        has(
            &isthmus(&directory, &["ca", "intermediate", "-c", cluster, "-d", "certs"]).ok(),
            &["next: kubectl create secret"],
        );
    }
    fails(&directory, &["ca", "intermediate", "-c", "West", "-d", "certs"], Some(1), &["\"West\"", "lower-case"]);
    fails(&directory, &["ca", "root", "--validity", "soon"], WRONG_USAGE, &["soon", "365d"]);
    let secret = isthmus(&directory, &["ca", "intermediate", "-c", "mid", "-d", "certs", "--secret", "--remote"]).ok();
    has(&secret, &["kind: Secret", "name: cacerts-mid", "namespace: istio-system", "cert-chain.pem"]);

    let verify = |certificate: &str| {
        let mut command = directory.program(Path::new("openssl"));
        command.args(["verify", "-x509_strict", "-CAfile", "certs/root-cert.pem", certificate]);
        command.output().map(Outcome::from)
    };
    match verify("certs/west/ca-cert.pem") {
        Err(error) => println!("openssl cannot be run, so the certificates are not verified with it: {error}"),
        Ok(west) => {
            has(&west.ok(), &["certs/west/ca-cert.pem: OK"]);
            has(&verify("certs/east/ca-cert.pem").expect("openssl").ok(), &["OK"]);
        }
    }
}

#[test]
fn without_a_lab_every_command_describes_how_to_start_one() {
    let directory = TestDirectory::new(User::Own);
    let start = "isthmus lab up topologies/primary-remote.yaml";
    for arguments in [
        &["lab", "exec", "west/default/frontend", "--", "true"][..],
        &["lab", "logs", "west/default/frontend"],
        &["lab", "kubectl", "west", "--", "get", "pods"],
        &["lab", "kubeconfig", "west"],
        &["lab", "fault", "kill-api", "east"],
        &["status"],
        &["status", "--lab"],
    ] {
        fails(&directory, arguments, Some(1), &["error: ", start]);
    }
    has(&isthmus(&directory, &["lab", "status"]).ok(), &["no lab is running", start]);
    assert_eq!(isthmus(&directory, &["lab", "status", "-o", "json"]).json()["labs"], Value::Array(Vec::new()));
    isthmus(&directory, &["lab", "down"]).ok();
    fails(&directory, &["lab", "exec", "frontend", "--", "true"], WRONG_USAGE, &["CLUSTER/NAMESPACE/POD"]);
    fails(&directory, &["join", "--kubeconfig", "missing", "prod"], Some(1), &["error: ", "missing"]);
}

#[test]
fn only_valid_names_are_accepted_and_only_labs_are_removed() {
    let directory = TestDirectory::new(User::Own);
    for folder in ["run/precious", "run/labs/precious"] {
        std::fs::create_dir_all(directory.path(folder)).expect("a folder");
        std::fs::write(directory.path(folder).join("file"), "precious").expect("written");
    }
    std::os::unix::fs::symlink(directory.path("run/precious"), directory.path("run/labs/link")).expect("a link");
    let topology = "topologies/primary-remote.yaml";
    for name in ["../precious", "Bad Name", ".", "a/b", "-a"] {
        let invalid = ["is not a valid lab name (lower-case letters, digits and dashes"];
        let named = format!("--name={name}");
        fails(&directory, &["lab", "down", "--", name], WRONG_USAGE, &invalid);
        fails(&directory, &["lab", "up", topology, &named], WRONG_USAGE, &invalid);
        fails(&directory, &["lab", "run", topology, &named, "--", "true"], WRONG_USAGE, &invalid);
        fails(&directory, &["lab", "status", "--", name], WRONG_USAGE, &invalid);
        fails(&directory, &["status", &format!("--lab={name}")], WRONG_USAGE, &invalid);
        let of_environment = directory.isthmus().args(["lab", "kubeconfig"]).env("ISTHMUS_LAB", name).output();
        assert_eq!(of_environment.expect("isthmus").status.code(), WRONG_USAGE, "ISTHMUS_LAB={name}");
    }
    for (name, why) in [("precious", ".isthmus-lab"), ("link", "symbolic link")] {
        let refused = ["is not the directory of a lab", why, "nothing is removed"];
        fails(&directory, &["lab", "down", name], Some(1), &refused);
    }
    fails(&directory, &["lab", "up", topology, "--name", "link"], Some(1), &["link"]);
    for file in ["run/precious/file", "run/labs/precious/file", "run/labs/link"] {
        assert!(directory.path(file).exists(), "{file} is gone");
    }
    fails(&directory, &["status", "--namespace", "../x"], WRONG_USAGE, &["not a valid namespace name"]);
    fails(&directory, &["lab", "exec", "west/../frontend", "--", "true"], WRONG_USAGE, &["CLUSTER/NAMESPACE/POD"]);
}

/// Runs a command whose output nobody reads, and asserts that it ends quietly.
#[track_caller]
fn ends_quietly_unread(directory: &TestDirectory, arguments: &[&str]) {
    let unread = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let output = directory.isthmus().args(arguments).stdout(unread()).output().expect("isthmus");
    let Outcome { code, stderr, .. } = output.into();
    assert_ne!(code, PANICKED, "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("roken pipe"), "{arguments:?}: {stderr}");
    let both = directory.isthmus().args(arguments).stdout(unread()).stderr(unread()).output().expect("isthmus");
    assert_ne!(both.status.code(), PANICKED, "{arguments:?}");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let directory = TestDirectory::new(User::Own);
    for arguments in [
        &["--help"][..],
        &["version"],
        &["version", "-o", "yaml"],
        &["completion", "bash"],
        &["ca", "root", "-d", "certs", "--force"],
        &["ca", "intermediate", "-c", "west", "-d", "certs", "--force"],
        &["ca", "intermediate", "-c", "west", "-d", "certs", "--secret"],
        &["lab", "status"],
        &["lab", "status", "-o", "json"],
        &["lab", "down"],
        &["lab", "up", "absent.yaml"],
        &["lab", "up", "--detach", "absent.yaml"],
        &["status"],
        &["join", "--kubeconfig", "missing", "prod"],
        &["bogus"],
    ] {
        ends_quietly_unread(&directory, arguments);
    }
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output: Outcome = directory.isthmus().arg("version").stdout(full).output().expect("isthmus").into();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("standard output cannot be written: no space left"), "{output:?}");
}

/// Stops all labs of a directory when dropped: those in the background do not end with their test.
struct StopsLabs<'a>(&'a TestDirectory);

impl Drop for StopsLabs<'_> {
    fn drop(&mut self) {
        isthmus(self.0, &["lab", "down", "--all"]);
    }
}

/// A topology of one cluster with a workload that never becomes ready.
fn never_ready(directory: &TestDirectory) {
    let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: [{name: west, role: primary}]\n  \
                workloads: [{name: broken, cluster: west, kind: command, command: [/no/such/program]}]\n";
    std::fs::write(directory.path("topologies/never-ready.yaml"), text).expect("written");
}

#[test]
fn a_lab_that_does_not_become_ready_is_kept_only_if_that_is_wanted() {
    let directory = TestDirectory::new(User::Own);
    let _labs = StopsLabs(&directory);
    never_ready(&directory);
    let up = ["lab", "up", "topologies/never-ready.yaml", "--detach", "--timeout", "6"];
    fails(&directory, &up, TIMED_OUT, &["not ready after 6s", "west/default/broken", "isthmus lab up --keep"]);
    directory.assert_nothing_left();

    let keep = [&up[..], &["--keep"]].concat();
    let kept = ["not ready after 6s", "the lab is kept; inspect it: isthmus lab status never-ready"];
    fails(&directory, &keep, TIMED_OUT, &kept);
    let status = isthmus(&directory, &["lab", "status", "-o", "json"]).json();
    assert_eq!(status["labs"][0]["state"], "timed-out", "{status}");
    has(&isthmus(&directory, &["lab", "status"]).ok(), &["never-ready  timed-out"]);
    has(&isthmus(&directory, &["lab", "down"]).ok(), &["lab never-ready stopped"]);
    directory.assert_nothing_left();

    // What the API server refuses is a failure, and no timeout.
    let text = std::fs::read_to_string(directory.path("topologies/never-ready.yaml")).expect("read");
    let bad = "{apiVersion: v1, kind: ConfigMap, metadata: {name: Bad_Name}}";
    std::fs::write(directory.path("topologies/bad.yaml"), bad).expect("written");
    let text = format!("{text}  manifests: [{{path: bad.yaml}}]\n");
    std::fs::write(directory.path("topologies/never-ready.yaml"), text).expect("written");
    let keep = ["lab", "up", "topologies/never-ready.yaml", "-d", "--keep"];
    fails(&directory, &keep, Some(1), &["Bad_Name", "the lab is kept", "stop: isthmus lab down never-ready"]);
    let status = isthmus(&directory, &["lab", "status", "-o", "json"]).json();
    assert_eq!(status["labs"][0]["state"], "failed", "{status}");
    isthmus(&directory, &["lab", "down", "never-ready"]).ok();
    directory.assert_nothing_left();
}

#[test]
fn with_several_labs_every_hint_names_one() {
    let directory = TestDirectory::new(User::Own);
    let _labs = StopsLabs(&directory);
    let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: [{name: west, role: primary}]\n  \
                workloads: [{name: frontend, cluster: west}, {name: reviews, cluster: west}]\n";
    std::fs::write(directory.path("topologies/small.yaml"), text).expect("written");
    let up = |name: &str| isthmus(&directory, &["lab", "up", "-d", "topologies/small.yaml", "--name", name]).ok();
    let first = up("one");
    has(
        &first,
        &["stop: isthmus lab down one", "isthmus lab exec west/default/frontend -- curl", "     isthmus status\n"],
    );
    let second = up("two");
    has(&second, &["isthmus lab exec west/default/frontend --lab two -- curl", "     isthmus status --lab two\n"]);
    assert!(!second.contains("Ctrl-C"), "nobody can press it: {second}");

    fails(&directory, &["lab", "kubeconfig"], Some(1), &["several labs are running: one, two", "--lab NAME"]);
    fails(&directory, &["status"], Some(1), &["name one of the running labs with --lab NAME: one, two"]);
    has(&isthmus(&directory, &["status", "--lab", "two"]).ok(), &["west", "primary"]);
    fails(
        &directory,
        &["status", "--lab", "west"],
        Some(1),
        &["running: one, two", "\"west\" is a cluster of lab \"one\""],
    );
    let killed = isthmus(&directory, &["lab", "fault", "kill-zone", "west", "west-a", "--lab", "one"]).ok();
    has(&killed, &["revive it: isthmus lab fault revive-zone west west-a --lab one"]);
    has(&isthmus(&directory, &["lab", "down", "--all"]).ok(), &["lab one stopped", "lab two stopped"]);
    directory.assert_nothing_left();
}

#[test]
fn a_running_lab_answers_every_command() {
    kubectl_is_installed();
    let lab = Lab::up("primary-remote.yaml", User::Own);
    shows_labs(&lab);
    shows_the_mesh(&lab);
    reports_what_is_wrong(&lab);
    ends_quietly(&lab);
    reports_faults(&lab);
    bounds_waits(&lab);
    joins(&lab);
    lab.down();
}

fn ends_quietly(lab: &Lab) {
    let kubeconfig = lab.isthmus(&["lab", "kubeconfig"]).ok();
    for arguments in [
        &["status"][..],
        &["status", "-o", "json"],
        &["lab", "status"],
        &["lab", "status", "-o", "yaml"],
        &["lab", "kubeconfig"],
        &["lab", "logs", "west/default/frontend"],
        &["lab", "logs", "west/default/frontend", "--follow"],
        &["lab", "exec", "west/default/frontend", "--", "yes"],
        &["lab", "kubectl", "west", "--", "get", "pods"],
        &["lab", "capture", "--seconds", "0.1"],
        &["join", "--kubeconfig", kubeconfig.trim(), "east"],
    ] {
        ends_quietly_unread(&lab.directory, arguments);
    }
}

fn reports_faults(lab: &Lab) {
    let fault = |arguments: &[&str]| lab.isthmus(&[&["lab", "fault"][..], arguments].concat());
    let suspended = fault(&["hold-api", "east"]).ok();
    has(&suspended, &["the API server of east is suspended", "resume it: isthmus lab fault release-api east\n"]);
    has(&fault(&["release-api", "east"]).ok(), &["the API server of east is resumed"]);

    let pods = || lab.kubectl("east", &["get", "pods,deployments,serviceexports", "-o", "name"]).ok();
    let before = pods();
    has(
        &fault(&["kill-api", "east"]).ok(),
        &["the API server of east is killed", "isthmus lab fault revive-api east\n"],
    );
    assert_ne!(lab.kubectl("east", &["get", "pods", "--request-timeout=5s"]).code, Some(0), "it is killed");
    let gone = ["the API server of \"east\" is not running", "revive it: isthmus lab fault revive-api east"];
    fails(&lab.directory, &["lab", "fault", "kill-api", "east"], Some(1), &gone);
    fails(&lab.directory, &["lab", "fault", "hold-api", "east"], Some(1), &gone);
    has(&fault(&["revive-api", "east"]).ok(), &["the API server of east is revived, with the objects that it had"]);
    assert_eq!(pods(), before);
    lab.get("west/default/frontend", "http://ratings:9080/").expect("the pods run as before");
    fails(&lab.directory, &["lab", "fault", "revive-api", "east"], Some(1), &["is running", "release-api east"]);
    let connected = eventually(Duration::from_secs(30), || {
        let status = lab.isthmus(&["status", "-o", "json"]).json();
        let clusters = status["primaries"][0]["clusters"].as_array().cloned().unwrap_or_default();
        let east = clusters.into_iter().find(|cluster| cluster["name"] == "east").expect("east");
        if east["link"]["state"] == "connected" { Ok(()) } else { Err(east) }
    });
    connected.expect("the link comes back");
    // The cluster works: new pods start.
    lab.kubectl("east", &["rollout", "restart", "deployment/ratings"]).ok();
    lab.kubectl("east", &["rollout", "status", "deployment/ratings", "--timeout=60s"]).ok();

    let killed = fault(&["kill-zone", "west", "us-west-1b"]).ok();
    has(&killed, &["zone us-west-1b of west is killed", "isthmus lab fault revive-zone west us-west-1b\n"]);
    has(&fault(&["revive-zone", "west", "us-west-1b"]).ok(), &["zone us-west-1b of west is revived"]);
    has(&fault(&["kill-workload", "west/default/reviews"]).ok(), &["killed reviews-"]);
    cuts_connections(lab);
}

/// A cut stops connections in one direction, to the API server or to the gateway, until it is healed.
fn cuts_connections(lab: &Lab) {
    let fault = |arguments: &[&str]| lab.isthmus(&[&["lab", "fault"], arguments].concat());
    fails(&lab.directory, &["lab", "fault", "cut", "west", "west"], Some(1), &["is no other cluster"]);
    let cut = fault(&["cut", "west", "east", "--only", "data"]).ok();
    has(
        &cut,
        &["west's connections to the gateway of east are dropped", "isthmus lab fault heal west east --only data\n"],
    );
    lab.get("west/default/frontend", "http://ratings:9080/").expect_err("ratings is behind east's gateway");
    let status = lab.isthmus(&["status", "-o", "json"]).json();
    let clusters = status["primaries"][0]["clusters"].as_array().cloned().unwrap_or_default();
    assert!(clusters.iter().all(|cluster| cluster["link"]["state"] == "connected"), "{clusters:?}");
    has(&fault(&["heal", "west", "east"]).ok(), &["west's connections to the API server and the gateway of east pass"]);
    eventually(Duration::from_secs(30), || lab.get("west/default/frontend", "http://ratings:9080/"))
        .expect("ratings answers again");
}

/// Every wait ends by itself, with a message and an exit code.
fn bounds_waits(lab: &Lab) {
    lab.isthmus(&["lab", "fault", "hold-api", "west"]).ok();
    let start = Instant::now();
    let silent =
        ["waiting for the controller in west", "no answer from the controller in west", "within 3s", "--timeout"];
    fails(&lab.directory, &["status", "--timeout", "3s"], TIMED_OUT, &silent);
    let silent =
        ["waiting for the API server of west", "no answer from the API server of west", "within 3s", "--timeout"];
    fails(&lab.directory, &["join", "--lab", "east", "--timeout", "3s"], TIMED_OUT, &silent);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let silent = ["no answer from the API server of west within 15s", "isthmus lab fault release-api west"];
    fails(&lab.directory, &["lab", "logs", "west/default/frontend"], TIMED_OUT, &silent);
    lab.isthmus(&["lab", "fault", "release-api", "west"]).ok();

    lab.kubectl("west", &["-n", "isthmus-system", "scale", "deployment/isthmus-controller", "--replicas=0"]).ok();
    let away = eventually(Duration::from_secs(30), || {
        let status = lab.isthmus(&["status", "--timeout", "3s"]);
        if status.code == Some(0) { Err(status) } else { Ok(status) }
    });
    let Outcome { code, stderr, .. } = away.expect("the controller is away");
    assert!([Some(1), TIMED_OUT].contains(&code), "{code:?}: {stderr}");
    has(
        &stderr,
        &["error: ", "controller in west", "isthmus lab kubectl west --lab primary-remote -- -n isthmus-system"],
    );
    lab.kubectl("west", &["-n", "isthmus-system", "scale", "deployment/isthmus-controller", "--replicas=1"]).ok();
    let back = eventually(Duration::from_secs(60), || {
        let status = lab.isthmus(&["status", "-o", "json"]);
        if status.code == Some(0) && status.stdout.contains("\"connected\"") { Ok(()) } else { Err(status) }
    });
    back.expect("the controller comes back");
    // A proxy that started while it was away waits for its next attempt to enrol.
    eventually(Duration::from_secs(60), || lab.get("west/default/frontend", "http://ratings:9080/"))
        .expect("an answer");
}

fn shows_labs(lab: &Lab) {
    let labs = lab.isthmus(&["lab", "status", "-o", "json"]).json();
    let record = &labs["labs"][0];
    assert_eq!((&record["name"], &record["state"]), (&"primary-remote".into(), &"ready".into()), "{labs}");
    assert_eq!(record["clusters"][1]["name"], "east");
    has(&lab.isthmus(&["lab", "status", "-o", "yaml"]).ok(), &["state: ready", "name: east"]);
    has(
        &lab.isthmus(&["lab", "status", "-o", "wide"]).ok(),
        &["KUBECONFIG", "203.0.113.20:15443", "us-west-1a,us-west-1b"],
    );
    has(&lab.isthmus(&["lab", "status"]).ok(), &["LAB", "primary-remote", "ready", "west,east"]);
    has(&lab.isthmus(&["lab", "logs", "west/default/frontend"]).ok(), &["listens on"]);
    has(&lab.isthmus(&["lab", "logs", "east/default/ratings/isthmus-proxy", "--tail", "5"]).ok(), &["\n"]);
    for target in [&["lab", "kubeconfig", "west"][..], &["lab", "kubeconfig"]] {
        let path = lab.isthmus(target).ok();
        assert!(Path::new(path.trim()).is_file(), "{path}");
    }
    let exec = lab.exec("west/default/frontend", &["sh", "-c", "exit 7"]);
    assert_eq!(exec.code, Some(7), "exec exits as the command did");
}

fn shows_the_mesh(lab: &Lab) {
    let text = lab.isthmus(&["status"]).ok();
    has(&text, &["CLUSTER", "LINK", "TRUST", "net-east", "connected", "own intermediate", "PROXY", "frontend-"]);
    let rows: Vec<_> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).take(2).collect();
    assert_eq!(rows, ["west", "east"], "the primary comes first:\n{text}");
    has(
        &lab.isthmus(&["status", "-o", "wide"]).ok(),
        &["IDENTITY", "spiffe://cluster.local/ns/default/sa/frontend", "SECRET"],
    );
    has(&lab.isthmus(&["status", "-o", "yaml"]).ok(), &["primaries:", "ownIntermediate: true"]);
    let status = lab.isthmus(&["status", "-o", "json", "--context", "west"]).json();
    let primary = &status["primaries"][0];
    assert_eq!((&primary["name"], &primary["error"]), (&"west".into(), &Value::Null));
    assert_eq!(primary["problems"], Value::Array(Vec::new()), "{status}");
    let clusters = primary["clusters"].as_array().expect("clusters");
    let east = clusters.iter().find(|cluster| cluster["name"] == "east").expect("east");
    assert_eq!(east["link"]["state"], "connected");
    assert_eq!((&east["services"], &east["exported"]), (&2.into(), &2.into()), "{east}");
    let proxies = primary["proxies"].as_array().expect("proxies");
    assert!(
        proxies.iter().any(|proxy| proxy["identity"] == "spiffe://cluster.local/ns/default/sa/ratings"),
        "{status}"
    );
}

fn reports_what_is_wrong(lab: &Lab) {
    let directory = &lab.directory;
    let clusters = ["has no cluster \"north\"", "clusters: west, east"];
    fails(directory, &["lab", "exec", "north/default/frontend", "--", "true"], Some(1), &clusters);
    fails(directory, &["lab", "kubeconfig", "north"], Some(1), &clusters);
    fails(directory, &["lab", "kubectl", "north", "--", "get", "pods"], Some(1), &clusters);
    let pods = ["\"nobody\"", "namespace default of cluster west", "pods: frontend-"];
    fails(directory, &["lab", "exec", "west/default/nobody", "--", "true"], Some(1), &pods);
    fails(directory, &["lab", "logs", "west/default/nobody"], Some(1), &pods);
    fails(directory, &["lab", "logs", "west/default/frontend/nothing"], Some(1), &["nothing"]);
    fails(directory, &["lab", "down", "other"], Some(1), &["no lab \"other\"", "running: primary-remote"]);
    fails(directory, &["status", "--lab", "other"], Some(1), &["no lab \"other\"", "running: primary-remote"]);
    fails(directory, &["status", "--context", "north"], Some(1), &["error: ", "--lab", "west, east"]);
    fails(directory, &["status", "--lab", "--context", "north"], Some(1), &clusters);
    let remote = ["east is a remote cluster", "isthmus status --lab primary-remote --context west"];
    fails(directory, &["status", "--context", "east"], Some(1), &remote);
    let kubeconfig = lab.isthmus(&["lab", "kubeconfig"]).ok();
    let no_controller = ["error: east has no controller in namespace isthmus-system", "--context NAME"];
    fails(directory, &["status", "--kubeconfig", kubeconfig.trim(), "--context", "east"], Some(1), &no_controller);
    let no_cluster =
        ["the joining cluster is missing", "isthmus join --lab primary-remote CLUSTER", "remote clusters: east"];
    fails(directory, &["join", "--lab"], Some(1), &no_cluster);
    fails(directory, &["join", "--lab", "primary-remote"], Some(1), &no_cluster);
    fails(directory, &["join", "--lab", "north"], Some(1), &["no lab \"north\"", "running: primary-remote"]);
    let a_cluster = ["no lab \"east\" is running", "\"east\" is a cluster of lab \"primary-remote\""];
    fails(directory, &["lab", "kubeconfig", "--lab", "east"], Some(1), &a_cluster);
    fails(directory, &["lab", "capture", "--cluster", "north"], Some(1), &clusters);
    fails(directory, &["lab", "capture", "--seconds", "soon"], WRONG_USAGE, &["a number of seconds"]);
    fails(directory, &["join", "--lab", "--context", "west", "north"], Some(1), &clusters);
    fails(directory, &["join", "--lab", "--context", "west", "west"], Some(1), &["west", "--context"]);
    fails(
        directory,
        &["lab", "up", "topologies/primary-remote.yaml"],
        Some(1),
        &["primary-remote", "isthmus lab down", "--name"],
    );
}

fn joins(lab: &Lab) {
    let kubeconfig = lab.isthmus(&["lab", "kubeconfig"]).ok();
    let kubeconfig = kubeconfig.trim();
    let printed = lab.isthmus(&[
        "join",
        "--kubeconfig",
        kubeconfig,
        "east",
        "--server",
        "https://203.0.113.2:6443",
        "--token-validity",
        "20m",
    ]);
    assert!(
        printed.stderr.contains("read only, no secrets") && printed.stderr.contains("until "),
        "{}",
        printed.stderr
    );
    let secret = printed.ok();
    has(&secret, &["kind: Secret", "istio/multiCluster", "name: istio-remote-secret-east", "https://203.0.113.2:6443"]);

    // The printed secret can be applied, and works with the reader's own credentials.
    lab.apply("west", &secret);
    let token = secret.find("eyJ").map(|start| &secret[start..]).expect("a token");
    let token = token.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).next().unwrap_or_default();
    let validity = claims(token);
    let seconds = validity["exp"].as_i64().zip(validity["iat"].as_i64()).map(|(until, from)| until - from);
    assert_eq!(seconds, Some(20 * 60), "{validity}");
    assert_eq!(validity["sub"], "system:serviceaccount:isthmus-system:isthmus-reader");
    let own = std::fs::read_to_string(lab.isthmus(&["lab", "kubeconfig", "east"]).ok().trim()).expect("a kubeconfig");
    let server = own.lines().find_map(|line| line.trim().strip_prefix("server: ")).expect("a server").trim_matches('"');
    let curl = |path: &str| {
        let mut command = lab.directory.program(Path::new("curl"));
        command.args(["-sk", "-o", "-", "-w", "%{http_code}", "-H", &format!("authorization: Bearer {token}")]);
        Outcome::from(command.arg(format!("{server}{path}")).output().expect("curl")).ok()
    };
    let services = curl("/api/v1/services?limit=1");
    assert!(services.ends_with("200"), "{services}");
    for path in ["/api/v1/secrets", "/api/v1/namespaces/istio-system/secrets/cacerts"] {
        let answer = curl(path);
        assert!(answer.ends_with("403") && answer.contains("Forbidden"), "{path}: {answer}");
    }

    let applied = lab.isthmus(&[
        "join",
        "--kubeconfig",
        kubeconfig,
        "--context",
        "west",
        "east",
        "--server",
        "https://203.0.113.2:6443",
    ]);
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    has(
        &applied.stderr,
        &["secret istio-system/istio-remote-secret-east applied", "joined", "try: isthmus status --kubeconfig"],
    );
    let by_default =
        lab.directory.isthmus().args(["join", "--lab", "--context", "west", "east"]).stdin(Stdio::null()).output();
    let by_default = Outcome::from(by_default.expect("isthmus"));
    assert_eq!(by_default.code, Some(0), "{}", by_default.stderr);
    has(&by_default.stderr, &["joined", "try: isthmus status --lab primary-remote --context west"]);
    let named_alone = lab.isthmus(&["join", "--lab", "east"]);
    assert_eq!(named_alone.code, Some(0), "{}", named_alone.stderr);
    has(&named_alone.stderr, &["east: account", "joined"]);

    // An address without a server: the command times out and describes what continues.
    let arguments =
        ["join", "--lab", "--context", "west", "east", "--server", "https://203.0.113.9:6443", "--timeout", "1s"];
    fails(
        &lab.directory,
        &arguments,
        TIMED_OUT,
        &["east did not connect within", "the secret stays", "isthmus status --lab"],
    );
    lab.get("west/default/frontend", "http://ratings:9080/").expect("what was good before stays in force");

    // The joining cluster's own API server is down.
    lab.isthmus(&["lab", "fault", "kill-api", "east"]).ok();
    let dead = ["error: in east: ", "the API server cannot be reached: ", "check that it runs"];
    fails(&lab.directory, &["join", "--lab", "--context", "west", "east"], Some(1), &dead);
}

/// The claims of a token.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("three parts");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&bytes).expect("claims")
}
