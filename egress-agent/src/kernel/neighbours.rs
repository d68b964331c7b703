//! Programs of other software that run for the same calls as the gate's and can change a destination. Names them,
//! and judges nothing: docs/neighbours.md says what follows from them.

use super::pins::Pins;
use super::{rival, sys};
use aya::programs::loaded_programs;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The hooks that can change a destination, with their numbers in `enum bpf_attach_type`.
const HOOKS: [(&str, u32); 4] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
];

/// The programs that run beside the gate's at these enforced roots and that are not the gate's: hook and name.
/// Without `CAP_SYS_ADMIN` the kernel does not say their names, and they have a number instead.
pub fn neighbours(bpf_dir: &Path, roots: &[PathBuf]) -> anyhow::Result<BTreeSet<String>> {
    let own = rival::linked(&Pins::at(bpf_dir).every_link()?)?;
    let mut others: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for root in roots.iter().filter(|root| root.exists()) {
        let folder = File::open(root)?;
        for (hook, number) in HOOKS {
            for id in sys::link::programs(folder.as_fd(), number, true)? {
                if !own.contains(&id) {
                    others.entry(id).or_default().insert(hook);
                }
            }
        }
    }
    if others.is_empty() {
        return Ok(BTreeSet::new());
    }
    let known: BTreeMap<u32, String> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| others.contains_key(&program.id()))
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect();
    let shown = others.into_iter().flat_map(|(id, hooks)| {
        let name = known.get(&id).cloned();
        let name = name.unwrap_or_else(|| format!("program {id}"));
        hooks.into_iter().map(move |hook| format!("{hook}: {name}"))
    });
    Ok(shown.collect())
}
