//! Conversion of what FederationPolicies have proxies enforce.

use std::net::IpAddr;
use std::sync::Arc;

use wire::discovery as message;

use super::{Result, ip};
use crate::mesh::federation::{AddressRange, Callers, SourceAddresses};

/// Converts from where gateways accept connections to an export.
pub(super) fn sources(message: &message::SourceAddresses) -> Result<Arc<SourceAddresses>> {
    let ranges = |of: &[message::AddressRange]| of.iter().map(range).collect::<Result<Vec<_>>>();
    let (permitted, refused) = (ranges(&message.permitted)?, ranges(&message.refused)?);
    Ok(Arc::new(SourceAddresses::new(permitted, refused, message.permitted_only)))
}

/// Converts who may call a port.
pub(super) fn callers(message: &message::Callers) -> Arc<Callers> {
    let clusters = message.clusters.iter().map(|cluster| cluster.as_str().into()).collect();
    Arc::new(Callers { clusters, plaintext: message.plaintext })
}

fn range(message: &message::AddressRange) -> Result<AddressRange> {
    let ip = ip(&message.ip)?;
    let most = if matches!(ip, IpAddr::V4(_)) { 32 } else { 128 };
    let length = u8::try_from(message.length).ok().filter(|length| *length <= most);
    let length = length.ok_or_else(|| format!("{} is no number of bits of {ip}", message.length))?;
    Ok(AddressRange { ip, length })
}
