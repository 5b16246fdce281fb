//! Authentication by client certificate (common name and organisations) or service account token, and impersonation.

pub(crate) mod tokens;
mod user;

use user::AUTHENTICATED;
pub(crate) use user::UserInfo;

use http::HeaderMap;

use crate::status::{Result, Status};
use tokens::TokenVerifier;

/// Returns the caller: the subject of the client certificate, else of the bearer token, else the anonymous user.
pub(crate) fn authenticate(
    certificate_user: Option<&UserInfo>,
    headers: &HeaderMap,
    tokens: &TokenVerifier<'_>,
) -> Result<UserInfo> {
    if let Some(user) = certificate_user {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(http::header::AUTHORIZATION) else { return Ok(UserInfo::anonymous()) };
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

/// The user that the caller impersonates (`kubectl --as`), if any. Whether the caller may do so is checked elsewhere.
pub(crate) fn impersonated(headers: &HeaderMap) -> Option<UserInfo> {
    let name = headers.get("impersonate-user")?.to_str().ok()?.to_owned();
    let texts = |key: &str| -> Vec<String> {
        headers.get_all(key).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let mut groups = texts("impersonate-group");
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    if let (Some((namespace, account)), true) = (account, groups.is_empty()) {
        return Some(UserInfo { extra: extra(headers), ..UserInfo::service_account(namespace, account, "") });
    }
    if name != "system:anonymous" && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let uid = texts("impersonate-uid").pop().unwrap_or_default();
    Some(UserInfo { name, uid, groups, extra: extra(headers) })
}

/// The attributes in `Impersonate-Extra-<key>` headers. Keys are in lower case and percent-encoded.
fn extra(headers: &HeaderMap) -> Vec<(String, Vec<String>)> {
    let keys = headers.keys().filter_map(|name| Some((name, name.as_str().strip_prefix("impersonate-extra-")?)));
    keys.map(|(name, key)| {
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
        (key, values.collect())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impersonated_service_account_has_its_groups() {
        let mut headers = HeaderMap::new();
        assert_eq!(impersonated(&headers), None);
        headers.insert("impersonate-user", "system:serviceaccount:default:web".parse().expect("legal"));
        let user = impersonated(&headers).expect("impersonated");
        assert!(user.in_group("system:serviceaccounts:default"));
    }

    #[test]
    fn further_attributes_are_impersonated() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-user", "jane".parse().expect("legal"));
        headers.append("Impersonate-Extra-example.com%2Fscopes", "one".parse().expect("legal"));
        headers.append("Impersonate-Extra-example.com%2Fscopes", "two".parse().expect("legal"));
        let user = impersonated(&headers).expect("impersonated");
        assert_eq!(user.extra, [("example.com/scopes".to_owned(), vec!["one".to_owned(), "two".to_owned()])]);
    }
}
