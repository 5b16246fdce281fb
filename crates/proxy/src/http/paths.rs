//! Normal forms of paths, so that routes, policies and the application compare the same path.
//!
//! The form is Istio's `BASE`: dot segments are removed (RFC 3986 §5.2.4), percent-encoded unreserved characters are decoded
//! (§6.2.2.2), and a backslash is a slash. Repeated slashes and all other escapes stay.

use http::{Uri, uri};

/// The path cannot be normalised: it has an encoded NUL, which ends a text for many applications.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedNul;

/// Normalises the path of a request.
pub(super) fn normalize(uri: &mut Uri) -> Result<(), EncodedNul> {
    let Some(path) = normalized(uri.path())? else { return Ok(()) };
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    // Unreserved characters and slashes are valid in a path, so this succeeds.
    if let Ok(target) = uri::PathAndQuery::try_from(target) {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(target);
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
    Ok(())
}

/// Returns the normal form of a path; `None` if it has it already.
fn normalized(path: &str) -> Result<Option<String>, EncodedNul> {
    // Most paths have none of the bytes that matter.
    if memchr::memchr3(b'%', b'\\', b'.', path.as_bytes()).is_none() || !path.starts_with(['/', '\\']) {
        return Ok(None);
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                // `/a/.` is `/a/`.
                if is_last {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    let normal = format!("/{}", segments.join("/"));
    Ok((normal != path).then_some(normal))
}

/// Decodes unreserved characters, and replaces backslashes.
fn decode(path: &str) -> Result<String, EncodedNul> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        let escape = &rest[at..];
        if let Some(after) = escape.strip_prefix('\\') {
            decoded.push('/');
            rest = after;
            continue;
        }
        let code = escape.get(1..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match byte {
            Some(0) => return Err(EncodedNul),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(char::from(byte));
                rest = &escape[3..];
            }
            _ => {
                decoded.push('%');
                rest = &escape[1..];
            }
        }
    }
    decoded.push_str(rest);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_istios_normal_form() {
        for (path, expected) in [
            ("/app", "/app"),
            ("/app/index.html", "/app/index.html"),
            ("/app/../admin", "/admin"),
            ("/public/../admin", "/admin"),
            ("/./public", "/public"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/app//", "/app//"),
            ("/app/%2f", "/app/%2f"),
            ("/xyz%30..//abc", "/xyz0..//abc"),
            ("/app/%2E./admin", "/admin"),
            ("/app/%2e%2e/admin", "/admin"),
            ("/app\\admin", "/app/admin"),
            ("/app/\\/\\/\\admin", "/app//////admin"),
            ("/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc"),
            ("/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc", "/%5Capp%2f%5c%2F..%2fadmin%5c/abc"),
            ("/app//../admin", "/app/admin"),
            ("/app//../../admin", "/admin"),
            ("/%61%20b", "/a%20b"),
            ("/%252e%252e/admin", "/%252e%252e/admin"),
            ("/%c0%ae/admin", "/%c0%ae/admin"),
            ("/..;/admin", "/..;/admin"),
            ("/.../admin", "/.../admin"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/a%+1", "/a%+1"),
            ("*", "*"),
        ] {
            assert_eq!(normalized(path).unwrap().as_deref().unwrap_or(path), expected, "{path}");
        }
        assert_eq!(normalized("/a%00b"), Err(EncodedNul));
    }

    #[test]
    fn a_normal_form_is_one() {
        for path in ["/a/../b/./c//..", "/%2e%2E/%41\\..\\x", "/a/b/../../..", "/%25%32%65/x"] {
            let normal = normalized(path).unwrap().unwrap();
            assert_eq!(normalized(&normal), Ok(None), "{path} → {normal}");
        }
    }

    #[test]
    fn the_query_and_the_authority_stay() {
        let mut uri: Uri = "http://a:1/x/../y?q=/../%61".parse().unwrap();
        normalize(&mut uri).unwrap();
        assert_eq!(uri, "http://a:1/y?q=/../%61");
    }
}
