//! The distribution of traffic over tiers: Envoy's priority levels.
//!
//! Source: Envoy's "Priority levels" and "Degraded endpoints" pages. Health is counted by weight instead of endpoints
//! (Envoy's `weighted_priority_health`), because one endpoint may stand for many behind a gateway.

/// The overprovisioning factor in percent: a tier keeps all of its traffic until less than 100/140 (71.4 %) of it is
/// healthy. Envoy's default.
pub const OVERPROVISIONING: u64 = 140;

/// The weight of a tier's endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierHealth {
    /// The weight of the endpoints in use.
    pub available: u64,
    /// The weight of all endpoints.
    pub total: u64,
}

impl TierHealth {
    /// Returns the share of traffic that the tier can carry, in percent.
    pub(crate) fn capacity(self) -> u32 {
        if self.total == 0 {
            return 0;
        }
        let scaled = u128::from(OVERPROVISIONING) * u128::from(self.available) / u128::from(self.total);
        scaled.min(100) as u32
    }
}

/// Returns each tier's share of traffic in percent. The shares add up to 100, or are all 0 if no endpoint is available.
///
/// Each tier carries what it can, in order. If all tiers together cannot carry all traffic, their capacities are scaled
/// up.
pub fn loads(tiers: &[TierHealth]) -> Vec<u32> {
    let capacities: Vec<u32> = tiers.iter().map(|tier| tier.capacity()).collect();
    let together = capacities.iter().sum::<u32>().min(100);
    // The capacity of a tier with one healthy endpoint in a thousand rounds to 0, although the endpoint is available.
    if together == 0 {
        let last_resort = tiers.iter().position(|tier| tier.available > 0);
        return (0..tiers.len()).map(|i| if Some(i) == last_resort { 100 } else { 0 }).collect();
    }
    let mut left = 100;
    let mut shares: Vec<u32> = capacities
        .iter()
        .map(|capacity| {
            let share = (capacity * 100 / together).min(left);
            left -= share;
            share
        })
        .collect();
    // The remainder of rounding goes to the nearest tier with capacity.
    if let Some(first) = capacities.iter().position(|capacity| *capacity > 0) {
        shares[first] += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(healthy_percent: &[u64]) -> Vec<u32> {
        let tiers: Vec<_> =
            healthy_percent.iter().map(|available| TierHealth { available: *available, total: 100 }).collect();
        loads(&tiers)
    }

    #[test]
    fn two_levels_as_envoy_documents_them() {
        for (healthy, expected) in [
            ([100, 100], [100, 0]),
            ([72, 100], [100, 0]),
            ([71, 100], [99, 1]),
            ([70, 100], [98, 2]),
            ([50, 100], [70, 30]),
            ([25, 100], [35, 65]),
            ([0, 100], [0, 100]),
            ([25, 25], [50, 50]),
            ([5, 65], [8, 92]),
        ] {
            assert_eq!(shares(&healthy), expected, "{healthy:?}");
        }
    }

    #[test]
    fn three_levels_as_envoy_documents_them() {
        for (healthy, expected) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 50, 100], [70, 30, 0]),
            ([50, 10, 100], [70, 14, 16]),
            ([25, 100, 100], [35, 65, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([25, 25, 20], [37, 35, 28]),
            ([0, 0, 10], [0, 0, 100]),
            ([0, 0, 0], [0, 0, 0]),
        ] {
            assert_eq!(shares(&healthy), expected, "{healthy:?}");
        }
    }

    #[test]
    fn a_tier_whose_capacity_rounds_to_0_is_still_used() {
        let tiers = [TierHealth { available: 0, total: 5 }, TierHealth { available: 1, total: 1000 }];
        assert_eq!(loads(&tiers), [0, 100]);
    }

    #[test]
    fn an_empty_tier_has_no_share() {
        assert_eq!(loads(&[TierHealth::default(), TierHealth { available: 1, total: 1 }]), [0, 100]);
        assert_eq!(loads(&[]), Vec::<u32>::new());
    }
}
