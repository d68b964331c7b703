//! Restarts: the denials of listed flows, while probers dial all the time.

use crate::site::{Site, seen};
use crate::table::{Table, time};
use crate::{LONG, Options, Part};
use anyhow::{Context as _, Result};
use egress_tests::prober::Watched;
use std::path::Path;
use std::time::{Duration, Instant};

/// See the module.
pub const PART: Part = Part {
    name: "restart",
    about: "The agent ends and the next one starts. Out: from the signal to the next agent's ready line. \
            Denied: connects of the first, middle and last workload to listed destinations, every 5 ms, \
            that were denied meanwhile; the longest time from one to the next that was not.",
    columns: &["out", "connects", "denied", "for at most"],
    run,
};

/// How the agent ends.
#[derive(Clone, Copy)]
enum Way {
    Terminated,
    Killed,
}

impl Way {
    const ALL: [Self; 2] = [Self::Terminated, Self::Killed];

    const fn name(self) -> &'static str {
        match self {
            Self::Terminated => "SIGTERM, then a start",
            Self::Killed => "kill -9, then a start",
        }
    }
}

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for size in &options.sizes {
        let mut site = Site::running(binary, *size, options.answers)?;
        each(&mut site, &size.to_string(), table, |out, seen| {
            vec![
                time(out),
                seen.tries.to_string(),
                seen.denied.to_string(),
                time(seen.longest),
            ]
        })?;
    }
    Ok(())
}

/// Measures each way. `cells` makes a row of the time out and of what the watches saw.
pub fn each(
    site: &mut Site,
    scale: &str,
    table: &mut Table,
    cells: impl Fn(Duration, Watched) -> Vec<String>,
) -> Result<()> {
    for way in Way::ALL {
        let what = format!("{scale}: {}", way.name());
        let (out, seen) = one(site, way).with_context(|| what.clone())?;
        table.row(&what, cells(out, seen));
        table.hold(&what, seen);
    }
    Ok(())
}

fn one(site: &mut Site, way: Way) -> Result<(Duration, Watched)> {
    let watches = site.watch()?;
    let begin = Instant::now();
    match way {
        Way::Terminated => {
            site.agent()?.signal(rustix::process::Signal::TERM)?;
            site.agent()?.wait_end(LONG)?;
        }
        Way::Killed => drop(site.agent()?.kill()?),
    }
    site.start()?;
    let out = begin.elapsed();
    site.in_force()?;
    site.rested()?;
    Ok((out, seen(watches)?))
}
