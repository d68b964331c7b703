//! Many addresses: whether every kind of edit applies, and whether a restart keeps them listed.

use crate::edits::{self, Kind};
use crate::site::Site;
use crate::table::{Table, time};
use crate::{LONG, Options, Part, Size, restart, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "addresses",
    about: "Single addresses that every view lists on one port: each is an entry of each view's table, and \
            of the root's default. Edits and restarts as above; the last kind of edit takes all of these \
            addresses from one view, or gives them back.",
    columns: &["in force or out, p50", "p99", "CPU", "denied"],
    run,
};

/// Services of the other parts, beside the addresses.
const SERVICES: usize = 10;

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for size in &options.addresses {
        one(options, binary, *size, table).with_context(|| format!("{size} addresses"))?;
    }
    Ok(())
}

fn one(options: &Options, binary: &Path, scale: Size, table: &mut Table) -> Result<()> {
    let (views, addresses) = (scale.views, scale.services);
    let what = format!("{views} views × {addresses} addresses");
    let size = Size {
        views,
        services: SERVICES,
    };
    let mut node = Site::new(binary, size, options.answers)?;
    for (name, text) in rules::listed(addresses) {
        node.write(&name, &text)?;
    }
    node.start()?;
    node.in_force()?;
    let watched = [0, addresses / 2, addresses - 1].map(rules::list);
    for workload in node.some() {
        let mut dialer = Dialer::start(&node.workload(workload))?;
        for to in watched {
            dialer.until_allowed(to, 1)?;
            dialer.at(LONG)?;
        }
    }
    node.also_watch(&watched);
    edits::each(&mut node, options.edits, &what, &Kind::ALL, table)?;
    // The addresses are not listed for a while, so they cannot be watched.
    node.also_watch(&[]);
    edits::each(&mut node, options.edits, &what, &[Kind::Narrow], table)?;
    node.also_watch(&watched);
    restart::each(&mut node, &what, table, |out, seen| {
        vec![
            time(out),
            "–".to_owned(),
            "–".to_owned(),
            seen.denied.to_string(),
        ]
    })
}
