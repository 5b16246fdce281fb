//! Commands in containers, logs and port forwarding, over the agent's socket as the API server uses it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bench::{Bench, pod, with_agent};

pub(super) const TESTS: &[harness::Test] = &[
    ("streams::commands_run_in_containers", commands_run_in_containers),
    ("streams::attached_clients_write_the_input", attached_clients_write_the_input),
    ("streams::terminals_are_resized", terminals_are_resized),
    ("streams::logs_are_read_and_followed", logs_are_read_and_followed),
    ("streams::ports_are_forwarded", ports_are_forwarded),
    ("streams::usage_is_measured", usage_is_measured),
];

type Connection = TokioIo<hyper::upgrade::Upgraded>;

async fn send(bench: &Bench, method: &str, path: &str, body: Value) -> hyper::Response<hyper::body::Incoming> {
    let stream = tokio::net::UnixStream::connect(bench.directory.join("node.sock")).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = hyper::Request::builder().method(method).uri(path).header("host", "node");
    let request = request.header("connection", "Upgrade").header("upgrade", "isthmus-stream");
    sender.send_request(request.body(Full::<Bytes>::from(body.to_string())).unwrap()).await.unwrap()
}

async fn text(response: hyper::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn upgrade(bench: &Bench, path: &str, body: Value) -> Result<Connection, String> {
    let response = send(bench, "POST", path, body).await;
    if response.status() != 101 {
        return Err(format!("{} {}", response.status().as_u16(), text(response).await));
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
}

async fn frame(connection: &mut Connection, channel: u8, data: &[u8]) {
    connection.write_u8(channel).await.unwrap();
    connection.write_u32(u32::try_from(data.len()).unwrap()).await.unwrap();
    connection.write_all(data).await.unwrap();
}

/// Reads a command's result: standard output, standard error, status.
async fn collect(connection: &mut Connection) -> (String, String, Value) {
    let mut streams = [vec![], vec![], vec![], vec![]];
    while let Ok(channel) = connection.read_u8().await {
        let mut data = vec![0; connection.read_u32().await.unwrap() as usize];
        connection.read_exact(&mut data).await.unwrap();
        streams[usize::from(channel)].extend(data);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&streams[1]), text(&streams[2]), serde_json::from_slice(&streams[3]).unwrap_or_default())
}

async fn serve(bench: &Arc<Bench>) {
    let agent = bench.agent.clone();
    tokio::spawn(async move { agent.serve().await.unwrap() });
    let socket = bench.directory.join("node.sock");
    bench.until("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
}

fn command(words: &[&str], stdin: bool) -> Value {
    json!({"namespace": "shop", "pod": "web", "container": "main", "command": words,
        "tty": false, "stdin": stdin, "stdout": true, "stderr": true})
}

fn commands_run_in_containers() {
    with_agent(|bench| async move {
        serve(&bench).await;
        bench.agent.apply(pod(
            "web",
            json!({"containers": [{"name": "main", "command": ["sleep", "60"],
            "env": [{"name": "WHO", "value": "me"}]}]}),
        ));
        bench.ready("web").await;
        let script = "echo out $WHO $(hostname); echo err >&2; exit 4";
        let mut exec = upgrade(&bench, "/exec", command(&["sh", "-c", script], false)).await.unwrap();
        let (output, error, status) = collect(&mut exec).await;
        assert_eq!((output.as_str(), error.as_str()), ("out me web\n", "err\n"));
        assert_eq!(
            (&status["reason"], &status["details"]["causes"][0]["message"]),
            (&"NonZeroExitCode".into(), &"4".into())
        );

        let mut exec = upgrade(&bench, "/exec", command(&["sh", "-c", "wc -c; cat /proc/1/comm"], true)).await.unwrap();
        for _ in 0..20 {
            frame(&mut exec, 0, &[b'x'; 10_000]).await;
        }
        frame(&mut exec, 255, &[0]).await;
        let (output, _, status) = collect(&mut exec).await;
        assert_eq!((output.as_str(), &status["status"]), ("200000\npause\n", &"Success".into()));

        let mut exec = upgrade(&bench, "/exec", command(&["no-such"], false)).await.unwrap();
        let (.., status) = collect(&mut exec).await;
        assert_eq!(status["details"]["causes"][0]["message"], "127");
        assert!(status["message"].as_str().unwrap().contains("executable file not found"), "{status}");

        // A client that disconnects ends the command.
        let mut exec =
            upgrade(&bench, "/exec", command(&["sh", "-c", "echo $$; exec sleep 65.5"], false)).await.unwrap();
        exec.read_u8().await.unwrap();
        drop(exec);
        let sleeps = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains("65.5"))
            })
        };
        bench.until("the command is gone", || !sleeps()).await;

        let mut wrong = command(&["true"], false);
        wrong["container"] = "none".into();
        assert!(
            upgrade(&bench, "/exec", wrong).await.unwrap_err().contains("\\\"none\\\" in pod \\\"web\\\" does not run")
        );
    });
}

