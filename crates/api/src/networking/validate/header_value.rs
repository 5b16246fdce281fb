//! The values of headers: text with command operators of Envoy's access log format, such as `%DOWNSTREAM_REMOTE_ADDRESS%`.

/// Checks a value: no control characters, and every `%` either doubled or around an operator, as in `%REQ(X-A)%`.
pub(super) fn check(value: &str) -> Result<(), String> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("has a control character; remove it".to_owned());
    }
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(after) => after,
            None => operator(after).ok_or_else(|| {
                "has a \"%\" that is not part of an operator such as %HOSTNAME%; write \"%%\" for the character"
                    .to_owned()
            })?,
        };
    }
    Ok(())
}

/// Returns what follows an operator, of which the `%` before it has been read.
fn operator(text: &str) -> Option<&str> {
    let end = text.find(['%', '('])?;
    if text[end..].starts_with('%') {
        return Some(&text[end + 1..]);
    }
    let mut escaped = false;
    let close = text[end..].find(|c| {
        let found = c == ')' && !escaped;
        escaped = c == '\\' && !escaped;
        found
    })?;
    let after = &text[end + close + 1..];
    // A length may follow, as in %REQ(X-A):10%.
    let after = after.strip_prefix(':').map_or(after, |after| after.trim_start_matches(|c: char| c.is_ascii_digit()));
    after.trim_start_matches(' ').strip_prefix('%')
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn operators_are_closed() {
        for good in [
            "",
            "a b",
            "100%%",
            "%HOSTNAME%",
            "a %REQ(X-A?Y):10% b%%",
            "%PER_REQUEST_STATE(a\\)b)%",
            "%X([\"a\", \"b\"])%",
            "tab\tbed",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["100%", "%HOSTNAME", "%A%%", "%REQ(%", "%REQ(a) b%", "line\nfeed", "%REQ(a\\)%"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
