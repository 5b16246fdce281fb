//! The cluster's DNS server, on 10.96.0.10 and fd00:10:96::a, over UDP and TCP.
//!
//! It implements the Kubernetes DNS specification (1.1): addresses of Services and of headless Services' pods, SRV
//! records of named ports, pods by their address, and names of addresses; and the zone `clusterset.local` of services that
//! clusters export (KEP-1645). Other names below the cluster's domain do not
//! exist. A lab has no connection to other networks, so names outside of the domain fail at once instead of timing out,
//! except those of the servers that the lab itself runs outside of its clusters.

mod answer;
mod clusterset;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use answer::{DnsAnswer, OutsideHosts, answer};
use api::export::ServiceImport;
use async_trait::async_trait;
use hickory_proto::op::Metadata;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::controllers::ClusterView;
use crate::controllers::cache::Cache;

/// How long an idle DNS connection over TCP is kept.
const IDLE: Duration = Duration::from_secs(10);

/// The DNS server cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve DNS on {address}: {source}; check that a link of this namespace has the address")]
pub struct DnsError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

struct DnsHandler {
    view: Arc<ClusterView>,
    imports: Arc<Cache<ServiceImport>>,
    outside: OutsideHosts,
}

impl DnsHandler {
    fn answer(&self, name: &Name, kind: RecordType) -> DnsAnswer {
        let in_clusterset = clusterset::answer(&self.imports, &self.view.slices.list(), name, kind);
        in_clusterset.unwrap_or_else(|| answer(&self.view, &self.outside, name, kind))
    }
}

#[async_trait]
impl RequestHandler for DnsHandler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = false;
        let (answers, soa) = match request.request_info() {
            Ok(info) => {
                let answer = self.answer(info.query.original().name(), info.query.query_type());
                metadata.authoritative = answer.authoritative;
                metadata.response_code = answer.code;
                (answer.records, answer.soa)
            }
            Err(_) => {
                metadata.response_code = ResponseCode::FormErr;
                (Vec::new(), None)
            }
        };
        let soa: Vec<Record> = soa.into_iter().collect();
        let builder = MessageResponseBuilder::from_message_request(request);
        let message = builder.build(metadata, answers.iter(), &[], soa.iter(), &[]);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot send a DNS response");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                })
            }
        }
    }
}

/// Serves DNS on `address` until the future is dropped. `outside` has the hosts outside of the cluster that the lab runs.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    view: Arc<ClusterView>,
    imports: Arc<Cache<ServiceImport>>,
    outside: OutsideHosts,
) -> Result<(), DnsError> {
    let failed = |source| DnsError { address, source };
    let udp = tokio::net::UdpSocket::bind(address).await.map_err(failed)?;
    let tcp = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let mut server = Server::new(DnsHandler { view, imports, outside });
    server.register_socket(udp);
    server.register_listener(tcp, IDLE, 64);
    if let Err(error) = server.block_until_done().await {
        tracing::error!(%error, "the DNS server has ended");
    }
    Ok(())
}