fn attached_clients_write_the_input() {
    with_agent(|bench| async move {
        serve(&bench).await;
        let script = "while read line; do echo got $line; done; echo end";
        let container = |name: &str, once: bool| json!({"name": name, "stdin": true, "stdinOnce": once, "command": ["sh", "-c", script]});
        let deaf = json!({"name": "deaf", "command": ["sleep", "60"]});
        let containers = json!([container("once", true), container("again", false), deaf]);
        bench.agent.apply(pod("web", json!({"restartPolicy": "Never", "containers": containers})));
        bench.ready("web").await;
        let to = |container: &str| json!({"namespace": "shop", "pod": "web", "container": container});
        for (container, line) in [("once", b"one\n"), ("again", b"two\n"), ("again", b"six\n")] {
            let mut client = upgrade(&bench, "/attach", to(container)).await.unwrap();
            frame(&mut client, 0, line).await;
        }
        bench.until("the input of one client ends", || bench.log("web", "once", 0) == "got one\nend\n").await;
        bench.until("other input continues", || bench.log("web", "again", 0).lines().count() == 2).await;
        let refused = upgrade(&bench, "/attach", to("deaf")).await.unwrap_err();
        assert!(refused.contains("has no standard input"), "{refused}");
    });
}

fn terminals_are_resized() {
    with_agent(|bench| async move {
        serve(&bench).await;
        bench.agent.apply(pod("web", json!({"containers": [{"name": "main", "command": ["sleep", "60"]}]})));
        bench.ready("web").await;
        let mut request = command(&["sh", "-c", "read line; stty size; echo $TERM"], true);
        request["tty"] = true.into();
        let mut exec = upgrade(&bench, "/exec", request).await.unwrap();
        frame(&mut exec, 4, br#"{"Width":100,"Height":40}"#).await;
        frame(&mut exec, 0, b"go\n").await;
        let (output, _, status) = collect(&mut exec).await;
        assert!(output.contains("40 100\r\n") && output.contains("xterm\r\n"), "{output:?}");
        assert_eq!(status["status"], "Success");
    });
}

fn logs_are_read_and_followed() {
    with_agent(|bench| async move {
        serve(&bench).await;
        let script = "for i in 1 2 3; do echo line $i; done; sleep 0.5; echo last; exit 1";
        bench.agent.apply(pod("web", json!({"containers": [{"name": "main", "command": ["sh", "-c", script]}]})));
        let query = "/logs?namespace=shop&pod=web&container=main";
        bench.until("lines", || bench.log("web", "main", 0).contains("line 3")).await;
        let followed = text(send(&bench, "GET", &format!("{query}&follow=true&tailLines=1"), json!(null)).await).await;
        assert_eq!(followed, "line 3\nlast\n", "follows to the end of the run");
        bench.status_when("web", "restarted", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
        let previous =
            text(send(&bench, "GET", &format!("{query}&previous=true&tailLines=2"), json!(null)).await).await;
        assert_eq!(previous, "line 3\nlast\n");
        bench.until("the new run's lines", || bench.log("web", "main", 1).contains("line 1")).await;
        let timed =
            text(send(&bench, "GET", &format!("{query}&timestamps=true&limitBytes=37"), json!(null)).await).await;
        assert!(timed.starts_with("20") && timed.ends_with("Z line 1") && timed.len() == 37, "{timed}");
        let missing = send(&bench, "GET", "/logs?namespace=shop&pod=none&container=main", json!(null)).await;
        assert_eq!(missing.status(), 404);
        let unknown = send(&bench, "GET", "/logs?namespace=shop&pod=web&container=none", json!(null)).await;
        assert!(text(unknown).await.contains("waiting to start"));
        let old = send(&bench, "GET", &format!("{query}&tailLines=many"), json!(null)).await;
        assert_eq!(old.status(), 400);
    });
}

fn ports_are_forwarded() {
    with_agent(|bench| async move {
        serve(&bench).await;
        bench.agent.apply(pod(
            "web",
            json!({"containers": [{"name": "main", "image": "isthmus/serve",
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}),
        ));
        bench.ready("web").await;
        let request = |port: u16| json!({"namespace": "shop", "pod": "web", "port": port});
        let mut forwarded = upgrade(&bench, "/portforward", request(8080)).await.unwrap();
        forwarded.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        forwarded.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("PEER=127.0.0.1"), "{answer}");
        let refused = upgrade(&bench, "/portforward", request(9)).await.unwrap_err();
        assert!(refused.contains("failed to connect to localhost:9 inside pod"), "{refused}");
    });
}

fn usage_is_measured() {
    with_agent(|bench| async move {
        serve(&bench).await;
        // The first container computes in a child, the second one has memory.
        let busy = "sh -c 'while :; do :; done' & wait";
        let full = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 60";
        let container = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", script]});
        bench.agent.apply(pod("web", json!({"containers": [container("busy", busy), container("full", full)]})));
        bench.ready("web").await;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let usage = loop {
            let usage = text(send(&bench, "GET", "/usage", Value::Null).await).await;
            let usage: Value = serde_json::from_str(&usage).unwrap();
            let containers = &usage["pods"]["uid-of-web"];
            if containers["busy"]["cpu"].as_u64() > Some(0) && containers["full"]["memory"].as_u64() > Some(30_000_000)
            {
                break usage;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {usage}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        let (containers, node) = (&usage["pods"]["uid-of-web"], &usage["nodes"]["west-a"]);
        assert!(containers["busy"]["memory"].as_u64() < Some(30_000_000), "{usage}");
        let sum =
            |field: &str| containers["busy"][field].as_u64().unwrap() + containers["full"][field].as_u64().unwrap();
        assert_eq!((node["cpu"].as_u64(), node["memory"].as_u64()), (Some(sum("cpu")), Some(sum("memory"))));
        assert!(
            usage["window"].as_str().unwrap().ends_with('s') && usage["timestamp"].as_str().unwrap().ends_with('Z')
        );
    });
}
