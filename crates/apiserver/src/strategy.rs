//! How an object of a request becomes a stored object: decoded, defaulted, prepared and validated, as by the strategies of Kubernetes'
//! `registry/rest`.

pub(crate) mod decode;
pub(crate) mod prepare;
