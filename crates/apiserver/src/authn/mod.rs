//! Who is asking: client certificates (common name and organisations), service accounts' tokens, impersonation, or nobody.

pub(crate) mod tokens;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::status::{Result, Status};
use tokens::Tokens;

/// Group of everybody who proved who they are.
const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated caller, or the anonymous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// Further facts, such as the pod that a token is bound to.
    pub(crate) extra: Vec<(String, Vec<String>)>,
}

impl User {
    pub(crate) fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), uid: String::new(), groups, extra: Vec::new() }
    }

    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    /// The subject of a client certificate, which TLS has verified.
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

    /// `authentication.k8s.io/v1` UserInfo.
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

/// The caller, by certificate if the connection has one, else by bearer token, else nobody.
pub(crate) fn authenticate(certificate_user: Option<&User>, headers: &HeaderMap, tokens: &Tokens<'_>) -> Result<User> {
    if let Some(user) = certificate_user {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(http::header::AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header.to_str().ok().and_then(|header| {
        let (scheme, token) = header.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let Some(token) = token else { return Err(Status::unauthorized()) };
    tokens.verify(token, &[]).map(|verified| verified.user).map_err(|refusal| {
        tracing::debug!(%refusal, "bearer token refused");
        Status::unauthorized()
    })
}

/// Whom the caller wants to act as (`kubectl --as`), if anyone. The caller's right to do so is checked by the caller of this.
pub(crate) fn impersonated(headers: &HeaderMap) -> Option<User> {
    let name = headers.get("impersonate-user")?.to_str().ok()?.to_owned();
    let texts = |key: &str| -> Vec<String> {
        headers.get_all(key).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let mut groups = texts("impersonate-group");
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    if let (Some((namespace, account)), true) = (account, groups.is_empty()) {
        return Some(User::service_account(namespace, account, ""));
    }
    if name != "system:anonymous" && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let uid = texts("impersonate-uid").pop().unwrap_or_default();
    Some(User { name, uid, groups, extra: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::ClusterCa;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn certificates_name_user_and_groups() {
        let ca = ClusterCa::generate("west").expect("makes a CA");
        let pair = ca.client("jane", "dev").expect("signs");
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("is PEM");
        let user = User::from_certificate(&der).expect("has a subject");
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
    }

    #[test]
    fn impersonation_of_a_service_account_implies_its_groups() {
        let mut headers = HeaderMap::new();
        assert_eq!(impersonated(&headers), None);
        headers.insert("impersonate-user", "system:serviceaccount:default:web".parse().expect("legal"));
        let user = impersonated(&headers).expect("asked for");
        assert!(user.in_group("system:serviceaccounts:default"));
    }
}
