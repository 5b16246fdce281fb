//! One proxy's stream, from its first request to its end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::{info, warn};
use wire::Kind;
use wire::delta::{Found as _, Server, Source as _, Stats};
use wire::discovery::Workload;
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use wire::name::{self, Node, Role};

use super::Shared;
use super::budget::Account;
use super::proxies::{Progress, Proxy};
use super::serve::Caller;
use crate::compile::policies;
use crate::compile::resource::Viewer;
use crate::inventory::registered;
use crate::objects::Key;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the proxy closed it")]
    Closed,
    #[error("the connection failed: {0}")]
    Broken(Status),
    #[error("no request within {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Refused(&'static str, Status),
    #[error("the proxy did not read or acknowledge a response for {0:?}")]
    Stuck(Duration),
    #[error("the client certificate has expired")]
    Expired,
    #[error("cluster {0:?} is not part of this mesh any longer: it has no remote secret; the proxy keeps what it has")]
    Left(String),
    #[error("the controller stops")]
    Stopping,
}

impl End {
    /// Returns the reason as a metric label.
    fn word(&self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::Broken(_) => "broken",
            End::Silent(_) => "silent",
            End::Refused(reason, _) => reason,
            End::Stuck(_) => "stuck",
            End::Expired => "expired",
            End::Left(_) => "cluster removed",
            End::Stopping => "stopping",
        }
    }
}

/// The membership of the proxy's cluster, which authorizes the stream for as long as it lasts.
///
/// The resources of a removed cluster are removed from what is published. Its own proxies must not receive that: they keep
/// their cluster as they know it, and their stream ends.
struct Membership {
    cluster: Arc<str>,
    /// The joining that authorized the stream; `None` until the clusters are known.
    joining: Option<u64>,
}

impl Membership {
    /// Checks that the cluster has not left since the stream began.
    fn check(&mut self, shared: &Shared) -> Result<(), End> {
        let now = shared.state.inventory().cluster(&self.cluster).map(|cluster| cluster.joining);
        match (now, self.joining) {
            (Some(now), Some(then)) if now == then => Ok(()),
            (Some(now), None) => {
                self.joining = Some(now);
                Ok(())
            }
            (_, _) => Err(End::Left(self.cluster.to_string())),
        }
    }
}

/// The lifetime of a certificate without an end, which the handshake does not accept.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Serves one stream until it ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    caller: Caller,
    mut account: Account,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: Responses,
) {
    let address = caller.address;
    let end = match begin(&shared, caller, &mut requests).await {
        Ok((viewer, proxy, first)) => {
            info!(node = proxy.id, %address, "proxy connected");
            let pod = Key::new(&proxy.namespace, &proxy.pod);
            shared.connect(&viewer, &pod, proxy.role).await;
            let end = follow(&shared, &viewer, &proxy, &mut account, first, &mut requests, &responses).await;
            shared.disconnect(&viewer, &pod).await;
            shared.proxies.remove(&proxy);
            if proxy.member().is_some() {
                shared.members_changed.notify_one();
            }
            match &end {
                End::Stuck(_) => warn!(node = proxy.id, reason = %end, "proxy's stream ended"),
                _ => info!(node = proxy.id, reason = %end, "proxy's stream ended"),
            }
            end
        }
        Err(end) => {
            warn!(%address, reason = %end, "discovery stream refused");
            end
        }
    };
    shared.state.metrics.stream_ended(end.word());
    let status = match end {
        End::Refused(_, status) => status,
        End::Left(_) => Status::permission_denied(end.to_string()),
        End::Expired => Status::unauthenticated(end.to_string()),
        End::Silent(_) | End::Stuck(_) => Status::deadline_exceeded(end.to_string()),
        End::Stopping => Status::unavailable("the controller stops"),
        End::Closed | End::Broken(_) => return,
    };
    // If the channel is full, nothing reads from it.
    let _ = responses.try_send(Err(status));
}

