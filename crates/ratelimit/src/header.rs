//! The headers `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset` (draft-polli-ratelimit-headers-03), as Envoy has
//! them with `enable_x_ratelimit_headers: DRAFT_VERSION_03`.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use crate::quota::{Quota, Window};

/// Returns the headers that say what is left. `windows` are the limits of a service; a proxy's own limit has none.
pub fn quota_headers(quota: &Quota, windows: &[Window]) -> [(HeaderName, HeaderValue); 3] {
    let mut limit = quota.limit.to_string();
    for Window { requests, seconds, name } in windows {
        // Writing to a string cannot fail.
        let _ = write!(limit, ", {requests};w={seconds}");
        if !name.is_empty() {
            let _ = write!(limit, ";name=\"{name}\"");
        }
    }
    let limit = HeaderValue::from_str(&limit).unwrap_or_else(|_| quota.limit.into());
    let reset = quota.reset.as_secs() + u64::from(quota.reset.subsec_nanos() > 0);
    [
        (HeaderName::from_static("x-ratelimit-limit"), limit),
        (HeaderName::from_static("x-ratelimit-remaining"), quota.remaining.into()),
        (HeaderName::from_static("x-ratelimit-reset"), reset.into()),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_headers_have_the_form_of_the_draft() {
        let quota = Quota { limit: 10, remaining: 3, reset: Duration::from_millis(1500) };
        let values = |windows: &[Window]| quota_headers(&quota, windows).map(|(_, value)| value);
        assert_eq!(values(&[]), ["10", "3", "2"].map(HeaderValue::from_static));
        let window = |name: &str| Window { requests: 10, seconds: 60, name: name.into() };
        assert_eq!(values(&[window(""), window("a")])[0], "10, 10;w=60, 10;w=60;name=\"a\"");
        assert_eq!(values(&[window("a\nb")])[0], "10", "a name that is no header value is left out");
    }
}
