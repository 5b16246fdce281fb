use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::yaml;

/// Returns the objects of a folder's files, and the codes that comments in them expect, by file and line.
fn read(folder: &Path, objects: &mut Vec<Object>, expected: &mut BTreeSet<(String, u64, String)>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, objects, expected);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let file: Arc<str> = path.file_name().expect("a name").to_string_lossy().into();
        for (number, line) in text.lines().enumerate() {
            if let Some((_, code)) = line.rsplit_once("# IST") {
                expected.insert((file.to_string(), number as u64 + 1, format!("IST{code}")));
            }
        }
        for document in yaml::documents(&text) {
            for found in Object::of_document(document.expect("YAML"), &file, "default") {
                match found {
                    Ok(object) => objects.push(object),
                    // The command reports it.
                    Err((line, _)) => {
                        assert!(expected.remove(&(file.to_string(), line, "IST0106".to_owned())), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_mistake_is_found_in_its_line() {
    let (mut objects, mut expected) = (Vec::new(), BTreeSet::new());
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes"), &mut objects, &mut expected);
    let found: BTreeSet<_> = analyze(&objects, &[])
        .into_iter()
        .map(|message| (message.file.expect("a file"), message.line.expect("a line"), message.code.to_owned()))
        .collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:#?}\nnot expected: {more:#?}");
    assert!(expected.len() >= 30, "{}", expected.len());
    let codes: BTreeSet<_> = expected.iter().map(|(_, _, code)| code).collect();
    assert!(codes.len() >= 17, "{codes:?}");
}

fn messages(text: &str) -> Vec<Message> {
    let path: Arc<str> = "a.yaml".into();
    let documents = yaml::documents(text).into_iter().map(|document| document.expect("YAML"));
    let objects = documents.flat_map(|document| Object::of_document(document, &path, "shop"));
    analyze(&objects.collect::<Result<Vec<_>, _>>().expect("objects"), &[])
}

/// The configurations that users have lack what they refer to, and nothing else.
#[test]
fn objects_that_users_have_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/tests/accepted");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let found = messages(&std::fs::read_to_string(&path).expect("text"));
        let known = ["IST0101", "IST0174"];
        let errors: Vec<_> =
            found.iter().filter(|of| of.level == Severity::Error && !known.contains(&of.code)).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
}

/// A field that has no effect is named with its file and line.
#[test]
fn a_tolerated_field_has_a_line() {
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: '*'\n  \
                trafficPolicy:\n    outlierDetection:\n      interval: 1s\n      minRequestVolume: 10\n";
    let found = messages(text);
    assert!(found.iter().any(|of| of.reference() == "a.yaml:9" && of.level == Severity::Warning), "{found:#?}");
}

#[test]
fn objects_of_clusters_and_suppressed_messages() {
    let cluster: Arc<str> = "west".into();
    let service = |name: &str, cluster: &Arc<str>| {
        let object = serde_json::json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}], "unknown": 1},
        });
        Object::of_cluster(object, cluster)
    };
    // The same object of two clusters is no conflict, and a field that is stored is no error.
    let same = [service("a", &cluster), service("a", &"east".into())];
    let found = analyze(&same, &[]);
    let codes: Vec<_> = found.iter().map(|of| (of.reference(), of.code, of.level)).collect();
    let of = |cluster: &str| {
        [(cluster.to_owned(), "IST0101", Severity::Error), (cluster.to_owned(), "IST0106", Severity::Warning)]
    };
    assert_eq!(codes, [of("east"), of("west")].concat());
    assert_eq!(found[0].origin(), "VirtualService shop/a");

    let both = [service("a", &cluster), service("b", &cluster)];
    let suppressions = ["IST0101=VirtualService shop/*", "IST0109=*b"].map(|text| text.parse().expect("valid"));
    let found = analyze(&both, &suppressions);
    let codes: Vec<_> = found.iter().map(|of| (of.name.as_str(), of.code)).collect();
    assert_eq!(codes, [("shop/a", "IST0109"), ("shop/a", "IST0106"), ("shop/b", "IST0106")]);
    assert!("IST0101".parse::<Suppression>().is_err());
}
