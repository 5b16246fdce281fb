//! kube-rs as a client of exec, logs and port forwarding: its WebSocket subprotocols differ from kubectl's.

#[path = "kubectl/node.rs"]
mod node;

use std::net::TcpListener;
use std::sync::Arc;

use futures_util::{AsyncReadExt as _, SinkExt as _, StreamExt as _};
use isthmus_apiserver::{Options, Server};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{AttachParams, AttachedProcess, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A server with a running pod `web`.
struct Cluster {
    client: Client,
    log: Arc<Notify>,
    _directory: TempDir,
    _stop: DropGuard,
}

async fn start() -> Cluster {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("node.sock");
    let log = Arc::new(Notify::new());
    let agent = node::Node::listen(&socket, Arc::clone(&log));
    tokio::spawn(async move { agent.serve().await });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let (mut options, kubeconfig) = Options::for_tests(vec![listener]).expect("a new cluster");
    options.node_socket = Some(socket);
    let stop = CancellationToken::new();
    tokio::spawn(Server::new(options).expect("the server starts").run(stop.clone()));
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("complete");
    let client = Client::try_from(config).expect("a client");
    let account: ServiceAccount = object(json!({"metadata": {"name": "default"}}));
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts.create(&PostParams::default(), &account).await.expect("created");
    let pod: Pod =
        object(json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "i"}]}}));
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod).await.expect("created");
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1"}});
    pods.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
    Cluster { client, log, _directory: directory, _stop: stop.drop_guard() }
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an object of its kind")
}

impl Cluster {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn exec(&self, command: &[&str], params: &AttachParams) -> AttachedProcess {
        self.pods().exec("web", command.to_vec(), params).await.expect("upgraded")
    }
}

#[tokio::test]
async fn runs_commands() {
    let cluster = start().await;
    let mut process = cluster.exec(&["echo", "hello"], &AttachParams::default()).await;
    let mut output = String::new();
    process.stdout().expect("piped").read_to_string(&mut output).await.expect("output");
    let status = process.take_status().expect("taken once").await.expect("a status");
    assert_eq!((output.as_str(), status.status.as_deref()), ("hello\n", Some("Success")));

    let mut failing = cluster.exec(&["exit", "3"], &AttachParams::default()).await;
    let status = failing.take_status().expect("taken once").await.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.and_then(|details| details.causes).expect("causes");
    assert_eq!(causes[0].message.as_deref(), Some("3"));
}

#[tokio::test]
async fn standard_input_ends_when_the_client_closes_it() {
    let cluster = start().await;
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut process = cluster.exec(&["cat"], &params).await;
    let mut stdin = process.stdin().expect("piped");
    stdin.write_all(b"one two").await.expect("sent");
    stdin.shutdown().await.expect("closed");
    drop(stdin);
    let mut output = String::new();
    process.stdout().expect("piped").read_to_string(&mut output).await.expect("output");
    assert_eq!(output, "one two");
}

#[tokio::test]
async fn text_messages_are_input_as_binary_ones_are() {
    let cluster = start().await;
    let path = "/api/v1/namespaces/default/pods/web/exec?container=app&command=cat&stdin=true&stdout=true";
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let mut socket = cluster.client.connect(request).await.expect("upgraded").into_stream();
    socket.send(Message::Text("\0hello".into())).await.expect("sent");
    socket.send(Message::Binary(vec![255, 0].into())).await.expect("closed");
    let mut output = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let [1, data @ ..] = &*message.into_data() {
            output.extend_from_slice(data);
        }
    }
    assert_eq!(output, b"hello");
}

#[tokio::test]
async fn forwards_several_ports_over_one_socket() {
    let cluster = start().await;
    let mut forwarder = cluster.pods().portforward("web", &[9080, 9081]).await.expect("upgraded");
    let (mut first, mut second) =
        (forwarder.take_stream(9080).expect("first"), forwarder.take_stream(9081).expect("second"));
    let large = vec![b'a'; 200_000];
    let echoed = async {
        let mut back = vec![0; large.len()];
        second.write_all(b"second").await.expect("sent");
        let mut short = [0; 6];
        second.read_exact(&mut short).await.expect("received");
        assert_eq!(&short, b"SECOND");
        let (mut from, mut to) = tokio::io::split(&mut first);
        let (sent, received) = tokio::join!(to.write_all(&large), from.read_exact(&mut back));
        sent.expect("sent");
        received.expect("received");
        assert!(back.iter().all(|byte| *byte == b'A'));
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), echoed).await.expect("in time");

    let mut refused = cluster.pods().portforward("web", &[1]).await.expect("upgraded");
    let error = refused.take_error(1).expect("taken once").await;
    assert!(error.expect("an error").contains("connection refused"));
}

#[tokio::test]
async fn reads_and_follows_logs() {
    let cluster = start().await;
    let params = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(cluster.pods().logs("web", &params).await.expect("a log"), "three\n");
    let params = LogParams { follow: true, ..LogParams::default() };
    let mut stream = std::pin::pin!(cluster.pods().log_stream("web", &params).await.expect("a log"));
    let mut output = [0; 14];
    stream.read_exact(&mut output).await.expect("three lines");
    assert_eq!(&output, b"one\ntwo\nthree\n");
    cluster.log.notify_one();
    let mut output = [0; 5];
    stream.read_exact(&mut output).await.expect("a fourth line");
    assert_eq!(&output, b"four\n");
}
