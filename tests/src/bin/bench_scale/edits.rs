//! Edits of one object: the time until each is in force, and the agent's work for it.

use crate::site::{Site, seen};
use crate::table::{Table, percentile, time};
use crate::{Options, Part, SOON, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::{Dialer, now};
use std::path::Path;
use std::time::Duration;

/// See the module.
pub const PART: Part = Part {
    name: "edits",
    about: "One object is edited again and again. In force: from the rename of its file to the first \
            connect that has the new verdict in the last of the workloads that see it (of a \
            DestinationRule, which the kernel does not see: to the agent's log line). CPU: the agent's \
            for one edit. Denied: connects of the first, middle and last workload to listed \
            destinations, every 5 ms, that were denied meanwhile.",
    columns: &["in force, p50", "p99", "CPU", "denied"],
    run,
};

/// A kind of edit.
#[derive(Clone, Copy)]
pub enum Kind {
    Entry,
    OwnEntry,
    Sidecar,
    DestinationRule,
    /// A Sidecar that takes the many addresses from its namespace, or gives them back.
    Narrow,
}

impl Kind {
    /// Those after which everything else is still listed.
    pub const ALL: [Self; 4] = [
        Self::Entry,
        Self::OwnEntry,
        Self::Sidecar,
        Self::DestinationRule,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Entry => "ServiceEntry that all see",
            Self::OwnEntry => "ServiceEntry, exportTo [\".\"]",
            Self::Sidecar => "Sidecar",
            Self::DestinationRule => "DestinationRule, exportTo [\".\"]",
            Self::Narrow => "Sidecar, takes or gives back all addresses",
        }
    }
}

/// The file of the edited object.
const FILE: &str = "edited.yaml";

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for size in &options.sizes {
        one(options, binary, *size, table).with_context(|| size.to_string())?;
    }
    Ok(())
}

fn one(options: &Options, binary: &Path, scale: Size, table: &mut Table) -> Result<()> {
    let mut site = Site::running(binary, scale, options.answers)?;
    each(
        &mut site,
        options.edits,
        &scale.to_string(),
        &Kind::ALL,
        table,
    )
}

/// Measures `edits` edits of each of these kinds.
pub fn each(
    site: &mut Site,
    edits: usize,
    scale: &str,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<()> {
    site.write("extra.yaml", &rules::extra(extra()))?;
    site.rested()?;
    for kind in kinds {
        let watches = site.watch()?;
        let before = site.rested()?;
        let mut times = Vec::new();
        for n in 0..edits {
            let took = edit(site, *kind, n);
            times.push(took.with_context(|| format!("{}, edit {n}", kind.name()))?);
        }
        let cpu = site.rested()?.saturating_sub(before) / u32::try_from(edits)?;
        let seen = seen(watches)?;
        let what = format!("{scale}: {}", kind.name());
        table.row(
            &what,
            vec![
                time(percentile(&times, 50)),
                time(percentile(&times, 99)),
                time(cpu),
                seen.denied.to_string(),
            ],
        );
        table.hold(&what, seen);
        site.remove(FILE)?;
    }
    Ok(())
}

fn extra() -> std::net::SocketAddr {
    rules::edited(1, rules::PORT)
}

/// One edit. Returns the time until it is in force.
fn edit(site: &mut Site, kind: Kind, n: usize) -> Result<Duration> {
    let middle = site.middle();
    let namespace = rules::namespace(middle);
    // Each edit uses another port, so that the last one can be denied again.
    let to = rules::edited(0, 7000 + u16::try_from(n)?);
    // Of two edits of a Sidecar, the first takes something away.
    let off = n.is_multiple_of(2);
    let (text, of) = match kind {
        Kind::Entry => (rules::entry("all", false, to), site.some()),
        Kind::OwnEntry => (rules::entry(&namespace, true, to), vec![middle]),
        Kind::Sidecar => (rules::sidecar(&namespace, !off, true), vec![middle]),
        Kind::Narrow => (rules::sidecar(&namespace, false, !off), vec![middle]),
        Kind::DestinationRule => {
            let mark = site.agent()?.mark();
            let text = rules::destination_rule(&namespace, 1 + n);
            let at = site.write(FILE, &text)?;
            site.agent()?.wait_applied_for(mark, SOON)?;
            return Ok(now().saturating_sub(at));
        }
    };
    let mut dialers = Vec::new();
    for workload in of {
        let mut dialer = Dialer::start(&site.workload(workload))?;
        match kind {
            Kind::Sidecar if off => dialer.until_denied(extra(), 1)?,
            Kind::Sidecar => dialer.until_allowed(extra(), 1)?,
            Kind::Narrow if off => dialer.until_denied(rules::list(0), 1)?,
            Kind::Narrow => dialer.until_allowed(rules::list(0), 1)?,
            Kind::Entry | Kind::OwnEntry | Kind::DestinationRule => dialer.until_allowed(to, 1)?,
        }
        dialers.push(dialer);
    }
    let at = site.write(FILE, &text)?;
    let mut last = at;
    for dialer in &mut dialers {
        last = last.max(dialer.at(SOON)?);
    }
    Ok(last.saturating_sub(at))
}
