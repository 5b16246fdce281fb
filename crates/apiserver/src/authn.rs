//! Who is asking: client certificates (common name and organisations), service accounts' tokens, impersonation, or nobody.

pub(crate) mod tokens;
mod user;

use user::AUTHENTICATED;
pub(crate) use user::User;

use http::HeaderMap;

use crate::status::{Result, Status};
use tokens::Tokens;

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

    #[test]
    fn impersonation_of_a_service_account_implies_its_groups() {
        let mut headers = HeaderMap::new();
        assert_eq!(impersonated(&headers), None);
        headers.insert("impersonate-user", "system:serviceaccount:default:web".parse().expect("legal"));
        let user = impersonated(&headers).expect("asked for");
        assert!(user.in_group("system:serviceaccounts:default"));
    }
}
