//! The modules of a crate as syntax, and the imports between its files.

use anyhow::{Context as _, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// The longest chain of re-exports that is followed. It ends loops.
const HOPS: usize = 16;

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

/// The modules of one crate.
#[derive(Default)]
pub(super) struct House {
    modules: BTreeMap<ModulePath, Module>,
}

impl House {
    /// Reads a crate, starting at its root file.
    pub(super) fn of(entry: &Path) -> Result<Self> {
        let mut house = Self::default();
        let folder = entry.parent().unwrap_or(entry);
        house.read(entry, folder, Vec::new())?;
        Ok(house)
    }

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

    /// The imports: for each file, the files from which it takes something.
    pub(super) fn arrows(&self) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
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
        // A name that a macro defines belongs to the module.
        found.or_else(|| rooted.then(|| module.file.clone()))
    }
}

/// Paths of more than one segment, and single names that may be imported.
struct Paths<'a>(&'a mut BTreeSet<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|s| s.ident.to_string());
            self.0.insert(names.collect());
        }
        syn::visit::visit_path(self, path);
    }

    /// `pub(super)` imports nothing from the parent.
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

/// Whether this is `#[cfg(test)]` in any form.
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
