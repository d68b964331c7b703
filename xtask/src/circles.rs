//! Import circles: files of one crate that import each other in a loop.
//!
//! Reads the sources as syntax, and resolves each path to the file that defines what it names: a
//! re-export (`pub use`) is no import of the file that has it. Unit tests do not count. Expansions of
//! macros are not seen.

use anyhow::{Context as _, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// Crate roots of the product and of the developer's entry point.
const ROOTS: [&str; 6] = [
    "egress-agent/src/lib.rs",
    "egress-agent/src/main.rs",
    "egress-agent/core/src/lib.rs",
    "egress-ebpf/src/lib.rs",
    "egress-ebpf/src/main.rs",
    "xtask/src/main.rs",
];

/// Re-exports of re-exports that are followed; a loop of them ends here.
const HOPS: usize = 16;

/// Files that import each other, in order.
pub type Circle = BTreeSet<String>;

/// All circles of the workspace, with paths relative to `root`.
pub fn all(root: &Path) -> Result<BTreeSet<Circle>> {
    let mut circles = BTreeSet::new();
    for entry in ROOTS {
        circles.extend(of_crate(root, entry)?);
    }
    Ok(circles)
}

fn of_crate(root: &Path, entry: &str) -> Result<Vec<Circle>> {
    let mut house = House::default();
    let path = root.join(entry);
    let folder = path.parent().unwrap_or(root).to_path_buf();
    house.read(&path, &folder, Vec::new())?;
    let shown = |file: &PathBuf| {
        let short = file.strip_prefix(root).unwrap_or(file);
        short.to_string_lossy().into_owned()
    };
    Ok(circles(&house.arrows())
        .into_iter()
        .map(|files| files.iter().map(shown).collect())
        .collect())
}

/// Names of a module, from the crate's root.
type ModulePath = Vec<String>;

/// A name that a `use` brings into a module.
struct Import {
    /// `None` for a glob.
    name: Option<String>,
    path: Vec<String>,
    is_reexport: bool,
}

struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    /// Names that the module defines itself.
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in its code.
    paths: BTreeSet<Vec<String>>,
}

#[derive(Default)]
struct House {
    modules: BTreeMap<ModulePath, Module>,
}

impl House {
    /// Reads a file as a module, and the files of its child modules in `folder`.
    fn read(&mut self, file: &Path, folder: &Path, at: ModulePath) -> Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.module(file, folder, at, &parsed.items)
    }

    fn module(&mut self, file: &Path, folder: &Path, at: ModulePath, items: &[Item]) -> Result<()> {
        let mut module = Module {
            file: file.to_path_buf(),
            children: BTreeSet::new(),
            items: BTreeSet::new(),
            imports: Vec::new(),
            paths: BTreeSet::new(),
        };
        for item in items {
            if attributes(item).iter().any(is_test) {
                continue;
            }
            match item {
                Item::Mod(child) => {
                    let name = child.ident.to_string();
                    module.children.insert(name.clone());
                    let path = [at.as_slice(), std::slice::from_ref(&name)].concat();
                    let below = folder.join(&name);
                    if let Some((_, items)) = &child.content {
                        self.module(file, &below, path, items)?;
                    } else {
                        let flat = folder.join(format!("{name}.rs"));
                        let nested = below.join("mod.rs");
                        let found = if flat.exists() { flat } else { nested };
                        self.read(&found, &below, path)?;
                    }
                }
                Item::Use(item) => imports(item, &mut module.imports),
                _ => {
                    module.items.extend(name_of(item));
                    Paths(&mut module.paths).visit_item(item);
                }
            }
        }
        self.modules.insert(at, module);
        Ok(())
    }

    /// Which file takes something from which.
    fn arrows(&self) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let mut arrows: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for (at, module) in &self.modules {
            let used = module.imports.iter().filter(|import| !import.is_reexport);
            let used = used.map(|import| &import.path).chain(&module.paths);
            let to = arrows.entry(module.file.clone()).or_default();
            for path in used {
                to.extend(self.file_of(at, path, HOPS));
            }
            to.remove(&module.file);
        }
        arrows
    }

    /// The file that defines what a path in a module names; `None` if it is of another crate.
    fn file_of(&self, at: &[String], path: &[String], hops: usize) -> Option<PathBuf> {
        let mut here = at.to_vec();
        let mut rest = path;
        let mut rooted = false;
        while let Some((first, behind)) = rest.split_first() {
            match first.as_str() {
                "crate" => here.clear(),
                "self" => {}
                "super" => {
                    here.pop();
                }
                _ => break,
            }
            rooted = true;
            rest = behind;
        }
        self.below(&here, rest, rooted, hops)
    }

    fn below(&self, at: &[String], path: &[String], rooted: bool, hops: usize) -> Option<PathBuf> {
        let module = self.modules.get(at)?;
        let Some((name, rest)) = path.split_first() else {
            return Some(module.file.clone());
        };
        if module.children.contains(name) {
            let child = [at, std::slice::from_ref(name)].concat();
            return self.below(&child, rest, true, hops);
        }
        if module.items.contains(name) {
            return Some(module.file.clone());
        }
        let hops = hops.checked_sub(1)?;
        let named = |import: &&Import| import.name.as_ref() == Some(name);
        if let Some(import) = module.imports.iter().find(named) {
            let path = [import.path.as_slice(), rest].concat();
            return self.file_of(at, &path, hops);
        }
        let globs = module.imports.iter().filter(|i| i.name.is_none());
        let found = globs
            .filter(|import| import.is_reexport)
            .find_map(|import| {
                let path = [import.path.as_slice(), path].concat();
                self.file_of(at, &path, hops)
            });
        // A name that a macro defines is the module's own.
        found.or_else(|| rooted.then(|| module.file.clone()))
    }
}

