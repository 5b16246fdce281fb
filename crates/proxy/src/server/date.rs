//! The `Date` header, which a proxy adds to responses without one (RFC 9110 §6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};

thread_local! {
    /// The current value, and the second that it is of.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Adds `Date` to a response without one.
pub(super) fn add(headers: &mut HeaderMap) {
    if headers.contains_key(header::DATE) {
        return;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let date = LAST.with_borrow_mut(|(second, date)| {
        if *second != now {
            let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
            (*second, *date) = (now, HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("")));
        }
        date.clone()
    });
    headers.insert(header::DATE, date);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_a_date_only_if_it_is_missing() {
        let mut headers = HeaderMap::new();
        add(&mut headers);
        let added = httpdate::parse_http_date(headers[header::DATE].to_str().unwrap()).unwrap();
        assert!(added.elapsed().unwrap() < Duration::from_secs(5));
        headers.insert(header::DATE, HeaderValue::from_static("existing"));
        add(&mut headers);
        assert_eq!(headers[header::DATE], "existing");
    }
}
