//! Normal forms of paths, so that routes, policies and the application compare the same path.
//!
//! The forms are those of Istio's `pathNormalization`.
//!
//! Parameters (`;…`, RFC 3986 §3.3) stay in every form, but a dot segment with parameters is a dot segment, as in Envoy since
//! CVE-2026-73551: servers of servlets remove them first.

use std::borrow::Cow;

use http::{Uri, uri};

/// The form to which paths are brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// As they are, but for an encoded NUL, which is refused.
    None,
    /// Dot segments are removed (RFC 3986 §5.2.4), percent-encoded unreserved characters are decoded (§6.2.2.2), and a
    /// backslash is a slash. Repeated slashes and all other escapes stay.
    #[default]
    Base,
    /// Repeated slashes are one as well.
    MergeSlashes,
    /// Encoded slashes and backslashes are decoded before that.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// Returns this form of a path without a query; `None` if requests with this path are refused.
    pub fn of(self, path: &str) -> Option<Cow<'_, str>> {
        let normal = normalized(path, self).ok()?;
        Some(normal.map_or(Cow::Borrowed(path), Cow::Owned))
    }
}

/// The path cannot be normalised: it has an encoded NUL, which ends a text for many applications.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedNul;

/// Normalises the path of a request.
pub(super) fn normalize(uri: &mut Uri, form: PathNormalization) -> Result<(), EncodedNul> {
    let Some(path) = normalized(uri.path(), form)? else { return Ok(()) };
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
fn normalized(path: &str, form: PathNormalization) -> Result<Option<String>, EncodedNul> {
    let merges = matches!(form, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes);
    // Most paths have none of the bytes that matter.
    let plain = memchr::memchr3(b'%', b'\\', b'.', path.as_bytes()).is_none();
    if (plain && !(merges && path.contains("//"))) || !path.starts_with(['/', '\\']) {
        return Ok(None);
    }
    if form == PathNormalization::None {
        return if path.contains("%00") { Err(EncodedNul) } else { Ok(None) };
    }
    let decoded = decode(path, form == PathNormalization::DecodeAndMergeSlashes)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        let bare = segment.split_once(';').map_or(segment, |(bare, _)| bare);
        match bare {
            "." | ".." => {
                if bare == ".." {
                    segments.pop();
                }
                // `/a/.` is `/a/`.
                if is_last {
                    segments.push("");
                }
            }
            _ => segments.push(segment),
        }
    }
    if merges {
        // The last one is empty if the path ends with a slash.
        let last = segments.len().saturating_sub(1);
        let mut index = 0;
        segments.retain(|segment| {
            index += 1;
            !segment.is_empty() || index - 1 == last
        });
    }
    let normal = format!("/{}", segments.join("/"));
    Ok((normal != path).then_some(normal))
}

/// Decodes unreserved characters, and slashes if they are to be, and replaces backslashes.
fn decode(path: &str, slashes: bool) -> Result<String, EncodedNul> {
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
            Some(b'/' | b'\\') if slashes => {
                decoded.push('/');
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
            ("/..;/admin", "/admin"),
            ("/public/..;x=1;y/admin", "/admin"),
            ("/public/%2e%2e;/admin", "/admin"),
            ("/public/.;/admin", "/public/admin"),
            ("/a/b/..;", "/a/"),
            ("/a/.;v=1", "/a/"),
            ("/admin;a=../b", "/admin;a=../b"),
            ("/a/b;c/../d;e", "/a/d;e"),
            ("/..%3b/admin", "/..%3b/admin"),
            ("/;../admin", "/;../admin"),
            ("/.../admin", "/.../admin"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/a%+1", "/a%+1"),
            ("*", "*"),
        ] {
            assert_eq!(
                normalized(path, PathNormalization::Base).unwrap().as_deref().unwrap_or(path),
                expected,
                "{path}"
            );
        }
        for form in [PathNormalization::None, PathNormalization::Base, PathNormalization::DecodeAndMergeSlashes] {
            assert_eq!(normalized("/a%00b", form), Err(EncodedNul));
            assert_eq!(form.of("/a%00b"), None);
        }
        assert_eq!(PathNormalization::Base.of("/a/../b").as_deref(), Some("/b"));
    }

    #[test]
    fn other_forms_merge_and_decode_slashes_or_leave_paths_alone() {
        // The form of NONE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES.
        for (path, expected) in [
            ("/app", ["/app", "/app", "/app"]),
            ("/app/../admin", ["/app/../admin", "/admin", "/admin"]),
            ("/app//", ["/app//", "/app/", "/app/"]),
            ("//app", ["//app", "/app", "/app"]),
            ("/app/%2f", ["/app/%2f", "/app/%2f", "/app/"]),
            ("/app%2f/", ["/app%2f/", "/app%2f/", "/app/"]),
            ("/xyz%30..//abc", ["/xyz%30..//abc", "/xyz0../abc", "/xyz0../abc"]),
            ("/app\\admin", ["/app\\admin", "/app/admin", "/app/admin"]),
            ("/app/\\/\\/\\admin", ["/app/\\/\\/\\admin", "/app/admin", "/app/admin"]),
            ("/%2Fapp%5cadmin%5Cabc", ["/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"]),
            (
                "/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc",
                ["/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc", "/%5Capp%2f%5c%2F..%2fadmin%5c/abc", "/app/admin/abc"],
            ),
            ("/app//../admin", ["/app//../admin", "/app/admin", "/app/admin"]),
            ("/app//../../admin", ["/app//../../admin", "/admin", "/admin"]),
            ("/%c0%2e%c0%2e/admin", ["/%c0%2e%c0%2e/admin", "/%c0.%c0./admin", "/%c0.%c0./admin"]),
            ("/%c0%2fadmin", ["/%c0%2fadmin", "/%c0%2fadmin", "/%c0/admin"]),
            ("/%252e%252e/admin", ["/%252e%252e/admin"; 3]),
            ("/%252f/admin", ["/%252f/admin"; 3]),
            ("/a/b//..", ["/a/b//..", "/a/b/", "/a/b/"]),
            ("//", ["//", "/", "/"]),
            ("/", ["/"; 3]),
            ("*", ["*"; 3]),
        ] {
            use PathNormalization::*;
            let found = [None, MergeSlashes, DecodeAndMergeSlashes]
                .map(|form| normalized(path, form).unwrap().unwrap_or_else(|| path.to_owned()));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn a_normal_form_is_one() {
        for path in ["/a/../b/./c//..", "/%2e%2E/%41\\..\\x", "/a/b/../../..", "/%25%32%65/x", "//%2f//a/%5c/.//"] {
            use PathNormalization::*;
            for form in [Base, MergeSlashes, DecodeAndMergeSlashes] {
                let normal = normalized(path, form).unwrap().unwrap_or_else(|| path.to_owned());
                assert_eq!(normalized(&normal, form), Ok(Option::None), "{path} → {normal}");
            }
        }
    }

    #[test]
    fn the_query_and_the_authority_stay() {
        let mut uri: Uri = "http://a:1/x/../y?q=/../%61".parse().unwrap();
        normalize(&mut uri, PathNormalization::Base).unwrap();
        assert_eq!(uri, "http://a:1/y?q=/../%61");
    }
}
