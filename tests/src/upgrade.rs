//! Replaces the lab's agent by another build, and proves that it did.

use crate::lab::Lab;
use crate::pinned::{self, Attached};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Hooks whose programs differ between the two builds: all that decide.
const DECIDE: [&str; 6] = [
    "sock_create",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "egress",
];

/// Ends the agent as an upgrade does (SIGTERM), starts the other build in its place, and waits until it is ready.
///
/// # Errors
/// The new agent says the old one's version, a link is not the one that was there, a link runs
/// the program that it ran before, or a program that decides has the instructions of before.
pub fn upgrade(lab: &mut Lab) -> Result<()> {
    let version = |lab: &Lab| -> Result<String> { Ok(lab.status()?["version"].to_string()) };
    let (old, before) = (version(lab)?, pinned::attached(lab.bpf_dir())?);
    lab.agent()?.terminate()?;
    lab.use_other_build()?;
    lab.start_agent()?;
    let (new, after) = (version(lab)?, pinned::attached(lab.bpf_dir())?);
    ensure!(old != new, "version {new} follows {old}");
    replaced(&before, &after)
}

fn replaced(before: &BTreeMap<String, Attached>, after: &BTreeMap<String, Attached>) -> Result<()> {
    ensure!(
        !before.is_empty() && before.keys().eq(after.keys()),
        "other links: {before:?}, {after:?}"
    );
    for (name, then) in before {
        let now = &after[name];
        let shown = format!("{name}: {then:?}, {now:?}");
        ensure!((now.pin, now.link) == (then.pin, then.link), "{shown}");
        ensure!(now.program != then.program, "{shown}");
        let decides = DECIDE
            .iter()
            .any(|hook| name.ends_with(&format!("/{hook}")));
        ensure!(!decides || now.tag != then.tag, "the same code: {shown}");
    }
    for hook in DECIDE {
        let there = before
            .keys()
            .any(|name| name.ends_with(&format!("/{hook}")));
        ensure!(there, "no link runs {hook}");
    }
    Ok(())
}
