//! The checks find what they are for: crates and modules with wrong arrows, written to a temporary directory.

use std::fs;
use std::path::Path;

use isthmus_structure::check;
use isthmus_structure::graph::Graph;
use isthmus_structure::rules::Cycle;
use isthmus_structure::source::Crate;
use isthmus_structure::workspace::Workspace;

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}

/// The top-level graph of a crate with these files.
fn graph(files: &[(&str, &str)], depth: usize) -> Graph {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), files);
    let krate = Crate::read("fixture", &directory.path().join("src/lib.rs")).unwrap();
    Graph::of_modules(&krate, depth, directory.path())
}

/// The edges, each as `from -> to`.
fn arrows(graph: &Graph) -> Vec<String> {
    graph.edges.keys().map(|(from, to)| format!("{} -> {}", graph.nodes[*from], graph.nodes[*to])).collect()
}

const CYCLIC: &[(&str, &str)] = &[
    ("src/lib.rs", "mod http;\nmod upstream;\npub use upstream::Target;\npub struct Options;\n"),
    ("src/http.rs", "mod body;\nuse crate::Options;\npub struct Body(pub Options);\n"),
    ("src/http/body.rs", "use super::Body;\nuse http::Request;\nfn f(_: Body) { crate::Target::new() }\n"),
    ("src/upstream.rs", "mod target;\npub use target::Target;\nuse crate::{\n    http::{\n        Body,\n    },\n};\n"),
    ("src/upstream/target.rs", "pub struct Target;\nimpl Target { pub fn new() {} }\n"),
];

#[test]
fn a_cycle_between_modules_is_found_with_its_lines() {
    let graph = graph(CYCLIC, 1);
    assert_eq!(arrows(&graph), ["http -> crate", "http -> upstream", "upstream -> http"]);
    assert_eq!(
        check::cycles(&graph, &[]),
        ["fixture: a cycle between modules: http, upstream\n\
          \n  http -> upstream\
          \n    src/http/body.rs:3: crate::Target::new\
          \n  upstream -> http\
          \n    src/upstream.rs:5: use crate::http::Body"],
    );
}

#[test]
fn an_allowed_cycle_passes_until_it_no_longer_exists() {
    let allowed = Cycle { krate: "fixture", modules: &["http", "upstream"], reason: "a test" };
    assert_eq!(check::cycles(&graph(CYCLIC, 1), &[&allowed]), [""; 0]);

    let mut files = CYCLIC.to_vec();
    files[2].1 = "use super::Body;\n";
    let wrong = check::cycles(&graph(&files, 1), &[&allowed]);
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].contains("the allowed cycle of http, upstream no longer exists"), "{}", wrong[0]);
}

#[test]
fn a_child_and_its_parent_are_two_nodes_at_greater_depth() {
    let arrows = arrows(&graph(CYCLIC, 2));
    assert_eq!(arrows, ["http -> crate", "http::body -> http", "http::body -> upstream::target", "upstream -> http"]);
}

#[test]
fn a_stage_that_uses_a_later_one_is_found() {
    let files = [
        ("src/lib.rs", "mod clusters;\nmod compile;\nmod metrics;\n"),
        ("src/clusters.rs", "use crate::metrics::Counter;\n"),
        ("src/metrics.rs", "pub struct Counter;\nimpl From<crate::compile::Kind> for Counter {}\n"),
        ("src/compile.rs", "pub enum Kind {}\n"),
    ];
    let graph = graph(&files, 1);
    let order = ["clusters", "inventory", "compile", "publish"];
    assert_eq!(
        check::order(&graph, &order),
        [
            "fixture: clusters -> compile: wrong direction; the order is clusters, inventory, compile, publish (through other modules)"
        ],
    );
    assert_eq!(check::order(&graph, &["compile", "clusters"]), [""; 0]);
}

#[test]
fn globs_renames_macros_and_test_code_are_read_as_the_compiler_reads_them() {
    let files = [
        ("src/lib.rs", "#[macro_use] mod a;\nmod b;\nmod c;\nmod d;\nmod e;\n#[cfg(test)] mod tests;\n"),
        ("src/a.rs", "#[macro_export] macro_rules! shout { () => { $crate::e::Loud } }\n"),
        ("src/b.rs", "use crate::c as other;\nuse other::*;\nfn f(x: D) { other::g(x) }\n"),
        ("src/c.rs", "pub use crate::d::D;\npub fn g(_: D) {}\n#[cfg(test)] mod tests { use crate::b::f; }\n"),
        ("src/d.rs", "pub struct D;\nfn h() { println!(\"{}\", crate::shout!()) }\n"),
        ("src/e.rs", "pub struct Loud;\n/// See [`crate::b::f`].\nfn i() { b::j() }\n"),
    ];
    let arrows = arrows(&graph(&files, 1));
    assert_eq!(arrows, ["a -> e", "b -> c", "c -> d", "d -> a"]);
}

#[test]
fn a_crate_that_uses_a_higher_one_or_is_not_listed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = |name: &str, uses: &str| {
        format!(
            "[package]\nname = \"isthmus-{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{uses}"
        )
    };
    let path = |name: &str| format!("isthmus-{name} = {{ path = \"../{name}\" }}\n");
    write(
        directory.path(),
        &[
            ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\nexclude = [\"target\"]\n"),
            ("wire/Cargo.toml", &manifest("wire", "")),
            ("api/Cargo.toml", &manifest("api", "")),
            ("runtime/Cargo.toml", &manifest("runtime", &(path("wire") + &path("api")))),
            ("sidecar/Cargo.toml", &manifest("sidecar", &path("runtime"))),
            ("novelty/Cargo.toml", &(manifest("novelty", "") + "[dev-dependencies]\n" + &path("sidecar"))),
        ],
    );
    for name in ["wire", "api", "runtime", "sidecar", "novelty"] {
        write(directory.path(), &[(&format!("{name}/src/lib.rs"), "")]);
    }
    let wrong = check::directions(&Workspace::read(directory.path()).unwrap());
    let expected = [
        "novelty: not listed",
        "runtime -> api: wrong direction; runtime may use identity, net, probe, telemetry, wire",
        "runtime links isthmus-api",
        "sidecar links isthmus-api",
    ];
    assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
    for (wrong, expected) in wrong.iter().zip(expected) {
        assert!(wrong.starts_with(expected), "{wrong}\n{expected}");
    }
}
