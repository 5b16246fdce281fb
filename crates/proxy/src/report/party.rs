//! Workloads as parties to metrics, and how sidecars exchange their labels.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use identity::Peer;
use telemetry::istio::Party;

use crate::mesh::{OwnWorkload, ProxyLocation, WorkloadLabels};

/// The own workload, as metrics and peers see it.
pub struct OwnParty {
    workload: Option<Arc<OwnWorkload>>,
    pub(super) party: Rc<Party>,
    /// The value of the header by which sidecars exchange labels ([`crate::http::headers::PEER`]).
    pub header: HeaderValue,
}

impl OwnParty {
    pub(super) fn new(
        workload: Option<&Arc<OwnWorkload>>,
        principal: &str,
        location: &ProxyLocation,
        intern: impl FnOnce(Party) -> Rc<Party>,
    ) -> Self {
        let labels = workload.map(|own| own.labels.clone()).unwrap_or_default();
        let mut party = endpoint_party(&labels, &location.cluster);
        if party.namespace.is_empty() {
            party.namespace = location.namespace.clone();
        }
        party.principal = principal.into();
        let header = encode(&party);
        Self { workload: workload.cloned(), party: intern(party), header }
    }

    /// Returns whether it was built from this workload.
    pub(super) fn is_of(&self, workload: Option<&Arc<OwnWorkload>>) -> bool {
        match (&self.workload, workload) {
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            (known, now) => known.is_none() && now.is_none(),
        }
    }
}

/// Returns the party of an endpoint whose labels discovery sent.
pub fn endpoint_party(labels: &WorkloadLabels, cluster: &Arc<str>) -> Party {
    Party {
        workload: labels.workload.clone(),
        namespace: labels.namespace.clone(),
        principal: Arc::default(),
        app: labels.app.clone(),
        version: labels.version.clone(),
        canonical_service: labels.canonical_service.clone(),
        canonical_revision: labels.canonical_revision.clone(),
        cluster: cluster.clone(),
    }
}

/// Returns the party of a peer: from the identity that it proved and, for labels that no certificate has, from the header
/// that its sidecar sent.
pub(super) fn peer_party(header: Option<&HeaderValue>, peer: Option<&Peer>) -> Party {
    let mut party = header.map(decode).unwrap_or_default();
    if let Some(peer) = peer {
        party.principal = peer.id.as_str().into();
        party.namespace = peer.id.namespace().into();
        if let Some(cluster) = &peer.cluster {
            party.cluster = cluster.clone();
        }
    }
    party
}

fn encode(party: &Party) -> HeaderValue {
    let fields = [
        &party.workload,
        &party.namespace,
        &party.app,
        &party.version,
        &party.canonical_service,
        &party.canonical_revision,
        &party.cluster,
    ];
    let clean = |field: &&Arc<str>| if field.contains(';') { String::new() } else { field.to_string() };
    let text = fields.iter().map(clean).collect::<Vec<_>>().join(";");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

fn decode(value: &HeaderValue) -> Party {
    /// Kubernetes allows 63 characters in label values and 253 in names of objects.
    const MAX_LENGTH: usize = 253;
    let fields = value.to_str().unwrap_or_default().split(';');
    let mut fields = fields.map(|field| if field.len() > MAX_LENGTH { "" } else { field });
    let mut next = || Arc::from(fields.next().unwrap_or_default());
    Party {
        workload: next(),
        namespace: next(),
        app: next(),
        version: next(),
        canonical_service: next(),
        canonical_revision: next(),
        cluster: next(),
        principal: Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_carries_all_labels() {
        let labels = WorkloadLabels {
            workload: "reviews-v1".into(),
            namespace: "default".into(),
            app: "reviews".into(),
            version: "v1".into(),
            canonical_service: "reviews".into(),
            canonical_revision: "v1".into(),
        };
        let party = endpoint_party(&labels, &"west".into());
        assert_eq!(decode(&encode(&party)), party);
        assert_eq!(decode(&HeaderValue::from_static("")), Party::default());
        assert_eq!(decode(&HeaderValue::from_bytes(b"\xff;\xfe").unwrap()), Party::default());
        let long = "x".repeat(300);
        assert_eq!(decode(&HeaderValue::from_str(&long).unwrap()), Party::default());
    }

    #[test]
    fn the_identity_of_the_certificate_overrides_the_header() {
        let header = HeaderValue::from_static("admin;kube-system;admin;v1;admin;v1;east");
        let peer =
            Peer { id: "spiffe://cluster.local/ns/default/sa/frontend".parse().unwrap(), cluster: Some("west".into()) };
        let party = peer_party(Some(&header), Some(&peer));
        assert_eq!((&*party.namespace, &*party.cluster), ("default", "west"));
        assert_eq!(&*party.principal, "spiffe://cluster.local/ns/default/sa/frontend");
    }
}
