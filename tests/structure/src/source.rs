//! The modules of a crate, read from its source files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quote::ToTokens;
use syn::{Attribute, Item};

use crate::scan::{self, Import, Names};

/// A crate's modules. The first is the crate's root.
#[derive(Debug)]
pub struct Crate {
    /// The package's name.
    pub name: String,
    pub(crate) modules: Vec<Module>,
}

#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Names from the root to the module; empty for the root.
    pub(crate) path: Vec<String>,
    pub(crate) file: PathBuf,
    pub(crate) parent: Option<usize>,
    pub(crate) children: BTreeMap<String, usize>,
    /// Names of the items that it defines.
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
    /// The names in its items.
    pub(crate) names: Names,
}

impl Crate {
    /// Reads a crate from its root file, such as `src/lib.rs`, and the files of its modules.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or parsed, or if a module has no file.
    pub fn read(name: &str, root: &Path) -> anyhow::Result<Crate> {
        let mut krate =
            Crate { name: name.to_owned(), modules: vec![Module { file: root.to_owned(), ..Module::default() }] };
        let directory = root.parent().context("the root file has no directory")?.to_owned();
        krate.read_file(0, &directory)?;
        Ok(krate)
    }

    /// Reads the file of a module whose children's files are in `directory`.
    fn read_file(&mut self, module: usize, directory: &Path) -> anyhow::Result<()> {
        let file = &self.modules[module].file;
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let start = error.span().start();
            anyhow::anyhow!("{}:{}:{}: {error}", file.display(), start.line, start.column + 1)
        })?;
        self.read_items(module, directory, parsed.items)
    }

    fn read_items(&mut self, module: usize, directory: &Path, items: Vec<Item>) -> anyhow::Result<()> {
        for item in items {
            if scan::only_for_tests(attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(declared) => self.read_module(module, directory, declared)?,
                Item::Use(item) => {
                    let imports = scan::imports(&item.tree, &item.vis, item.leading_colon.is_some());
                    self.modules[module].imports.extend(imports);
                }
                item => {
                    if let Some(name) = name(&item) {
                        // A macro with `#[macro_export]` is named from the crate's root.
                        let exported =
                            attributes(&item).iter().any(|attribute| attribute.path().is_ident("macro_export"));
                        if exported && module != 0 {
                            let segments =
                                [vec!["crate".to_owned()], self.modules[module].path.clone(), vec![name.clone()]];
                            let path = scan::Path { segments: segments.concat(), line: 1 };
                            self.modules[0].imports.push(Import { path, name: Some(name.clone()), exported: true });
                        }
                        self.modules[module].items.insert(name);
                    }
                    scan::scan(item.into_token_stream(), &mut self.modules[module].names);
                }
            }
        }
        Ok(())
    }

    fn read_module(&mut self, parent: usize, directory: &Path, declared: syn::ItemMod) -> anyhow::Result<()> {
        let name = declared.ident.to_string().trim_start_matches("r#").to_owned();
        let mut path = self.modules[parent].path.clone();
        path.push(name.clone());
        let id = self.modules.len();
        self.modules[parent].children.insert(name.clone(), id);
        let mut module = Module { path, parent: Some(parent), ..Module::default() };
        let below = directory.join(&name);
        if let Some((_, items)) = declared.content {
            module.file = self.modules[parent].file.clone();
            self.modules.push(module);
            return self.read_items(id, &below, items);
        }
        let given =
            path_attribute(&declared.attrs).and_then(|path| Some(self.modules[parent].file.parent()?.join(path)));
        let candidates = match given {
            Some(path) => vec![path],
            None => vec![directory.join(format!("{name}.rs")), below.join("mod.rs")],
        };
        let Some(file) = candidates.into_iter().find(|file| file.is_file()) else {
            bail!("{}: module `{name}` has no file in {}", self.modules[parent].file.display(), directory.display());
        };
        module.file = file;
        self.modules.push(module);
        self.read_file(id, &below)
    }
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find(|attribute| attribute.path().is_ident("path")).and_then(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &pair.value else { return None };
        Some(path.value())
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
