//! `isthmus lab-apiserver`: one cluster's API server as a process of a lab.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::server::{self, Server};

/// Options of `isthmus lab-apiserver`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of an inherited file descriptor that is a listening TCP socket. May be given more than once.
    #[arg(long = "listen-fd", value_name = "FD")]
    pub listen_fd: Vec<RawFd>,

    /// Address to listen on. May be given more than once.
    #[arg(long = "listen", value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,

    /// File with the serving certificate (PEM).
    #[arg(long = "tls-cert", value_name = "FILE")]
    pub tls_cert: PathBuf,

    /// File with the serving certificate's private key (PEM).
    #[arg(long = "tls-key", value_name = "FILE")]
    pub tls_key: PathBuf,

    /// File with the cluster's CA certificate (PEM): it signs clients' certificates and the serving certificate.
    #[arg(long = "client-ca", value_name = "FILE")]
    pub client_ca: PathBuf,

    /// File with the private key that signs service accounts' tokens (P-256, PKCS#8 PEM).
    #[arg(long = "service-account-key", value_name = "FILE")]
    pub service_account_key: PathBuf,

    /// Issuer of service accounts' tokens.
    #[arg(long, value_name = "URL", default_value = server::Options::ISSUER)]
    pub issuer: String,

    /// Unix socket of the node agent, for exec, logs and port forwarding.
    #[arg(long = "node-socket", value_name = "PATH")]
    pub node_socket: Option<PathBuf>,

    /// Where pods reach this server: endpoints of the Service `kubernetes`. May be given more than once.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub advertise: Vec<SocketAddr>,

    /// Network of Services' addresses.
    #[arg(long = "service-cidr", value_name = "CIDR", default_value = "10.96.0.0/16", value_parser = parse_network)]
    pub service_cidr: (Ipv4Addr, u8),
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot use the inherited socket: {0}")]
    Inherit(#[source] std::io::Error),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] server::StartError),
}

/// Runs an API server until it is told to end by SIGTERM or SIGINT.
pub fn run(options: Options) -> ExitCode {
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lab-apiserver: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> Result<(), Failure> {
    let mut listeners = Vec::new();
    for fd in &options.listen_fd {
        listeners.push(net::inherit::tcp_listener(*fd).map_err(Failure::Inherit)?);
    }
    for address in &options.listen {
        listeners.push(TcpListener::bind(address).map_err(|source| Failure::Listen { address: *address, source })?);
    }
    let started = server::Options {
        listeners,
        certificate: read(&options.tls_cert)?,
        key: read(&options.tls_key)?,
        ca: read(&options.client_ca)?,
        service_account_key: read(&options.service_account_key)?,
        issuer: options.issuer,
        node_socket: options.node_socket,
        service_network: options.service_cidr,
        advertise: options.advertise,
        remembered_changes: server::Options::REMEMBERED_CHANGES,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
        let server = Server::new(started)?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        });
        server.run(stop).await;
        Ok(())
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source })
}

fn parse_network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
    match parsed {
        Some((address, prefix @ 8..=28)) => Ok((address, prefix)),
        _ => Err("write an IPv4 network of 8 to 28 bits, such as 10.96.0.0/16".into()),
    }
}
