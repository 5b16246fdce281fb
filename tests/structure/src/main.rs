//! The command that prints and checks the structure of the workspace.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use isthmus_structure::workspace::Workspace;
use isthmus_structure::{check, print};

/// Prints and checks which module and which crate of the workspace uses which
#[derive(Parser)]
#[command(name = "isthmus-structure", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the module graphs of crates: layers, edges and cycles
    Graph(GraphOptions),
    /// Print the tables of docs/architecture.md
    Markdown,
    /// Write the tables of docs/architecture.md
    Update,
    /// Check the rules, and that docs/architecture.md has the present tables
    Check,
}

#[derive(Args)]
struct GraphOptions {
    /// Names of crates; all crates, and the graph between them, if there are none
    crates: Vec<String>,
    /// Number of names below the crate's root that make a node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    depth: u8,
    /// Print Graphviz
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The page with generated tables.
const PAGE: &str = "docs/architecture.md";

fn main() -> ExitCode {
    match run(Command::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("isthmus-structure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::read(Path::new("."))?;
    match action {
        Action::Graph(options) => print_graphs(&workspace, &options)?,
        Action::Markdown => print!("{}", tables(&workspace)?),
        Action::Update => {
            let (file, page) = page(&workspace)?;
            std::fs::write(&file, updated(&workspace, &page)?).with_context(|| format!("cannot write {PAGE}"))?;
        }
        Action::Check => {
            let mut wrong = check::directions(&workspace);
            wrong.extend(workspace.modules(&[], 1)?.iter().flat_map(check::modules));
            let (_, page) = page(&workspace)?;
            if updated(&workspace, &page)? != page {
                wrong.push(format!("{PAGE} is out of date; run: cargo run -p isthmus-structure -- update"));
            }
            if !wrong.is_empty() {
                eprintln!("{}", wrong.join("\n\n"));
                return Ok(ExitCode::FAILURE);
            }
            println!("{} crates follow the rules; {PAGE} is up to date", workspace.packages.len());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_graphs(workspace: &Workspace, options: &GraphOptions) -> anyhow::Result<()> {
    let mut graphs = workspace.modules(&options.crates, usize::from(options.depth))?;
    if options.crates.is_empty() {
        graphs.insert(0, workspace.crates());
    }
    if options.dot {
        print!("{}", print::dot(&graphs));
    } else if options.json {
        println!("{}", print::json(&graphs));
    } else {
        print!("{}", graphs.iter().map(print::text).collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

fn tables(workspace: &Workspace) -> anyhow::Result<String> {
    Ok(print::markdown(&workspace.crates(), &workspace.modules(&[], 1)?))
}

fn page(workspace: &Workspace) -> anyhow::Result<(PathBuf, String)> {
    let file = workspace.directory.join(PAGE);
    let page = std::fs::read_to_string(&file).with_context(|| format!("cannot read {PAGE}"))?;
    Ok((file, page))
}

fn updated(workspace: &Workspace, page: &str) -> anyhow::Result<String> {
    print::update(page, &tables(workspace)?)
        .with_context(|| format!("{PAGE} has no lines <!-- generated: modules --> and <!-- end -->"))
}
