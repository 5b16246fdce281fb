//! Discovery streams with one certificate, each of which subscribes to very many names.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use wire::Kind;
use wire::envoy::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use wire::envoy::{DeltaDiscoveryRequest, Node};

use super::{Tally, identity_of};

/// The names of one message.
const CHUNK: usize = 5_000;
/// The pause before a stream that ended is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Streams with many subscriptions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Subscriptions {
    /// The mesh's roots.
    pub roots: PathBuf,
    /// A token that enrols the attacker.
    pub token: PathBuf,
    /// The number of streams.
    pub streams: usize,
    /// The names of each.
    pub names: usize,
}

impl Subscriptions {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let enrolled = identity_of::enrol(&self.roots, &self.token).await?;
        let mut streams = JoinSet::new();
        for number in 0..self.streams {
            let (channel, names) = (enrolled.connector(), self.names);
            streams.spawn(async move {
                loop {
                    // A connection for each stream, as proxies have.
                    let ended = stream(channel.channel(), number, names, tally).await;
                    tally.closed.fetch_add(1, Relaxed);
                    tally.answer(match ended {
                        Ok(()) => "stream ended".to_owned(),
                        Err(status) => format!("{:?}", status.code()),
                    });
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        streams.join_all().await;
        Ok(())
    }
}

async fn stream(
    channel: tonic::transport::Channel,
    number: usize,
    names: usize,
    tally: &Tally,
) -> Result<(), tonic::Status> {
    let (requests, outbox) = tokio::sync::mpsc::channel(1);
    let sending = async move {
        for chunk in 0..names.div_ceil(CHUNK) {
            let of_chunk = (chunk * CHUNK..names.min((chunk + 1) * CHUNK))
                .map(|name| format!("name-{number}-{name}.default.svc.cluster.local"));
            let id = format!("sidecar~10.244.9.{number}~attacker-{number}.default~west");
            let request = DeltaDiscoveryRequest {
                node: (chunk == 0).then(|| Node { id, ..Default::default() }),
                type_url: Kind::Service.url().into(),
                resource_names_subscribe: of_chunk.collect(),
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                return;
            }
        }
        // The stream stays open.
        std::future::pending::<()>().await;
    };
    let mut service = AggregatedDiscoveryServiceClient::new(channel);
    let receiving = async {
        let responses = service.delta_aggregated_resources(ReceiverStream::new(outbox)).await?;
        tally.opened.fetch_add(1, Relaxed);
        let mut responses = responses.into_inner();
        while responses.message().await?.is_some() {}
        Ok(())
    };
    tokio::select! {
        () = sending => Ok(()),
        ended = receiving => ended,
    }
}
