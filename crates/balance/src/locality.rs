//! Localities and the distance between them.

use std::sync::Arc;

mod policy;

pub use policy::{Distribution, FailoverPriority, LocalityPattern, LocalityPolicy, Preference};

/// A region, zone and subzone. An empty part is unknown.
///
/// The values are those of `topology.kubernetes.io/region`, `…/zone` and `topology.istio.io/subzone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The region, such as `us-west`.
    pub region: Arc<str>,
    /// The zone in the region, such as `us-west-1a`.
    pub zone: Arc<str>,
    /// The subzone, such as a rack.
    pub subzone: Arc<str>,
}

impl Locality {
    /// Creates a locality.
    pub fn new(region: &str, zone: &str, subzone: &str) -> Self {
        Self { region: region.into(), zone: zone.into(), subzone: subzone.into() }
    }

    /// Returns the distance from `own`: 0 same subzone, 1 same zone, 2 same region, 3 elsewhere.
    ///
    /// Without a region of its own, a caller has no preference: the distance is always 0. The levels are Istio's
    /// default failover order.
    pub fn distance_from(&self, own: &Locality) -> u8 {
        if own.region.is_empty() {
            0
        } else if self.region != own.region {
            3
        } else if self.zone != own.zone {
            2
        } else if self.subzone != own.subzone {
            1
        } else {
            0
        }
    }
}

impl std::fmt::Display for Locality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.region)?;
        for part in [&self.zone, &self.subzone] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_follows_region_zone_subzone() {
        let own = Locality::new("us-west", "us-west-1a", "r1");
        let table = [
            (("us-west", "us-west-1a", "r1"), 0),
            (("us-west", "us-west-1a", "r2"), 1),
            (("us-west", "us-west-1b", "r1"), 2),
            (("us-west", "", ""), 2),
            (("us-east", "us-west-1a", "r1"), 3),
            (("", "", ""), 3),
        ];
        for ((region, zone, subzone), distance) in table {
            let other = Locality::new(region, zone, subzone);
            assert_eq!(other.distance_from(&own), distance, "{other}");
            assert_eq!(other.distance_from(&Locality::default()), 0, "{other} from an unknown locality");
        }
    }

    #[test]
    fn displays_as_region_zone_subzone() {
        assert_eq!(Locality::new("r", "z", "s").to_string(), "r/z/s");
        assert_eq!(Locality::new("r", "z", "").to_string(), "r/z");
        assert_eq!(Locality::default().to_string(), "");
    }
}
