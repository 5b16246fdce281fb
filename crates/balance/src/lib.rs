//! Choosing an endpoint: locality tiers, failover, subsets, algorithms and outlier detection. No IO.
