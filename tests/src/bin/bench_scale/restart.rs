//! Restarts: the denials of listed flows, while probers dial all the time.

use crate::site::{Site, seen};
use crate::table::{Table, time};
use crate::{LONG, Options, Part, Size};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::Instant;

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
        for way in Way::ALL {
            one(&mut site, *size, way, table).with_context(|| format!("{size}, {}", way.name()))?;
        }
    }
    Ok(())
}

fn one(site: &mut Site, scale: Size, way: Way, table: &mut Table) -> Result<()> {
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
    let seen = seen(watches)?;
    let what = format!("{scale}: {}", way.name());
    table.row(
        &what,
        vec![
            time(out),
            seen.tries.to_string(),
            seen.denied.to_string(),
            time(seen.longest),
        ],
    );
    table.hold(&what, seen);
    Ok(())
}
