//! A server for each test.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use isthmus_apiserver::{Options, Server};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a condition may take, on a machine busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running server and its administrator's client.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) config: Config,
    _stop: DropGuard,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::remembering(Options::REMEMBERED_CHANGES).await
    }

    /// Starts a server that remembers `changes` changes per resource.
    pub(crate) async fn remembering(changes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let (mut options, kubeconfig) = Options::for_tests(vec![listener]).expect("makes keys");
        options.remembered_changes = changes;
        let stop = CancellationToken::new();
        let server = Server::new(options).expect("starts");
        tokio::spawn(server.run(stop.clone()));
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).expect("is a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let config = config.expect("is complete");
        let client = Client::try_from(config.clone()).expect("has certificates");
        Self { client, config, _stop: stop.drop_guard() }
    }

    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn namespace(&self, name: &str) {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.expect("creates");
    }

    pub(crate) async fn account(&self, name: &str) -> ServiceAccount {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        accounts.create(&PostParams::default(), &account).await.expect("creates")
    }
}

pub(crate) fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([("key".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// Code, reason and message of a rejected request.
pub(crate) fn rejection<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result.expect_err("should be refused") {
        kube::Error::Api(status) => (status.code, status.reason, status.message),
        other => panic!("not a rejection: {other}"),
    }
}

/// Waits for a condition that the server's own tasks bring about.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let deadline = Instant::now() + TIMEOUT;
    while !check().await {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
