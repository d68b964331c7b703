//! Memory of an agent with many names, fresh and after many reloads of its rules.

use crate::site::Site;
use crate::table::{Table, mib, percentile, ratio, time};
use crate::{LONG, Options, Part, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "reloads",
    about: "Names of ServiceEntries with resolution DNS, and reloads. RSS: resident memory once it no \
            longer falls, before the first and after the last; share: after / before. One object: a ServiceEntry that all see \
            gets another port. All objects: every file is written again, and every object has another \
            port name. In force: until the first connect that has the new verdict.",
    columns: &[
        "reloads",
        "RSS before",
        "RSS after",
        "share",
        "in force, p50",
        "p99",
    ],
    run,
};

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for count in &options.names {
        for all in [false, true] {
            let kind = if all { "all objects" } else { "one object" };
            let what = format!("{count} names, {kind}");
            one(options, binary, *count, all, &what, table).context(what)?;
        }
    }
    Ok(())
}

fn one(
    options: &Options,
    binary: &Path,
    count: usize,
    all: bool,
    what: &str,
    table: &mut Table,
) -> Result<()> {
    let size = Size {
        views: 1,
        services: 10,
    };
    let mut node = Site::new(binary, size, options.answers)?;
    node.write_names(count)?;
    node.start()?;
    let mut dialer = Dialer::start(&node.workload(0))?;
    dialer.until_allowed(rules::name(0), count)?;
    dialer.at(LONG)?;
    let before = node.settled()?;
    let mut times = Vec::new();
    for n in 0..options.reloads {
        let to = rules::edited(0, 7000 + u16::try_from(n)?);
        dialer.until_allowed(to, 1)?;
        if all {
            node.write_names_as(count, if n % 2 == 0 { "tcp-again" } else { "tcp" })?;
        }
        let at = node.write("edited.yaml", &rules::entry("all", false, to))?;
        let done = dialer.at(LONG).with_context(|| format!("reload {n}"))?;
        times.push(done.saturating_sub(at));
    }
    let after = node.settled()?;
    table.row(
        what,
        vec![
            options.reloads.to_string(),
            mib(before),
            mib(after),
            ratio(after, before),
            time(percentile(&times, 50)),
            time(percentile(&times, 99)),
        ],
    );
    Ok(())
}
