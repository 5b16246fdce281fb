//! `isthmus import`: what becomes of the objects of another mesh.

use crate::support::{TestDirectory, User};

fn import(directory: &TestDirectory, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = directory.isthmus().arg("import").args(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_object_of_files_has_a_line_and_what_to_use_instead() {
    let directory = TestDirectory::new(User::Own);
    let file = directory.path("mesh.yaml");
    let manifest = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\nspec: {host: reviews}\n\
        ---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: headers, namespace: shop}\nspec: {}\n\
        ---\napiVersion: v1\nkind: Secret\nmetadata: {name: key, namespace: shop}\n";
    std::fs::write(&file, manifest).expect("written");
    let path = file.display().to_string();
    let (code, lines, summary) = import(&directory, &[&path]);
    assert_eq!(code, Some(1), "{lines}{summary}");
    assert!(lines.contains(&format!("{path}:2: DestinationRule shop/reviews works\n")), "{lines}");
    assert!(
        lines.contains(&format!("{path}:7: EnvoyFilter shop/headers cannot work\n    no proxy is Envoy; use")),
        "{lines}"
    );
    assert!(!lines.contains("Secret"), "{lines}");
    assert!(
        summary.starts_with("1 as they are, 0 with differences, 1 cannot work, 0 refused; 1 object that no mesh reads"),
        "{summary}"
    );

    let (_, document, _) = import(&directory, &["-o", "json", "--only-notes", &path]);
    let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document.as_array().map(Vec::len), Some(1), "{document}");
    assert_eq!((&document[0]["verdict"], &document[0]["line"]), (&"cannot-work".into(), &7.into()), "{document}");

    // What users already have.
    let accepted = format!("{}/../install/tests/accepted", env!("CARGO_MANIFEST_DIR"));
    let (_, lines, summary) = import(&directory, &[&accepted]);
    assert!(lines.contains("security.yaml:11: AuthorizationPolicy production/api-service-authz works\n"), "{lines}");
    assert!(summary.contains(" 0 refused; "), "{summary}");
}
