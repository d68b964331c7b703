//! The start of an agent with many policies, its memory, and its memory after many edits.

use crate::rules::Ports;
use crate::site::Site;
use crate::table::{Table, mib, time};
use crate::{Options, Part, SOON, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "size",
    about: "The agent starts with all rules in place and no gate. Services have two ports, if nothing else \
            is said; each port is an entry of each view's table. Ready: from its start to its log line. \
            RSS: resident memory once it no longer falls, before and after edits of a ServiceEntry that all \
            see; it includes the kernel's rule tables, which the agent has mapped. Tables: their part.",
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
    let mut all: Vec<(Size, Ports)> = Vec::new();
    all.extend(options.sizes.iter().map(|size| (*size, Ports::Two)));
    for ports in [Ports::One, Ports::Two] {
        all.extend(options.large.iter().map(|size| (*size, ports)));
    }
    for (size, ports) in all {
        let what = match ports {
            Ports::One => format!("{size} of one port"),
            Ports::Two => size.to_string(),
        };
        one(options, binary, (size, ports), &what, table).context(what)?;
    }
    Ok(())
}

fn one(
    options: &Options,
    binary: &Path,
    (size, ports): (Size, Ports),
    what: &str,
    table: &mut Table,
) -> Result<()> {
    let mut lab = Site::with_ports(binary, size, ports, options.answers)?;
    let ready = lab.start()?;
    lab.in_force()?;
    let cpu = lab.rested()?;
    let fresh = lab.settled()?;
    let mut dialer = Dialer::start(&lab.workload(0))?;
    for n in 0..options.reloads {
        let to = rules::edited(0, 7000 + u16::try_from(n)?);
        dialer.until_allowed(to, 1)?;
        lab.write("edited.yaml", &rules::entry("all", false, to))?;
        dialer.at(SOON).with_context(|| format!("edit {n}"))?;
    }
    let after = lab.settled()?;
    table.row(
        what,
        vec![
            time(ready),
            time(cpu),
            mib(fresh),
            mib(after),
            options.reloads.to_string(),
            mib(lab.agent()?.mapped_maps()?),
        ],
    );
    Ok(())
}
