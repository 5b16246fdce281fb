//! What runs beside a program in a pod: a client that obeys orders, and the secrets of an Envoy.

use std::path::PathBuf;

use anyhow::Result;

use crate::{client, secrets};

/// Options of a pod's agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Agent {
    /// Obey orders of this socket
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Serve an Envoy its secrets, with files of this directory
    #[arg(long)]
    secrets: Option<PathBuf>,
    /// Name of the files of the Envoy's certificate and key
    #[arg(long, default_value = "client")]
    identity: String,
}

impl Agent {
    /// Runs until the process ends.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound.
    pub async fn run(self) -> Result<()> {
        let orders = async {
            match self.socket {
                Some(socket) => client::run(&socket).await,
                None => std::future::pending().await,
            }
        };
        let secrets = async {
            match self.secrets {
                Some(directory) => secrets::serve(secrets::ADDRESS, directory, self.identity).await,
                None => std::future::pending().await,
            }
        };
        tokio::try_join!(orders, secrets).map(|_| ())
    }
}
