//! What the pages on security name exists: tests, files, and versions of dependencies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/security").join(name)).unwrap()
}

/// The cells of the rows of a page's tables, without their heads.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let row = |line: &str| line.starts_with("| ") && !line.starts_with("| ---");
    let lines: Vec<&str> = page.lines().collect();
    let is_head = move |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("| ---"));
    let rows = page.lines().enumerate().filter(move |(at, line)| row(line) && !is_head(*at));
    rows.map(|(_, line)| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// The texts in backticks.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The source files of a module: its own, and those of its submodules.
fn files(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![file.to_owned()];
    let mut pending = vec![file.with_extension("")];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let list = if path.is_dir() { &mut pending } else { &mut found };
            list.push(path);
        }
    }
    found
}

fn has_test(file: &Path, name: &str) -> bool {
    let declared = format!("fn {name}(");
    files(file).iter().any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&declared)))
}

/// Returns what a page names in the last column of its tables and does not exist, and the number of tests that exist. A name is in
/// the file before it, or in an earlier one of the page; a file without a crate is in the directory `src` of the file before it.
fn missing(page: &str) -> (Vec<String>, usize) {
    let (mut missing, mut found) = (Vec::new(), 0);
    let mut all: Vec<PathBuf> = Vec::new();
    for row in rows(page) {
        for text in code(row.last().unwrap()) {
            if text.ends_with(".rs") || text.ends_with(".yaml") {
                let file = all.last().cloned().unwrap_or_default();
                let beside = file.iter().take_while(|part| *part != "src").collect::<PathBuf>().join("src").join(text);
                let named = [PathBuf::from(text), beside].into_iter().find(|path| root().join(path).exists());
                match named {
                    Some(named) => all.push(named),
                    None => missing.push(format!("{text}: no such file")),
                }
            } else if text.len() > 8
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
            {
                match all.iter().rev().any(|file| has_test(&root().join(file), text)) {
                    true => found += 1,
                    false => missing.push(format!("{}: no test {text}", all.last().unwrap().display())),
                }
            }
        }
    }
    (missing, found)
}

#[test]
fn every_test_that_a_page_names_exists() {
    for (name, at_least) in [("cases.md", 100), ("advisories.md", 100)] {
        let (missing, found) = missing(&page(name));
        assert!(missing.is_empty(), "docs/security/{name}:\n{}", missing.join("\n"));
        assert!(found >= at_least, "docs/security/{name}: only {found} names were read");
    }
}

#[test]
fn a_test_or_file_that_does_not_exist_is_found() {
    let of = |cell: &str| missing(&format!("| a | b |\n| --- | --- |\n| x | {cell} |\n")).0;
    let this = "`tests/structure/tests/documented.rs`";
    assert_eq!(of(&format!("{this}: `a_test_or_file_that_does_not_exist_is_found`")), [] as [&str; 0]);
    assert_eq!(
        of(&format!("{this}: `a_test_or_file`")),
        ["tests/structure/tests/documented.rs: no test a_test_or_file"]
    );
    assert_eq!(of("`tests/structure/nothing.rs`"), ["tests/structure/nothing.rs: no such file"]);
}

/// The numbers of a version.
fn version(text: &str) -> Vec<u64> {
    text.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("{text} is no version"))).collect()
}

#[test]
fn dependencies_have_the_fixes_of_their_advisories() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut locked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        let value = |name: &str| field(name).and_then(|value| value.strip_suffix('"')).unwrap();
        locked.entry(value("name")).or_default().push(value("version"));
    }
    let page = page("advisories.md");
    let (_, dependencies) = page.split_once("## Dependencies").unwrap();
    let mut checked = 0;
    for row in rows(dependencies) {
        let [advisory, krate, _, fixed, _] = row[..] else { panic!("{row:?}") };
        for of in locked.get(krate).into_iter().flatten() {
            // Of several fixed versions, the one of the same line counts, or else the last.
            let fixes: Vec<_> = fixed.split(", ").filter(|fixed| *fixed != "none").map(version).collect();
            let of = version(of.split(['+', '-']).next().unwrap());
            let fix = fixes.iter().find(|fix| fix[..2] == of[..2]).or(fixes.last());
            assert!(fix.is_some_and(|fix| of >= *fix), "{advisory}: {krate} {of:?} is in Cargo.lock, fixed in {fixed}");
        }
        checked += 1;
    }
    assert_eq!(checked, 20);
}
