//! Replaces the generated blocks of a page that is otherwise written by hand.

use anyhow::{Context, Result, ensure};

const END: &str = "<!-- end -->";

/// Replaces the text between `<!-- generated: NAME -->` and the `<!-- end -->` after it by `content`.
///
/// # Errors
///
/// Returns an error if one of the two is missing, or if there is a second block of that name.
pub fn replace(page: &str, name: &str, content: &str) -> Result<String> {
    let begin = format!("<!-- generated: {name} -->");
    let (before, rest) = page.split_once(&begin).with_context(|| format!("there is no `{begin}`"))?;
    ensure!(!rest.contains(&begin), "there is more than one `{begin}`");
    let (old, after) = rest.split_once(END).with_context(|| format!("there is no `{END}` after `{begin}`"))?;
    ensure!(!old.contains("<!-- generated:"), "there is no `{END}` between `{begin}` and the next block");
    Ok(format!("{before}{begin}\n\n{}\n\n{END}{after}", content.trim_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::replace;

    const PAGE: &str = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->\n";

    #[test]
    fn the_rest_stays() {
        let once = replace(PAGE, "x", "new\n").unwrap();
        assert_eq!(once, "a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->\n");
        assert_eq!(replace(&once, "x", "new\n").unwrap(), once);
    }

    #[test]
    fn missing_markers_are_errors() {
        let error = |page: &str, name: &str| replace(page, name, "").unwrap_err().to_string();
        assert_eq!(error(PAGE, "z"), "there is no `<!-- generated: z -->`");
        assert_eq!(error("<!-- generated: x -->", "x"), "there is no `<!-- end -->` after `<!-- generated: x -->`");
        assert!(error(&format!("{PAGE}{PAGE}"), "x").starts_with("there is more than one"));
        let open = "<!-- generated: x -->\n<!-- generated: y -->\n<!-- end -->";
        assert!(error(open, "x").ends_with("and the next block"));
    }
}
