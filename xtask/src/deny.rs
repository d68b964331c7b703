//! Checks dependencies: the bans, licences and sources of `deny.toml`.
//!
//! Owns the call of cargo-deny. `provision` installs it. Advisories are not checked: they need a
//! database from the network, and a new entry would fail an old change.

use crate::progress::step;
use crate::provision;
use crate::workspace::root;
use anyhow::Result;
use std::process::Command;

/// Fails where a dependency breaks `deny.toml`.
pub fn check() -> Result<()> {
    let mut deny = Command::new(provision::cargo_deny()?);
    deny.current_dir(root())
        // Called as cargo calls a subcommand's program.
        .args(["--locked", "--workspace", "--log-level", "error", "check"])
        .args(["--hide-inclusion-graph", "bans", "licenses", "sources"]);
    step("cargo deny: bans, licenses, sources", deny)
}
