//! `isthmus analyze` of files.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{Outcome, TestDirectory, User};

/// A directory with mistakes. A comment at the end of a line names the codes that are expected there.
const MISTAKES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/tests/mistakes");

fn analyze(directory: &TestDirectory, arguments: &[&str]) -> Outcome {
    directory.isthmus().arg("analyze").args(arguments).output().expect("isthmus").into()
}

/// Returns the codes that comments expect, as `FILE:LINE CODE`.
fn expected(folder: &Path) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            expected.extend(self::expected(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            let codes = line.split_once("# IST").map(|(_, codes)| format!("IST{codes}")).unwrap_or_default();
            for code in codes.split_whitespace() {
                expected.insert(format!("{}:{} {code}", path.display(), number + 1));
            }
        }
    }
    expected
}

#[test]
fn every_mistake_in_a_directory_has_its_code_object_and_line() {
    let directory = TestDirectory::new(User::Own);
    let outcome = analyze(&directory, &["-R", MISTAKES]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let form =
        regex::Regex::new(r"^(Error|Warning|Info) \[(IST\d{4})\] \(([A-Z]\w+)( \S+)? (\S+:\d+)\) \S").expect("valid");
    let mut found = BTreeSet::new();
    for line in outcome.stdout.lines() {
        let parts = form.captures(line).unwrap_or_else(|| panic!("{line:?} has another form"));
        let object = parts.get(4).map_or("", |name| name.as_str().trim());
        assert!(["Document", "Namespace"].contains(&&parts[3]) || object.contains('/'), "{line}");
        found.insert(format!("{} {}", &parts[5], &parts[2]));
    }
    assert_eq!(found, expected(Path::new(MISTAKES)), "{}", outcome.stdout);
    assert!(found.len() >= 42, "{}", found.len());
    assert!(outcome.stderr.contains("errors, ") && outcome.stderr.contains(" in 7 files"), "{}", outcome.stderr);

    let shallow = analyze(&directory, &[MISTAKES]);
    assert!(shallow.stderr.contains(" in 6 files"), "{}", shallow.stderr);
    assert!(!shallow.stdout.contains("virtual-services.yaml"), "{}", shallow.stdout);
}

#[test]
fn messages_are_data_as_well_and_have_thresholds() {
    let directory = TestDirectory::new(User::Own);
    let file = format!("{MISTAKES}/services.yaml");
    // What these objects have is no error.
    let outcome = analyze(&directory, &[&file, "-o", "json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let messages: Vec<Value> = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(messages.len(), 3, "{messages:?}");
    let port = messages.iter().find(|message| message["code"] == "IST0118").expect("IST0118");
    assert_eq!((&port["level"], &port["origin"]), (&"Info".into(), &"Service shop/cart".into()));
    assert_eq!((&port["line"], &port["field"]), (&18.into(), &"spec.ports[2]".into()));
    assert_eq!(port["reference"], format!("{file}:18"));
    assert_eq!(port["documentationUrl"], "https://istio.io/latest/docs/reference/config/analysis/ist0118/");

    let of = |arguments: &[&str]| {
        let outcome = analyze(&directory, &[&[&*file], arguments].concat());
        (outcome.code, outcome.stdout.lines().count())
    };
    assert_eq!(of(&[]), (Some(0), 3));
    assert_eq!(of(&["--failure-threshold", "warning"]), (Some(1), 3));
    assert_eq!(of(&["--output-threshold", "warning"]), (Some(0), 2));
    assert_eq!(
        of(&["-S", "IST0150=Service shop/*", "-S", "IST0134=*", "--failure-threshold", "warning"]),
        (Some(0), 1)
    );
    let yaml = analyze(&directory, &[&file, "-o", "yaml"]);
    assert!(yaml.stdout.contains("code: IST0118"), "{}", yaml.stdout);
}

#[test]
fn input_of_any_kind_is_answered() {
    let directory = TestDirectory::new(User::Own);
    let write = |name: &str, text: &[u8]| {
        let path = directory.path(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let broken = write("broken.yaml", b"a: [\n---\nkind: A\n---\njust words\n");
    let outcome = analyze(&directory, &[&broken]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 3, "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("broken.yaml:3) is no object of Kubernetes: it has no apiVersion"),
        "{}",
        outcome.stdout
    );
    let ignored = analyze(&directory, &["--ignore-unknown", &broken]);
    assert_eq!((ignored.code, &*ignored.stdout), (Some(0), ""), "{ignored:?}");
    assert!(ignored.stderr.contains("no issues found in 0 objects in 1 file"), "{}", ignored.stderr);

    let binary = write("binary.yaml", &[0xff, 0xfe, 0]);
    for (arguments, part) in [
        (&[&*binary][..], "binary.yaml: it is not UTF-8 text"),
        (&["missing.yaml"][..], "reading missing.yaml: "),
        (&["-S", "IST0101", &broken][..], "is not CODE=KIND NAMESPACE/NAME"),
    ] {
        let outcome = analyze(&directory, arguments);
        assert!(matches!(outcome.code, Some(1 | 2)) && outcome.stderr.contains(part), "{outcome:?}");
    }
    let empty = directory.path("empty");
    std::fs::create_dir(&empty).expect("created");
    let outcome = analyze(&directory, &[&empty.display().to_string()]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("no file with the ending"), "{outcome:?}");
}
