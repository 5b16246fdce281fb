//! Finds the paths in source: in `use` declarations and in all other tokens, including bodies of macros.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{UseTree, Visibility};

/// A path as it is written, such as `crate::upstream::Target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The segments. The first may be `crate`, `self` or `super`.
    pub(crate) segments: Vec<String>,
    /// The line in the file, from 1.
    pub(crate) line: usize,
}

/// One leaf of a `use` declaration.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    pub(crate) path: Path,
    /// The name that it binds; `None` for a glob.
    pub(crate) name: Option<String>,
    /// Whether other modules can use the name, as after `pub use`.
    pub(crate) exported: bool,
}

/// The names in a piece of source.
#[derive(Default, Debug)]
pub(crate) struct Names {
    /// `use` declarations inside of functions.
    pub(crate) imports: Vec<Import>,
    /// Paths of two segments or more.
    pub(crate) paths: Vec<Path>,
    /// Single names that look like a type, a call or a macro, with the line of the first occurrence.
    pub(crate) single: BTreeMap<String, usize>,
}

/// The leaves of a `use` declaration's tree.
pub(crate) fn imports(tree: &UseTree, vis: &Visibility, leading_colon: bool) -> Vec<Import> {
    let mut leaves = Vec::new();
    if !leading_colon {
        leaf(tree, &mut Vec::new(), !matches!(vis, Visibility::Inherited), &mut leaves);
    }
    leaves
}

fn leaf(tree: &UseTree, before: &mut Vec<String>, exported: bool, leaves: &mut Vec<Import>) {
    let import = |mut segments: Vec<String>, line: usize, name: Option<String>| {
        // `a::{self}` names `a`.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        Import { path: Path { segments, line }, name, exported }
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaf(&path.tree, before, exported, leaves);
            before.pop();
        }
        UseTree::Name(name) => {
            let written = name.ident.to_string();
            let bound = if written == "self" { before.last().cloned() } else { Some(written.clone()) };
            let segments = before.iter().cloned().chain([written]).collect();
            leaves.push(import(segments, name.ident.span().start().line, bound));
        }
        UseTree::Rename(rename) => {
            let segments = before.iter().cloned().chain([rename.ident.to_string()]).collect();
            leaves.push(import(segments, rename.ident.span().start().line, Some(rename.rename.to_string())));
        }
        UseTree::Glob(glob) => leaves.push(import(before.clone(), glob.star_token.spans[0].start().line, None)),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaf(tree, before, exported, leaves)),
    }
}

/// Returns whether an item with these attributes is compiled for tests only.
pub(crate) fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if names_test(list.tokens.clone()))
    })
}

/// Returns whether a `cfg` predicate requires `test`.
fn names_test(predicate: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = predicate.into_iter().collect();
    tokens.iter().enumerate().any(|(i, token)| match token {
        TokenTree::Ident(ident) => ident == "test",
        TokenTree::Group(group) => !is_ident(i.checked_sub(1).map(|i| &tokens[i]), "not") && names_test(group.stream()),
        _ => false,
    })
}

/// Collects what `tokens` name into `names`.
pub(crate) fn scan(tokens: TokenStream, names: &mut Names) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => at = attribute(&tokens, at, names),
            TokenTree::Ident(ident) if ident == "use" => at = declaration(&tokens, at, names),
            TokenTree::Ident(ident) if ident == "pub" => {
                at += 1;
                if matches!(tokens.get(at), Some(TokenTree::Group(group)) if is_restriction(group)) {
                    at += 1;
                }
            }
            TokenTree::Ident(_) => at = path(&tokens, at, names),
            TokenTree::Group(group) => {
                scan(group.stream(), names);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Returns whether a group is the `(crate)` of `pub(crate)`.
fn is_restriction(group: &proc_macro2::Group) -> bool {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    group.delimiter() == Delimiter::Parenthesis
        && (is_ident(tokens.first(), "in")
            || tokens.len() == 1 && ["crate", "self", "super"].iter().any(|word| is_ident(tokens.first(), word)))
}

/// Scans an attribute. Skips the attribute's item if it is compiled for tests only. Returns the position after it.
fn attribute(tokens: &[TokenTree], hash: usize, names: &mut Names) -> usize {
    let inner = usize::from(is_punct(tokens.get(hash + 1), '!'));
    let Some(TokenTree::Group(group)) = tokens.get(hash + 1 + inner) else { return hash + 1 };
    let after = hash + 2 + inner;
    let content: Vec<TokenTree> = group.stream().into_iter().collect();
    if is_ident(content.first(), "doc") {
        return after;
    }
    if is_ident(content.first(), "cfg")
        && matches!(content.get(1), Some(TokenTree::Group(predicate)) if names_test(predicate.stream()))
    {
        return end_of_item(tokens, after);
    }
    // Attributes name functions in literals as well: `#[serde(with = "crate::seconds")]`.
    in_literals(&content, names);
    scan(group.stream(), names);
    after
}

fn in_literals(tokens: &[TokenTree], names: &mut Names) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => in_literals(&group.stream().into_iter().collect::<Vec<_>>(), names),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let text = text.trim_matches('"');
                if ["crate::", "self::", "super::"].iter().any(|start| text.starts_with(start)) {
                    let segments = text.split("::").map(|segment| segment.trim().to_owned()).collect();
                    names.paths.push(Path { segments, line: literal.span().start().line });
                }
            }
            _ => {}
        }
    }
}

