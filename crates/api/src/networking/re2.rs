//! Regular expressions as Istio has them: RE2's syntax, at most 1024 characters, for the whole text.
//!
//! The syntax of the `regex` crate differs in a few places. [`translate`] returns the same expression in its syntax.

use regex::{Regex, RegexBuilder};

/// The longest expression.
pub const MAX_LENGTH: usize = 1024;
/// The size of a compiled expression, in bytes. A thousand characters of text take some 100 KiB; what takes more repeats
/// large parts.
pub const MAX_COMPILED: usize = 1 << 20;

/// Compiles an expression, which matches whole texts.
///
/// # Errors
/// Returns what is wrong with the expression, and what to do.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    match pattern.len() {
        0 => return Err("is empty; write a regular expression, such as \".*\"".to_owned()),
        1..=MAX_LENGTH => {}
        length => return Err(format!("has {length} characters; a regular expression has at most {MAX_LENGTH}")),
    }
    let translated = translate(pattern);
    let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED).build().map_err(|error| describe(&error));
    // By itself first: `a)(b` is valid only in parentheses.
    build(&translated)?;
    build(&format!("^(?:{translated})$"))
}

fn describe(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = error {
        return format!(
            "takes more than {MAX_COMPILED} bytes compiled; repeat less, such as {{1,100}} of a large group"
        );
    }
    // The last line says what is wrong; those before it show the expression.
    let text = error.to_string();
    let what = text.lines().last().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    format!("is not a regular expression of RE2: {what} (https://github.com/google/re2/wiki/Syntax)")
}

/// Returns an expression of RE2 in the syntax of the `regex` crate.
pub fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern.chars();
    // In a class: the number of its members so far, of which the first may be `]`.
    let mut class: Option<usize> = None;
    while let Some(c) = rest.next() {
        match (c, &mut class) {
            ('\\', class) => {
                if let Some(members) = class {
                    *members += 1;
                }
                escape(&mut rest, class.is_some(), &mut out);
            }
            ('[', None) => {
                class = Some(0);
                out.push('[');
                if rest.as_str().starts_with('^') {
                    rest.next();
                    out.push('^');
                }
            }
            // A class of POSIX, such as [:alpha:].
            ('[', Some(members)) if rest.as_str().starts_with(':') && rest.as_str().contains(":]") => {
                *members += 1;
                out.push('[');
                for c in rest.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            (']', Some(0)) => {
                class = Some(1);
                out.push_str("\\]");
            }
            (']', Some(_)) => {
                class = None;
                out.push(']');
            }
            // These have a meaning in a class of the crate alone.
            ('[' | '&' | '~', Some(members)) => {
                *members += 1;
                out.push('\\');
                out.push(c);
            }
            (c, Some(members)) => {
                *members += 1;
                out.push(c);
            }
            (c, None) => out.push(c),
        }
    }
    out
}

/// Translates what follows a backslash.
fn escape(rest: &mut std::str::Chars<'_>, in_class: bool, out: &mut String) {
    let class = |members: &str| if in_class { members.to_owned() } else { format!("[{members}]") };
    match rest.next() {
        // In RE2 these are ASCII.
        Some('d') => out.push_str(&class("0-9")),
        Some('w') => out.push_str(&class("0-9A-Za-z_")),
        Some('s') => out.push_str(&class("\\t\\n\\f\\r ")),
        Some('D') => out.push_str("[^0-9]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        // Text up to \E.
        Some('Q') if !in_class => {
            let (text, after) = rest.as_str().split_once("\\E").unwrap_or((rest.as_str(), ""));
            out.push_str(&regex::escape(text));
            *rest = after.chars();
        }
        Some(c @ ('<' | '>')) => out.push(c),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_whole_texts_as_in_re2() {
        for (pattern, yes, no) in [
            (".*Chrome.*", "a Chrome b", "Firefox"),
            ("/v[12]/.*", "/v1/a", "/x/v1/a"),
            ("a|b", "b", "ab"),
            ("\\d+", "12", "\u{661}"),
            ("[\\d.]+", "1.2", "a"),
            ("[^\\d]", "a", "1"),
            ("[\\w-]+", "a-b_1", "\u{e9}"),
            ("\\D\\S\\W", "ab-", "1b-"),
            ("[]a]+", "]a", "b"),
            ("[^]a]+", "bc", "]"),
            ("[[a]+", "[a", "b"),
            ("[a&&b]+", "a&b", "c"),
            ("[a~~b]+", "~", "c"),
            ("[[:alpha:]_]+", "ab_", "1"),
            ("\\<a\\>", "<a>", "a"),
            ("\\Qa.b*\\E+", "a.b**", "axb*"),
            ("\\Q[", "[", "a"),
            ("a\\bb|a\\b-", "a-", "ab"),
            ("(?i)abc", "aBC", "abd"),
            ("(?P<name>x)", "x", "y"),
            ("\\x{41}\\p{Lu}", "AB", "Ab"),
        ] {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(regex.is_match(yes) && !regex.is_match(no), "{pattern}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused_in_plain_words() {
        for (pattern, part) in [
            ("", "is empty"),
            ("(", "unclosed group"),
            ("*a", "repetition operator missing expression"),
            ("a(?=b)", "look-around"),
            ("(a)\\1", "backreferences are not supported"),
            ("a)(b", "unopened group"),
            ("a\\", "incomplete escape sequence"),
            ("((a{1,100}){1,100}){1,100}", "takes more than 1048576 bytes compiled"),
            (&"a".repeat(1025), "has 1025 characters"),
        ] {
            let error = compile(pattern).expect_err(pattern);
            assert!(error.contains(part), "{pattern}: {error}");
        }
    }
}
