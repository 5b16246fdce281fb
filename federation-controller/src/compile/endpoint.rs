//! An endpoint as the store keeps it: what is its own, and handles on what it shares. Encoded only when it is sent.
//!
//! Ten thousands of endpoints are told by the names, labels and identities of some hundreds of templates, so those are kept
//! once per template ([`Shape`]) and node ([`Place`]). The version is a hash of all that would be encoded, so two that have
//! the same version have the same encoding, whoever computes it and when.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use wire::discovery::{self, Direct, Health, Locality, Summary};
use wire::name;

use crate::compile::workload::{
    identity as workload_identity, labels as workload_labels, mutual_tls as workload_mutual_tls,
};
use crate::objects::event::{Template, Text};
use crate::publish::{Audience, version};

/// What the endpoints of one cluster and network share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    /// The cluster that they are in.
    pub cluster: Text,
    /// The network that they are on.
    pub network: Text,
    /// All networks.
    pub networks: Arc<[Text]>,
    /// Who may have them.
    pub audience: Audience,
    /// Clusters in which their own addresses lead to the service.
    pub near: Arc<[Text]>,
    /// The trust domain of their identities.
    pub trust_domain: Text,
}

/// What the endpoints of one service and template share.
#[derive(Clone, PartialEq, Debug)]
pub struct Common {
    /// The service.
    pub hostname: Arc<str>,
    /// What other services have in common with them.
    pub scope: Arc<Scope>,
    /// Service port to pod port.
    pub ports: Box<[(u16, u16)]>,
    /// Of their pods; `None` where they have none.
    pub template: Option<Arc<Template>>,
}

impl Deref for Common {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}

impl Common {
    /// Their SPIFFE id; empty where it is not known.
    pub fn identity(&self) -> String {
        self.template.as_ref().map(|template| workload_identity(&self.trust_domain, template)).unwrap_or_default()
    }
}

/// [`Common`] with a hash of it.
#[derive(Debug)]
pub struct Shape {
    common: Common,
    digest: u64,
}

/// Where an endpoint is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// Its region.
    pub region: Text,
    /// Its zone.
    pub zone: Text,
    /// Its part of the zone.
    pub subzone: Text,
    /// Its node; empty for a sum.
    pub node: Text,
}

/// One endpoint, or all of one locality behind gateways.
#[derive(Clone, Debug)]
pub struct Told {
    shape: Arc<Shape>,
    place: Arc<Place>,
    what: What,
}

/// What is its own.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A pod, or an address without one.
    Direct {
        /// Its address.
        ip: IpAddr,
        /// [`Health`] as a number.
        health: u8,
        /// Its pod.
        pod: Option<Text>,
    },
    /// What stands for all pods of a locality.
    Sum {
        /// How many are ready.
        ready: u32,
        /// Their identities and service ports, where these are not simply those of the shape.
        more: Option<Box<More>>,
    },
}

/// See [`What::Sum`].
#[derive(Clone, PartialEq, Debug)]
pub struct More {
    /// SPIFFE ids, in order.
    pub identities: Box<[Text]>,
    /// Service ports of those that are ready, in order.
    pub ports: Box<[u16]>,
}

impl Place {
    /// Without the node.
    pub fn to_wire(&self) -> Locality {
        Locality { region: self.region.to_string(), zone: self.zone.to_string(), subzone: self.subzone.to_string() }
    }
}

impl Shape {
    /// With its hash.
    pub fn new(common: Common) -> Self {
        let digest = version(&message(&common, None).encode_to_vec());
        Shape { common, digest }
    }

    /// What it is.
    pub fn common(&self) -> &Common {
        &self.common
    }
}

impl Told {
    /// One of these.
    pub fn new(shape: Arc<Shape>, place: Arc<Place>, what: What) -> Self {
        Told { shape, place, what }
    }

    /// A hash of its content. Computed each time: that takes as long as one hash of a hundred bytes, and is asked for where
    /// an endpoint is compared with what a proxy holds.
    pub fn version(&self) -> u64 {
        let Told { shape, place, what } = self;
        match what {
            What::Direct { ip, health, pod } => {
                let mut own = Vec::with_capacity(128);
                own.extend(shape.digest.to_le_bytes());
                own.push(*health);
                own.extend(&name::ip_to_bytes(*ip)[..]);
                for part in [&place.region, &place.zone, &place.subzone, &place.node].into_iter().chain(pod) {
                    own.extend(part.as_bytes());
                    own.push(0);
                }
                version(&own)
            }
            // There are few, and most of a shape is not told of them.
            What::Sum { .. } => version(&message(&shape.common, Some((place, what))).encode_to_vec()),
        }
    }

    /// What it shares with others.
    pub fn common(&self) -> &Common {
        &self.shape.common
    }

