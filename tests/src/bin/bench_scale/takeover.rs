//! The agent replaced and restarted under HTTP and TLS load, with many names in its rules.

use crate::table::{Table, time};
use crate::{LONG, Options, Part};
use anyhow::{Context as _, Result};
use egress_tests::takeover::{Load, list};
use egress_tests::{Agent, Lab, LabOptions};
use rustix::process::Signal;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// See the module.
pub const PART: Part = Part {
    name: "takeover",
    about: "Requests on new connections and on a kept one, a response over TLS that takes two seconds, and \
            connects to an unlisted host, while the agent is replaced. An agent that ends instead of \
            taking over is started again after 100 ms. Denied: the longest time in which every new \
            connection failed; slowest: the slowest request that succeeded; kept: requests on the kept \
            connection, those whose response was cut off, and those that were closed without a byte; \
            leaks: unlisted connects that were not denied.",
    columns: &[
        "denied for",
        "slowest",
        "requests",
        "kept",
        "TLS response",
        "leaks",
    ],
    run,
};

/// How the agent is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    AtOnce,
    Rolling,
    StopAndStart,
    Killed,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::AtOnce,
        Self::Rolling,
        Self::StopAndStart,
        Self::Killed,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "SIGTERM, and a start at once",
            Self::Rolling => "rolling update: a start, then SIGTERM",
            Self::StopAndStart => "SIGTERM, and a start after the end",
            Self::Killed => "kill -9, then a start",
        }
    }
}

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for names in &options.names {
        let mut lab = Lab::start_with(LabOptions {
            binary: Some(binary.to_owned()),
            ..LabOptions::default()
        })?;
        list(&lab, *names)?;
        for way in Way::ALL {
            let what = format!("{names} names: {}", way.name());
            one(&mut lab, binary, way, &what, table).context(what)?;
        }
    }
    Ok(())
}

fn one(lab: &mut Lab, binary: &Path, way: Way, what: &str, table: &mut Table) -> Result<()> {
    let load = Load::start(lab)?;
    match way {
        Way::AtOnce => {
            lab.agent()?.signal(Signal::TERM)?;
            let next = spawn(lab, binary)?;
            replace(lab, binary, next)?;
        }
        Way::Rolling => {
            let next = spawn(lab, binary)?;
            lab.agent()?.signal(Signal::TERM)?;
            replace(lab, binary, next)?;
        }
        Way::StopAndStart => {
            lab.agent()?.signal(Signal::TERM)?;
            lab.agent()?.wait_end(LONG)?;
            lab.start_agent()?;
        }
        Way::Killed => {
            lab.agent()?.kill()?;
            lab.start_agent()?;
        }
    }
    let noticed = load.end(lab)?;
    let count = |pointer| noticed.count(pointer);
    let (cut, crossed) = (count("/kept/cut")?, count("/kept/crossed")?);
    let tally = noticed.unlisted;
    let leaks = tally.connected + tally.refused + tally.other + noticed.leaked as u64;
    table.row(
        what,
        vec![
            time(noticed.denied_for()?),
            time(Duration::from_millis(count("/fresh/slowestMs")?)),
            count("/fresh/ok")?.to_string(),
            format!("{}, {cut} cut, {crossed} closed", count("/kept/ok")?),
            if noticed.tls == 200 {
                "whole"
            } else {
                "cut off"
            }
            .to_owned(),
            leaks.to_string(),
        ],
    );
    // A killed agent's connections end with it.
    let drained = way == Way::Killed || (noticed.tls == 200 && cut == 0);
    if !noticed.nothing_leaked() || !drained {
        table.trouble.push(format!("{what}: {noticed:?}"));
    }
    Ok(())
}

fn spawn(lab: &Lab, binary: &Path) -> Result<Agent> {
    Agent::spawn(&lab.agent_place(), binary, &lab.agent_arguments())
}

/// Waits until the next agent serves, and starts it again if it ends, as a service manager does.
fn replace(lab: &mut Lab, binary: &Path, mut next: Agent) -> Result<()> {
    let end = Instant::now() + LONG;
    while let Err(error) = next.wait_ready_for(LONG) {
        if Instant::now() > end || next.is_running() {
            return Err(error);
        }
        sleep(Duration::from_millis(100));
        next = spawn(lab, binary)?;
    }
    lab.swap_agent(next)?.wait_end(LONG)?;
    Ok(())
}
