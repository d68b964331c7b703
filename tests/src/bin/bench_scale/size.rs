//! The start of an agent with many policies, its memory, and its memory after many edits.

use crate::site::Site;
use crate::table::{Table, mib, time};
use crate::{Options, Part, SOON, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "size",
    about: "The agent starts with all rules in place and no gate. Ready: from its start to its log line. \
            RSS: resident memory at rest, before and after edits of a ServiceEntry that all see; it \
            includes the kernel's rule tables, which the agent has mapped. Tables: their part.",
    columns: &[
        "ready",
        "CPU",
        "RSS",
        "RSS after the edits",
        "edits",
        "tables",
    ],
    run,
};

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for size in options.sizes.iter().chain(&options.large) {
        one(options, binary, *size, table).with_context(|| size.to_string())?;
    }
    Ok(())
}

fn one(options: &Options, binary: &Path, scale: Size, table: &mut Table) -> Result<()> {
    let mut site = Site::new(binary, scale, options.answers)?;
    let ready = site.start()?;
    site.in_force()?;
    let cpu = site.rested()?;
    let fresh = site.resident()?;
    let mut dialer = Dialer::start(&site.workload(0))?;
    for n in 0..options.reloads {
        let to = rules::edited(0, 7000 + u16::try_from(n)?);
        dialer.until_allowed(to, 1)?;
        site.write("edited.yaml", &rules::entry("all", false, to))?;
        dialer.at(SOON).with_context(|| format!("edit {n}"))?;
    }
    site.rested()?;
    let after = site.resident()?;
    table.row(
        scale.to_string(),
        vec![
            time(ready),
            time(cpu),
            mib(fresh),
            mib(after),
            options.reloads.to_string(),
            mib(site.agent()?.mapped_maps()?),
        ],
    );
    Ok(())
}
