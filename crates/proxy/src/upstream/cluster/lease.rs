//! Connections of a cluster: from a pool, or new ones to the endpoints that win the race.

use std::collections::hash_map::Entry;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use balance::{Outcome, Pick};
use tokio::sync::oneshot;

use super::super::connect::{self, DialLimits, DialOptions, Dialing, OpenConnection};
use super::super::http1::AbortOnDrop;
use super::super::pool::Pool;
use super::super::target::Target;
use super::{LeasedConnection, UpstreamCluster};
use crate::failure::Failure;
use crate::http::Version;

impl UpstreamCluster {
    /// Returns a connection for a request, to an endpoint that is not in `tried` if there is another. Calls `dial` if no
    /// connection is open. `now` is approximate; `hash` is the request's, if the cluster has a hash key.
    pub async fn lease(
        self: &Rc<Self>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        hash: Option<u64>,
        now: Instant,
        dial: impl Fn() -> DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let permit = if self.limited.get() {
            Some(self.shared.request().ok_or(Failure::Overflow("the number of requests".into()))?)
        } else {
            None
        };
        let pick = self.pick(tried, hash, now)?;
        let pool = self.pool(&pick);
        let mut leased = if let Some(lease) = pool.take(version).await {
            LeasedConnection { pick: Rc::new(pick), pool, lease }
        } else {
            // Boxed: connecting takes ten times the space of the rest, which each request would move.
            let (pick, dial) = (Rc::new(pick), dial());
            match version {
                _ if self.limited.get() => Box::pin(self.lease_within_limits(pick, pool, version, tried, dial)).await?,
                Version::Http1 => Box::pin(self.lease_first(pick, pool, tried, dial)).await?,
                Version::Http2 => Box::pin(self.open_and_lease(pick, &pool, version, tried, &dial)).await?,
            }
        };
        if permit.is_some() {
            leased.lease.permit = permit;
        }
        Ok(leased)
    }

    /// Returns a connection within the cluster's limits: a new one if another one may be opened, else one that becomes free.
    async fn lease_within_limits(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: Rc<Pool>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        mut dial: DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let _pending = self.shared.pending().ok_or(Failure::Overflow("the number of waiting requests".into()))?;
        self.give_up_idle_connections();
        let place = match self.shared.connection() {
            Some(place) => place,
            None => {
                if let Some(lease) = pool.take_any(version).await {
                    return Ok(LeasedConnection { pick, pool, lease });
                }
                tokio::select! {
                    biased;
                    lease = pool.released() => return Ok(LeasedConnection { pick, pool: pool.clone(), lease }),
                    place = self.shared.next_connection() => place,
                }
            }
        };
        dial.limits = Some(DialLimits::new(self.shared.clone(), Some(place)));
        match version {
            Version::Http1 => self.lease_first(pick, pool, tried, dial).await,
            Version::Http2 => self.open_and_lease(pick, &pool, version, tried, &dial).await,
        }
    }

    /// Closes idle connections of this worker when others need their places, from now on.
    fn give_up_idle_connections(self: &Rc<Self>) {
        self.watched.get_or_init(|| {
            let (cluster, shared): (Weak<Self>, _) = (Rc::downgrade(self), self.shared.clone());
            let watching = tokio::task::spawn_local(async move {
                loop {
                    shared.connection_needed().await;
                    let Some(cluster) = cluster.upgrade() else { return };
                    let pools: Vec<Rc<Pool>> = cluster.pools.borrow().values().map(|(_, pool)| pool.clone()).collect();
                    pools.iter().find(|pool| pool.close_idle());
                }
            });
            AbortOnDrop(watching.abort_handle())
        });
    }

    /// Returns a connection of HTTP/1.1: a new one, or one that another request releases, whichever comes first. The new one
    /// is opened in any case, for the next request: if all is slow, requests would otherwise each wait for one handshake
    /// more, which makes everything slower.
    async fn lease_first(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: Rc<Pool>,
        tried: &mut Vec<Arc<str>>,
        dial: DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let (send, opened) = oneshot::channel();
        let (cluster, first, to, mut before) = (self.clone(), pick.clone(), pool.clone(), tried.clone());
        tokio::task::spawn_local(async move {
            let leased = cluster.open_and_lease(first, &to, Version::Http1, &mut before, &dial).await;
            if let Err((Ok(leased), _)) = send.send((leased, before)) {
                leased.lease.release();
            }
        });
        tokio::select! {
            biased;
            opened = opened => {
                // The task ends without a result only with the worker.
                let (leased, before) = opened.map_err(|_| Failure::NoEndpoint(self.key.hostname.clone()))?;
                *tried = before;
                leased
            }
            lease = pool.released() => Ok(LeasedConnection { pick, pool: pool.clone(), lease }),
        }
    }

