//! The caller of a request.

use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group of all authenticated callers.
pub(super) const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated or anonymous caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserInfo {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// Further attributes, such as the pod that a token is bound to.
    pub(crate) extra: Vec<(String, Vec<String>)>,
}

impl UserInfo {
    pub(crate) fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), uid: String::new(), groups, extra: Vec::new() }
    }

    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    /// The subject of a client certificate that TLS has verified.
    pub(crate) fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        if name.is_empty() {
            return None;
        }
        let mut groups: Vec<String> =
            subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
        groups.push(AUTHENTICATED.to_owned());
        Some(Self { name, uid: String::new(), groups, extra: Vec::new() })
    }

    /// A service account.
    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra: Vec::new(),
        }
    }

    /// The `authentication.k8s.io/v1` UserInfo.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({ "username": self.name, "groups": self.groups });
        if !self.uid.is_empty() {
            value["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            let extra: Map<String, Value> =
                self.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
            value["extra"] = Value::Object(extra);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::ClusterCa;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn the_subject_of_a_certificate_is_user_and_groups() {
        let ca = ClusterCa::generate("west").expect("makes a CA");
        let pair = ca.client("jane", "dev").expect("signs");
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("is PEM");
        let user = UserInfo::from_certificate(&der).expect("has a subject");
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
    }
}