/// Waits for the first request, and authorizes its node.
async fn begin(
    shared: &Shared,
    caller: Caller,
    requests: &mut Streaming<DeltaDiscoveryRequest>,
) -> Result<(Viewer, Arc<Proxy>, DeltaDiscoveryRequest), End> {
    let limit = shared.limits.first_request;
    let first = match timeout(limit, requests.message()).await {
        Err(_) => return Err(End::Silent(limit)),
        Ok(Err(status)) => return Err(End::Broken(status)),
        Ok(Ok(None)) => return Err(End::Closed),
        Ok(Ok(Some(first))) => first,
    };
    let id = first.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
    let node: Node = id
        .parse()
        .map_err(|error: name::BadNode| End::Refused("bad node", Status::invalid_argument(error.to_string())))?;
    let viewer = authorize(shared, &caller, &node)?;
    let proxy = shared.proxies.add(Proxy::new(&node, &caller, viewer.clone(), SystemTime::now()));
    Ok((viewer, proxy, first))
}

/// A proxy receives resources for pods of its certificate's namespace, in the cluster whose intermediate signed it.
fn authorize(shared: &Shared, caller: &Caller, node: &Node) -> Result<Viewer, End> {
    let denied = |reason, text: String| Err(End::Refused(reason, Status::permission_denied(text)));
    let peer = &caller.peer;
    if peer.id.namespace() != node.namespace {
        return denied("wrong namespace", format!("{} is not an identity of namespace {:?}", peer.id, node.namespace));
    }
    // A cluster with an intermediate of its own accepts no other signer.
    let signed = match &peer.cluster {
        Some(cluster) => **cluster == *node.cluster,
        None => !caller.issuers.iter().any(|cluster| **cluster == *node.cluster),
    };
    if !signed {
        let text =
            format!("the certificate of {} is not signed by the intermediate of cluster {:?}", peer.id, node.cluster);
        return denied("wrong cluster", text);
    }
    // Until resources are published, the clusters are not all known.
    if shared.state.ready() && shared.state.inventory().cluster(&node.cluster).is_none() {
        let text = format!("cluster {:?} is not part of this mesh: it has no remote secret", node.cluster);
        return denied("unknown cluster", text);
    }
    Ok(Viewer {
        cluster: node.cluster.as_str().into(),
        namespace: node.namespace.as_str().into(),
        workload: name::workload(&node.cluster, &node.namespace, &node.pod).into(),
        account: peer.id.service_account().into(),
        router: node.role == Role::Router,
    })
}