    async fn open_and_lease(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: &Rc<Pool>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        dial: &DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let opening = match pool.open_or_take(version).await {
            Ok(opening) => opening,
            Err(lease) => return Ok(LeasedConnection { pick, pool: pool.clone(), lease }),
        };
        let (pick, opened) = self.open(pick, tried, Some(version), dial).await?;
        // The pool of the endpoint that won the race.
        let pool = self.pool(&pick);
        let adopted = pool.adopt(opened, version).await;
        drop(opening);
        match adopted {
            Ok(lease) => Ok(LeasedConnection { pick, pool, lease }),
            Err(error) => {
                let now = Instant::now();
                pick.report(Outcome::ConnectFailure, now);
                pick.target.failed(now);
                Err(Failure::Connect { endpoint: pick.target.address.to_string().into(), error, retried: false })
            }
        }
    }

    /// Opens a connection for opaque bytes. `hash` is the connection's, if the cluster has a hash key.
    pub async fn connect(
        self: &Rc<Self>,
        hash: Option<u64>,
        dial: &DialOptions,
    ) -> Result<(Rc<Pick<Arc<Target>>>, OpenConnection), Failure> {
        let mut tried = Vec::new();
        let first = self.pick(&tried, hash, Instant::now())?;
        let mut dial = dial.clone();
        if self.limited.get() {
            self.give_up_idle_connections();
            dial.limits = Some(DialLimits::new(self.shared.clone(), None));
        }
        let (pick, opened) = self.open(Rc::new(first), &mut tried, None, &dial).await?;
        pick.report(Outcome::Success, Instant::now());
        Ok((pick, opened))
    }

    async fn open(
        self: &Rc<Self>,
        first: Rc<Pick<Arc<Target>>>,
        tried: &mut Vec<Arc<str>>,
        version: Option<Version>,
        dial: &DialOptions,
    ) -> Result<(Rc<Pick<Arc<Target>>>, OpenConnection), Failure> {
        // An endpoint that has answered others since is busy, not gone.
        let is_late = |pick: &Pick<Arc<Target>>| {
            self.late.borrow().get(&pick.id).is_some_and(|since| !pick.has_succeeded_since(*since))
        };
        let clear_pool = |pick: &Pick<Arc<Target>>| self.clear_pool(&pick.id);
        let race =
            connect::race(&self.balancer, first, tried, connect::alpn_of(version), dial, is_late, clear_pool).await?;
        race.pick.target.succeeded(Instant::now());
        for dialing in race.late {
            // One attempt for each endpoint shows as much as many.
            if let Entry::Vacant(late) = self.late.borrow_mut().entry(dialing.pick.id.clone()) {
                late.insert(dialing.since);
                tokio::task::spawn_local(self.clone().finish(dialing, version));
            }
        }
        Ok((race.pick, race.opened))
    }

    /// Lets an attempt go on that another endpoint was faster than: the endpoint is far away, busy or gone, and only the
    /// attempt's end shows which. Its connection is kept for the next request.
    async fn finish(self: Rc<Self>, mut dialing: Dialing, version: Option<Version>) {
        let opened = (&mut dialing).await;
        let pick = &dialing.pick;
        self.late.borrow_mut().remove(&pick.id);
        if opened.is_ok() {
            pick.target.succeeded(Instant::now());
        }
        match (opened, version) {
            (Ok(opened), Some(version)) => {
                let pool = self.pools.borrow().get(&pick.id).map(|(_, pool)| pool.clone());
                if let Some(pool) = pool
                    && let Ok(lease) = pool.adopt(opened, version).await
                {
                    lease.release();
                }
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::debug!(%error, endpoint = %pick.target.address, "a late attempt to connect failed");
                if dialing.report_failure() {
                    self.clear_pool(&pick.id);
                }
            }
        }
    }
}
