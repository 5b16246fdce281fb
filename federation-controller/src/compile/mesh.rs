//! The mesh-wide resources: settings and trust bundle.

use prost::Message;
use wire::discovery::{
    AccessLogEncoding, AddressBlock, DrainedCluster, Issuer, MeshConfig, OutboundPolicy, PathNormalization, Trust,
};
use wire::{Kind, name};

use super::resource::Resource;
use crate::inventory::{ClusterInventory, Inventory};
use crate::leases::Leases;
use crate::objects::Text;

/// The number of address blocks, which every proxy has.
const MAX_BLOCKS: usize = 1024;

/// Compiles the mesh-wide settings.
pub(super) fn settings(inventory: &Inventory) -> Resource {
    let mesh = inventory.mesh();
    let outbound = if mesh.registry_only { OutboundPolicy::RegistryOnly } else { OutboundPolicy::AllowAny };
    let encoding = if mesh.access_log_json { AccessLogEncoding::Json } else { AccessLogEncoding::Text };
    let body = MeshConfig {
        mesh_id: mesh.mesh_id.to_string(),
        cluster_domain: inventory.settings().cluster_domain.to_string(),
        outbound_policy: outbound.into(),
        access_log_file: mesh.access_log_file.to_string(),
        access_log_encoding: encoding.into(),
        access_log_format: mesh.access_log_format.to_string(),
        connect_timeout_ms: mesh.connect_timeout_ms,
        protocol_detection_timeout_ms: mesh.protocol_detection_timeout_ms,
        locality_load_balancing: mesh.locality_load_balancing,
        path_normalization: match mesh.path_normalization {
            api::mesh::PathNormalization::Base => PathNormalization::Base,
            api::mesh::PathNormalization::None => PathNormalization::None,
            api::mesh::PathNormalization::MergeSlashes => PathNormalization::MergeSlashes,
            api::mesh::PathNormalization::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        }
        .into(),
        entries: inventory.has_entries(),
        wildcard_entries: inventory.primary().is_some_and(ClusterInventory::has_wildcard_entries),
        address_blocks: inventory.primary().map(address_blocks).unwrap_or_default(),
        drained: drained(inventory),
        path_interval_ms: path_interval_ms(inventory),
    };
    Resource::for_all(Kind::MeshConfig, name::MESH, body.encode_to_vec())
}

fn drained(inventory: &Inventory) -> Vec<DrainedCluster> {
    let mut drained = Vec::new();
    for (cluster, viewers) in inventory.leases().drained() {
        let viewers = viewers.map(ToString::to_string).collect();
        drained.push(DrainedCluster { cluster: cluster.to_string(), viewers });
    }
    drained
}

/// Returns how often proxies report of their paths; 0 for their default, which is that of leases of the default length.
fn path_interval_ms(inventory: &Inventory) -> u32 {
    let interval = inventory.leases().interval();
    let usual = Leases::default().interval();
    if interval == usual { 0 } else { u32::try_from(interval.as_millis()).unwrap_or(u32::MAX) }
}

fn address_blocks(own: &ClusterInventory) -> Vec<AddressBlock> {
    let block = |(block, hostname): (String, Text)| {
        let (ip, length) = block.split_once('/')?;
        let ip = name::ip_to_bytes(ip.parse().ok()?);
        Some(AddressBlock { ip, length: length.parse().ok()?, hostname: hostname.to_string() })
    };
    own.address_blocks(MAX_BLOCKS).into_iter().filter_map(block).collect()
}

/// Compiles the trust bundle. Returns `None` until the certificate authority has one.
pub(super) fn trust(inventory: &Inventory) -> Option<Resource> {
    let trust = inventory.trust()?;
    let issuer = |(cluster, hash): &(_, bytes::Bytes)| {
        let cluster: &std::sync::Arc<str> = cluster;
        Issuer { cluster: cluster.to_string(), public_key_sha256: hash.clone() }
    };
    let body = Trust {
        trust_domain: trust.trust_domain.to_string(),
        roots: trust.roots.clone(),
        issuers: trust.issuers.iter().map(issuer).collect(),
    };
    Some(Resource::for_all(Kind::Trust, name::MESH, body.encode_to_vec()))
}
