//! An API server on loopback, without node agent and controllers, for use with kubectl:
//!
//! ```text
//! cargo run -p isthmus-apiserver --example standalone -- /tmp/kubeconfig 6443 &
//! kubectl --kubeconfig /tmp/kubeconfig api-resources
//! ```

use std::net::TcpListener;

use isthmus_apiserver::{Options, Server};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a file for the kubeconfig")?;
    let port = arguments.next().map_or(Ok(0), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let (options, kubeconfig) = Options::for_tests(vec![listener])?;
    std::fs::write(&path, kubeconfig)?;
    println!("kubectl --kubeconfig {path} get namespaces");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            drop(tokio::signal::ctrl_c().await);
            told.cancel();
        });
        Server::new(options)?.run(stop).await;
        Ok(())
    })
}
