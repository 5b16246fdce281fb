//! The certificates of the servers of routers.

use prost::Message as _;
use wire::discovery::Credential;
use wire::{Kind as ResourceKind, name};

use super::resource::{Audience, Resource};
use crate::inventory::Inventory;
use crate::objects::{Key, ROOTS_SUFFIX, Text};

/// Compiles the credential of a Secret, for the routers of its namespace. Returns `None` if there is no usable one. As in
/// Istio, the roots of a Secret of its own, `<name>-cacert`, take precedence.
pub(super) fn compile(inventory: &Inventory, cluster: &Text, secret: &Key) -> Option<Resource> {
    let own = inventory.credential(cluster, secret)?;
    let of_roots = Key::new(&secret.namespace, &format!("{}{ROOTS_SUFFIX}", secret.name));
    let roots = inventory.credential(cluster, &of_roots).filter(|of| !of.roots.is_empty()).unwrap_or(own);
    let message = Credential {
        certificate_chain: own.chain.to_vec().into(),
        private_key: own.key.to_vec().into(),
        ca_certificates: roots.roots.to_vec().into(),
        crl: roots.revocations.to_vec().into(),
    };
    Some(Resource {
        kind: ResourceKind::Credential,
        name: name::workload(cluster, &secret.namespace, &secret.name).into(),
        keys: Box::default(),
        audience: Audience::Routers { cluster: cluster.clone(), namespace: secret.namespace.clone() },
        body: message.encode_to_vec().into(),
    })
}
