//! The workspace keeps to the rules: crates depend one way, modules have no cycles but the listed ones.

use std::path::Path;

use isthmus_structure::rules::{CYCLES, DIRECTIONS};
use isthmus_structure::workspace::Workspace;
use isthmus_structure::{check, print};

fn workspace() -> Workspace {
    Workspace::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn crates_depend_in_one_direction() {
    let wrong = check::directions(&workspace());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modules_depend_in_one_direction() {
    let wrong: Vec<String> = workspace().modules(&[], 1).unwrap().iter().flat_map(check::modules).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
}

#[test]
fn allowed_cycles_have_reasons_and_name_crates_that_exist() {
    let workspace = workspace();
    for cycle in CYCLES {
        assert!(!cycle.reason.is_empty() && cycle.modules.is_sorted(), "{}: {:?}", cycle.krate, cycle.modules);
        assert!(
            workspace.packages.iter().any(|package| package.name == cycle.krate),
            "there is no crate {}",
            cycle.krate
        );
    }
}

#[test]
fn the_listed_directions_have_no_cycle_themselves() {
    let graph = isthmus_structure::graph::Graph::of_names(
        "rules",
        DIRECTIONS.iter().map(|(krate, uses)| (*krate, uses.to_vec())),
    );
    assert!(graph.cycles().is_empty(), "{}", print::text(&graph));
}