/// Paths of more than one segment, or of one that may be an imported name.
struct Paths<'a>(&'a mut BTreeSet<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|s| s.ident.to_string());
            self.0.insert(names.collect());
        }
        syn::visit::visit_path(self, path);
    }

    /// `pub(super)` takes nothing from the parent.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut found = Vec::new();
        imports(item, &mut found);
        self.0.extend(found.into_iter().map(|import| import.path));
    }
}

fn imports(item: &ItemUse, found: &mut Vec<Import>) {
    let is_reexport = !matches!(item.vis, Visibility::Inherited);
    flatten(&item.tree, &mut Vec::new(), is_reexport, found);
}

fn flatten(tree: &UseTree, path: &mut Vec<String>, is_reexport: bool, found: &mut Vec<Import>) {
    let mut add = |path: &[String], name: Option<String>| {
        found.push(Import {
            name,
            path: path.to_vec(),
            is_reexport,
        });
    };
    let depth = path.len();
    match tree {
        UseTree::Path(inner) => {
            path.push(inner.ident.to_string());
            flatten(&inner.tree, path, is_reexport, found);
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, path, is_reexport, found);
            }
        }
        UseTree::Glob(_) => add(path, None),
        UseTree::Name(name) if name.ident == "self" => add(path, path.last().cloned()),
        UseTree::Name(name) => {
            path.push(name.ident.to_string());
            add(path, path.last().cloned());
        }
        UseTree::Rename(rename) => {
            if rename.ident != "self" {
                path.push(rename.ident.to_string());
            }
            add(path, Some(rename.rename.to_string()));
        }
    }
    path.truncate(depth);
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]` in any form that asks for it.
fn is_test(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg")
        && list
            .tokens
            .to_string()
            .split([' ', '(', ',', ')'])
            .any(|word| word == "test")
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
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
    Some(name.to_string())
}

/// The sets of more than one node that all reach each other.
fn circles<N: Ord + Clone>(arrows: &BTreeMap<N, BTreeSet<N>>) -> Vec<BTreeSet<N>> {
    let reached: BTreeMap<&N, BTreeSet<&N>> = arrows.keys().map(|n| (n, from(n, arrows))).collect();
    let mut circles = Vec::new();
    let mut done = BTreeSet::new();
    for (node, others) in &reached {
        if !done.contains(node) && others.contains(node) {
            let back = |other: &&&N| reached.get(**other).is_some_and(|r| r.contains(node));
            let circle: BTreeSet<&N> = others.iter().filter(back).copied().collect();
            done.extend(circle.iter().copied());
            circles.push(circle.into_iter().cloned().collect());
        }
    }
    circles
}

fn from<'a, N: Ord>(start: &'a N, arrows: &'a BTreeMap<N, BTreeSet<N>>) -> BTreeSet<&'a N> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&N> = vec![start];
    while let Some(node) = ahead.pop() {
        for next in arrows.get(node).into_iter().flatten() {
            if reached.insert(next) {
                ahead.push(next);
            }
        }
    }
    reached
}

/// The heading in ARCHITECTURE.md below which circles stand that may stay: a list item names each
/// file of one in backticks, and says why.
const HEADING: &str = "### Import circles";

/// What ARCHITECTURE.md allows and does not, one line a finding.
pub fn findings(found: &BTreeSet<Circle>, architecture: &str) -> Vec<String> {
    let allowed = allowed(architecture);
    let shown = |circle: &Circle| circle.iter().cloned().collect::<Vec<_>>().join(", ");
    let new = found.difference(&allowed).map(|circle| {
        format!("import circle: {}: dissolve it, or list it with a reason in ARCHITECTURE.md (\"{HEADING}\")", shown(circle))
    });
    let gone = allowed.difference(found).map(|circle| {
        format!(
            "ARCHITECTURE.md lists an import circle that is not there: {}",
            shown(circle)
        )
    });
    new.chain(gone).collect()
}

fn allowed(architecture: &str) -> BTreeSet<Circle> {
    let below = architecture
        .split_once(HEADING)
        .map_or("", |(_, below)| below);
    below
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with("- "))
        .map(|line| {
            let quoted = line.split('`').skip(1).step_by(2);
            quoted
                .filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "rs"))
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(files: &[&str]) -> Circle {
        files.iter().map(|file| (*file).to_owned()).collect()
    }

    fn house(files: &[(&str, &str)]) -> Vec<Circle> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        of_crate(dir.path(), "lib.rs").unwrap()
    }

    #[test]
    fn only_what_files_take_from_each_other_is_a_circle() {
        let lib = "pub mod a; mod b; mod c; mod face;";
        let found = house(&[
            ("lib.rs", lib),
            // Two that use each other, one of them by a path in its code.
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "pub struct B; fn f() { crate::a::A; }"),
            // A test and a re-export tie nothing.
            (
                "c.rs",
                "pub struct C; #[cfg(test)] mod tests { use crate::a::A; }",
            ),
            (
                "face/mod.rs",
                "mod one; mod two; pub use one::One; pub use two::Two;",
            ),
            ("face/one.rs", "use super::Two; pub struct One;"),
            ("face/two.rs", "pub struct Two;"),
        ]);
        assert_eq!(found, [circle(&["a.rs", "b.rs"])]);
    }

    #[test]
    fn a_child_that_takes_from_its_parent_is_in_a_circle_if_the_parent_uses_it() {
        let found = house(&[
            ("lib.rs", "mod p;"),
            (
                "p.rs",
                "mod child; mod other; pub struct P; fn f() { child::g() }",
            ),
            ("p/child.rs", "pub fn g() -> super::P { super::P }"),
            ("p/other.rs", "use super::*;"),
        ]);
        assert_eq!(found, [circle(&["p.rs", "p/child.rs"])]);
    }

    #[test]
    fn the_list_holds_exactly_the_circles_that_are_there() {
        let text =
            "### Import circles\n\n- `a.rs`, `b.rs`: one type\n\n## Next\n- `c.rs`, `d.rs`\n";
        let there = BTreeSet::from([circle(&["a.rs", "b.rs"])]);
        assert!(findings(&there, text).is_empty());
        assert_eq!(findings(&BTreeSet::new(), text).len(), 1);
        assert_eq!(findings(&there, "").len(), 1);
    }
}
