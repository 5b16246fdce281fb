//! Strategies, as in Kubernetes' `registry/rest`: how objects of requests are decoded, defaulted, prepared and
//! validated before they are stored.

pub(crate) mod decode;
pub(crate) mod prepare;