/// The position after the item, statement, field or match arm that begins at `at`: after its body, its `;` or its `,`.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return at,
            TokenTree::Punct(punct) if matches!(punct.as_char(), ';' | ',') => return at,
            _ => {}
        }
    }
    at
}

/// Reads a `use` declaration inside of a function. Returns the position after it.
fn declaration(tokens: &[TokenTree], at: usize, names: &mut Names) -> usize {
    let Some(length) = tokens[at..].iter().position(|token| is_punct(Some(token), ';')) else { return at + 1 };
    let stream: TokenStream = tokens[at..=at + length].iter().cloned().collect();
    match syn::parse2::<syn::ItemUse>(stream) {
        Ok(item) => {
            names.imports.extend(imports(&item.tree, &Visibility::Inherited, item.leading_colon.is_some()));
            at + length + 1
        }
        // `impl Trait + use<'_>` and tokens of macros.
        Err(_) => at + 1,
    }
}

/// Reads the path that begins at `at`. Returns the position after it.
fn path(tokens: &[TokenTree], at: usize, names: &mut Names) -> usize {
    let before = at.checked_sub(1).map(|i| &tokens[i]);
    let mut segments = Vec::new();
    let mut next = at;
    while let Some(TokenTree::Ident(ident)) = tokens.get(next) {
        segments.push(ident.to_string().trim_start_matches("r#").to_owned());
        next += 1;
        if !(is_punct(tokens.get(next), ':') && is_punct(tokens.get(next + 1), ':')) {
            break;
        }
        next += 2;
    }
    // After `.` it is a field or a method, after `::` part of another crate or a type, after `fn` and such a definition.
    let ours = !is_punct(before, '.') && !is_punct(before, ':') || is_single_colon(tokens, at);
    let line = tokens[at].span().start().line;
    if !ours || ["fn", "mod", "let", "struct", "enum", "trait"].iter().any(|word| is_ident(before, word)) {
        return next;
    }
    if segments.len() > 1 {
        names.paths.push(Path { segments, line });
    } else if let Some(name) = segments.pop() {
        let called =
            matches!(tokens.get(next), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
        if name.starts_with(char::is_uppercase) || called || is_punct(tokens.get(next), '!') {
            names.single.entry(name).or_insert(line);
        }
    }
    next
}

/// Returns whether one colon, not two, is before `at`, as in `field: Type`.
fn is_single_colon(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(at.checked_sub(1).map(|i| &tokens[i]), ':') && !is_punct(at.checked_sub(2).map(|i| &tokens[i]), ':')
}

fn is_ident(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        let mut names = Names::default();
        scan(source.parse().unwrap(), &mut names);
        let imports = names.imports.iter().map(|import| format!("use {}", import.path.segments.join("::")));
        names.paths.iter().map(|path| path.segments.join("::")).chain(imports).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_are_written() {
        let found = paths(
            r#"
            fn f(x: crate::a::T) -> super::U { select! { y = self::b::c(&x) => y.d() } }
            #[serde(with = "crate::e")] struct S { pub(crate) x: f::G, pub(in crate::never) y: u8 }
            fn g() { use crate::h::{self, i::J as K}; ::other::k(); <T as l::M>::n() }
            "#,
        );
        let expected =
            ["crate::a::T", "super::U", "self::b::c", "crate::e", "f::G", "l::M", "use crate::h", "use crate::h::i::J"];
        assert_eq!(found, expected);
    }

    #[test]
    fn test_code_and_documentation_are_left_out() {
        let found = paths(
            "impl A { #[cfg(test)] fn f() { crate::a::b() } #[cfg(all(test, unix))] const C: crate::c::D = 1; fn g() { e::f() } }
             /// [`crate::g::H`]
             #[cfg(not(test))] fn h() { i::j() }",
        );
        assert_eq!(found, ["e::f", "i::j"]);
    }

    #[test]
    fn single_names_are_types_calls_and_macros() {
        let mut names = Names::default();
        scan("fn run() { let walk = x.go(); start(Type); check!(walk) }".parse().unwrap(), &mut names);
        assert_eq!(names.single.keys().collect::<Vec<_>>(), ["Type", "check", "start"]);
    }
}