async fn follow(
    shared: &Shared,
    viewer: &Viewer,
    proxy: &Proxy,
    account: &mut Account,
    first: DeltaDiscoveryRequest,
    requests: &mut Streaming<DeltaDiscoveryRequest>,
    responses: &Responses,
) -> End {
    let mut server = Server::default();
    let mut membership = Membership { cluster: viewer.cluster.clone(), joining: None };
    let mut counted = Stats::default();
    let mut changes = shared.state.changes();
    let mut acceptance = Acceptance::default();
    let mut request = Some(first);
    let limit = shared.limits.response;
    // A proxy renews its certificate at half of its lifetime, and reconnects with the new one.
    let life = proxy.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
    let expired = sleep(life.unwrap_or(FOREVER));
    tokio::pin!(expired);
    loop {
        let mut moved = request.is_some();
        if let Some(mut request) = request.take() {
            let report = request.report.take();
            if let Some(report) = &report {
                let pod = Key::new(&proxy.namespace, &proxy.pod);
                shared.state.mailbox.leave(&viewer.cluster, pod, &viewer.account, &report.paths);
            }
            if let Some(report) = report
                && proxy.receive(report)
                && let Err(why) = register(shared, proxy)
            {
                return End::Refused("not of the group", Status::permission_denied(why));
            }
            if let Some(error) = &request.error_detail {
                let kind = Kind::of_url(&request.type_url).map_or("unknown", Kind::as_str);
                warn!(node = proxy.id, kind, error = error.message, "proxy rejected an update and keeps what it had");
            }
            acceptance.note(&request);
            if let Err(refused) = server.receive(request) {
                return End::Refused("bad request", Status::invalid_argument(refused.to_string()));
            }
            if let Err(exceeded) = account.set(server.weight(), |owner| shared.pods(owner)) {
                return End::Refused(exceeded.word(), Status::resource_exhausted(exceeded.to_string()));
            }
        }
        let upto = *changes.borrow_and_update();
        loop {
            let response = match next(shared, viewer, &mut membership, &mut server) {
                Ok(Some(response)) => response,
                Ok(None) => break,
                Err(end) => return end,
            };
            moved = true;
            match timeout(limit, responses.send(Ok(response))).await {
                Err(_) => return End::Stuck(limit),
                Ok(Err(_)) => return End::Closed,
                Ok(Ok(())) => {}
            }
        }
        // Every change wakes every stream, and most streams have nothing to send.
        if moved {
            shared.state.metrics.count(&mut counted, server.stats());
            proxy.report(Progress::of(&server));
            acceptance.has_policies = has_policies(shared, viewer, &server);
        }
        if acceptance.is_current() && server.waiting_since().is_none() {
            proxy.set_current(upto);
        }
        let late = server.waiting_since().map(|since| tokio::time::Instant::from_std(since + limit));
        tokio::select! {
            message = requests.message() => match message {
                Ok(Some(message)) => request = Some(message),
                Ok(None) => return End::Closed,
                Err(status) => return End::Broken(status),
            },
            // The sender lives as long as `shared`.
            _ = changes.changed() => {}
            () = &mut expired, if life.is_some() => return End::Expired,
            () = shared.state.stop.cancelled() => return End::Stopping,
            () = async { sleep_until(late.unwrap_or_else(tokio::time::Instant::now)).await }, if late.is_some() => {
                return End::Stuck(limit);
            }
        }
    }
}

/// Has the workload of a proxy registered, if it asks for that and may be.
fn register(shared: &Shared, proxy: &Proxy) -> Result<(), String> {
    if let Some(member) = proxy.member().filter(|_| shared.state.ready()) {
        registered::admit(&shared.state.inventory(), &member)?;
    }
    shared.members_changed.notify_one();
    Ok(())
}

/// What a proxy has accepted of what it was sent.
#[derive(Default)]
struct Acceptance {
    /// The kinds of which the proxy rejected the last response, in the order of [`Kind::ALL`].
    rejected: [bool; Kind::ALL.len()],
    /// Whether the proxy was sent its workload and all policies of it.
    has_policies: bool,
}

impl Acceptance {
    fn note(&mut self, request: &DeltaDiscoveryRequest) {
        if let (false, Some(kind)) = (request.response_nonce.is_empty(), Kind::of_url(&request.type_url)) {
            self.rejected[kind as usize] = request.error_detail.is_some();
        }
    }

    fn is_current(&self) -> bool {
        self.has_policies && !self.rejected.contains(&true)
    }
}

/// Returns whether a proxy was sent its workload and all policies of it. It subscribes to them one after the other.
fn has_policies(shared: &Shared, viewer: &Viewer, server: &Server) -> bool {
    let store = shared.state.store();
    let found = store.view(viewer).get(Kind::Workload, &viewer.workload).map(|found| found.body());
    drop(store);
    let Some(workload) = found.and_then(|body| Workload::decode(body).ok()) else { return false };
    policies::names_in(&workload).all(|(kind, name)| server.version_sent(kind, name).is_some())
}

/// Returns the next response, once resources are published.
fn next(
    shared: &Shared,
    viewer: &Viewer,
    membership: &mut Membership,
    server: &mut Server,
) -> Result<Option<DeltaDiscoveryResponse>, End> {
    let store = shared.state.store();
    if !store.ready() {
        return Ok(None);
    }
    let response = server.next(&store.view(viewer), Instant::now());
    drop(store);
    // Afterwards: a cluster leaves the inventory before its resources leave the store.
    membership.check(shared)?;
    Ok(response)
}
