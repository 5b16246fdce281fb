//! The discovery service.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::delta::Server;
use wire::envoy::aggregated_discovery_service_server::AggregatedDiscoveryService;
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::Resources;

type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Resources {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, receive) = mpsc::channel(16);
        tokio::spawn(serve(self.clone(), request.into_inner(), send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// Serves a proxy's stream until either side ends it.
async fn serve(resources: Resources, mut requests: Streaming<DeltaDiscoveryRequest>, responses: Responses) {
    let (mut server, mut changed) = (Server::default(), resources.changed.subscribe());
    loop {
        loop {
            let response = server.next(&*resources.state(), Instant::now());
            let Some(response) = response else { break };
            if let Some(delay) = resources.delay_of(&response.type_url) {
                tokio::time::sleep(delay).await;
            }
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
        let invalid = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => server.receive(request).err(),
                Ok(None) | Err(_) => return,
            },
            // `resources` holds the sender, so this does not fail.
            _ = changed.changed() => None,
        };
        if let Some(invalid) = invalid {
            // A proxy that has disconnected receives nothing.
            let _ = responses.send(Err(Status::invalid_argument(invalid.to_string()))).await;
            return;
        }
    }
}
