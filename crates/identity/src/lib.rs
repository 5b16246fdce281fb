//! SPIFFE identities, issuing and verifying X.509, trust bundles and TLS configurations.