    /// Its address; `None` for a sum.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.what {
            What::Direct { ip, .. } => Some(*ip),
            What::Sum { .. } => None,
        }
    }

    /// Who may have it.
    pub fn audience(&self) -> &Audience {
        match &self.what {
            What::Direct { .. } => &self.common().audience,
            // Only what is exported is added up.
            What::Sum { .. } => &Audience::All,
        }
    }

    /// Whether it is told to proxies of this network.
    pub fn is_for(&self, network: &str) -> bool {
        let common = self.common();
        match &self.what {
            // A network that nobody names is the same as everybody's.
            What::Direct { .. } if common.network.is_empty() => common.networks.iter().any(|of| **of == *network),
            What::Direct { .. } => *common.network == *network && common.networks.contains(&common.network),
            What::Sum { .. } => *common.network != *network && common.networks.iter().any(|of| **of == *network),
        }
    }

    /// The networks that it is told to.
    pub fn networks(&self) -> impl Iterator<Item = &Text> {
        self.common().networks.iter().filter(|network| self.is_for(network))
    }

    /// Its resource name.
    pub fn name(&self) -> String {
        let common = self.common();
        let (hostname, Scope { network, cluster, .. }) = (&common.hostname, &**common);
        match &self.what {
            What::Direct { ip, .. } => name::endpoint(hostname, network, cluster, &ip.to_string()),
            What::Sum { .. } => {
                let Place { region, zone, subzone, .. } = &*self.place;
                let id = format!("{network}/{region}/{zone}/{subzone}");
                name::endpoint(hostname, name::SUMMARY, cluster, &id)
            }
        }
    }

    /// Whether it has the same name as another of its service, and if not, which comes first: by address, sums last.
    pub fn order(&self, other: &Told) -> Ordering {
        let (common, others) = (self.common(), other.common());
        let whose = || (&common.cluster, &common.network).cmp(&(&others.cluster, &others.network));
        match (self.ip(), other.ip()) {
            (Some(ip), Some(of)) => ip.cmp(&of).then_with(whose),
            (None, None) => whose().then_with(|| self.place.cmp(&other.place)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        }
    }

    /// Whether anything of it differs from what it was: content, names or audience.
    pub fn differs(&self, before: &Told) -> bool {
        let as_before = match &self.what {
            What::Direct { .. } => {
                self.shape.digest == before.shape.digest && self.place == before.place && self.what == before.what
            }
            What::Sum { .. } => self.version() == before.version(),
        };
        !as_before || self.audience() != before.audience() || self.common().networks != before.common().networks
    }

    /// Encoded.
    pub fn encode(&self) -> Bytes {
        message(self.common(), Some((&self.place, &self.what))).encode_to_vec().into()
    }
}

/// As it goes over the wire; of a shape alone, all that its endpoints share.
fn message(common: &Common, own: Option<(&Place, &What)>) -> discovery::Endpoint {
    let place = own.map(|(place, _)| place);
    let mut endpoint = discovery::Endpoint {
        service: common.hostname.to_string(),
        cluster: common.cluster.to_string(),
        network: common.network.to_string(),
        locality: place.map(Place::to_wire),
        health: Health::Ready.into(),
        weight: 1,
        kind: None,
    };
    if let Some((_, What::Sum { ready, more })) = own {
        let health = if *ready > 0 { Health::Ready } else { Health::Unready };
        let (identities, ports) = match more {
            Some(more) => (more.identities.iter().map(ToString::to_string).collect(), more.ports.to_vec()),
            None => (vec![common.identity()], common.ports.iter().map(|(port, _)| *port).collect()),
        };
        (endpoint.health, endpoint.weight) = (health.into(), *ready);
        endpoint.kind = Some(discovery::endpoint::Kind::Summary(Summary {
            ready: *ready,
            identities,
            ports: ports.into_iter().map(u32::from).collect(),
            subset: String::new(),
        }));
        return endpoint;
    }
    let mut direct = Direct {
        ip: Bytes::new(),
        ports: common.ports.iter().map(|(port, target)| ((*port).into(), (*target).into())).collect(),
        identity: common.identity(),
        mutual_tls: common.template.as_ref().is_some_and(|template| workload_mutual_tls(template)),
        pod: String::new(),
        workload: common.template.as_ref().map(|of| workload_labels(&of.namespace, &of.workload, &of.labels)),
        labels: common
            .template
            .iter()
            .flat_map(|of| of.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())))
            .collect(),
        node: place.map(|place| place.node.to_string()).unwrap_or_default(),
    };
    if let Some((_, What::Direct { ip, health, pod })) = own {
        endpoint.health = (*health).into();
        direct.ip = name::ip_to_bytes(*ip);
        direct.pod = pod.as_deref().unwrap_or_default().into();
    }
    endpoint.kind = Some(discovery::endpoint::Kind::Direct(direct));
    endpoint
}
