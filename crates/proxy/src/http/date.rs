//! The `Date` of responses that came without one, which a proxy has to add (RFC 9110 §6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};

thread_local! {
    /// The last one that was written, and its second.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Dates a response that has no date.
pub(super) fn tell(headers: &mut HeaderMap) {
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
    fn dates_what_has_no_date() {
        let mut headers = HeaderMap::new();
        tell(&mut headers);
        let told = httpdate::parse_http_date(headers[header::DATE].to_str().unwrap()).unwrap();
        assert!(told.elapsed().unwrap() < Duration::from_secs(5));
        headers.insert(header::DATE, HeaderValue::from_static("mine"));
        tell(&mut headers);
        assert_eq!(headers[header::DATE], "mine");
    }
}
