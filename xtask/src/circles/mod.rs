//! Import circles: files of one crate that import each other in a loop.
//!
//! Reads the sources as syntax, and resolves each path to the file that defines what it names: a
//! re-export (`pub use`) is no import of the file that has it. Unit tests do not count. Expansions of
//! macros are not seen.

mod house;

use anyhow::Result;
use house::House;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crate roots of the product and of the developer's entry point.
const ROOTS: [&str; 6] = [
    "egress-agent/src/lib.rs",
    "egress-agent/src/main.rs",
    "egress-agent/core/src/lib.rs",
    "egress-ebpf/src/lib.rs",
    "egress-ebpf/src/main.rs",
    "xtask/src/main.rs",
];

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
    let house = House::of(&root.join(entry))?;
    let shown = |file: &PathBuf| {
        let short = file.strip_prefix(root).unwrap_or(file);
        short.to_string_lossy().into_owned()
    };
    Ok(circles(&house.arrows())
        .into_iter()
        .map(|files| files.iter().map(shown).collect())
        .collect())
}

/// The sets of two or more nodes that all reach each other.
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

/// The heading in ARCHITECTURE.md of the list of allowed circles. A list item names the files of one circle in
/// backticks, and gives the reason.
const HEADING: &str = "### Import circles";

/// Circles that ARCHITECTURE.md does not allow, and list items without a circle, one line each.
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
    use std::fs;

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
