//! Processor time, rates and latencies of single kinds of queries.

use super::load::{Latencies, Load, Most, one_by_one};
use super::rig::{NAMES, Rig, Way};
use super::{Cli, Figures, Part, Ways};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

const CLIENTS: u32 = 10;
const AT_ONCE: u32 = 100;
/// Queries one after the other, for a latency.
const SINGLE: u32 = 5000;
/// New addresses.
const NEW: u32 = 2000;

pub const CACHED: Part = Part {
    name: "cached",
    about: "Queries of type A for 500 names whose answers are kept: 10 sockets, 100 queries at a time. In the agent each \
            has the owner's policy.",
    figures: &["CPU µs per query", "queries/s"],
    ways: Ways::Servers,
    run: |rig, way, cli| rate(rig, way, cli, 'c'),
};

pub const UNCACHED: Part = Part {
    name: "uncached",
    about: "The same for names whose answers have a TTL of 0, so that the name server is asked for each. The peers have no \
            cache here.",
    figures: &["CPU µs per query", "queries/s"],
    ways: Ways::Servers,
    run: |rig, way, cli| rate(rig, way, cli, 'u'),
};

pub const DENIED: Part = Part {
    name: "denied",
    about: "The same for names that no rule lists.",
    figures: &["CPU µs per query", "queries/s"],
    ways: Ways::Agents,
    run: |rig, way, cli| rate(rig, way, cli, 'x'),
};

pub const LATENCY: Part = Part {
    name: "latency",
    about: "Median latency of queries one after the other, in µs. Added: minus the median of queries that go to the name \
            server itself, measured immediately before.",
    figures: &["kept", "forwarded", "added"],
    ways: Ways::All,
    run: latency,
};

pub const LEASE: Part = Part {
    name: "lease",
    about: "Each answer has an address that was never seen. Time in µs from the name server's answer to the client's, \
            which the client gets when the address is allowed in the kernel.",
    figures: &["p50", "p99", "largest"],
    ways: Ways::Agents,
    run: lease,
};

fn rate(rig: &mut Rig, way: Way, cli: &Cli, letter: char) -> Result<Figures> {
    let keeps = letter == 'c';
    let names = rig.names(letter);
    let load = |runs| Load {
        names: &names,
        clients: CLIENTS,
        at_once: AT_ONCE,
        most: Most::Runs(runs),
        to: rig.to(way, keeps),
        rate: None,
    };
    let (first, all) = (load(2), load(cli.queries.div_ceil(NAMES)));
    first.run(&rig.place(way))?;
    let before = rig.cpu(way, keeps)?;
    let report = all.run(&rig.place(way))?;
    let cpu = rig.cpu(way, keeps)?.saturating_sub(before);
    // A server may lose a few at such a rate.
    let ended = report.sent - report.lost;
    ensure!(report.lost < report.sent / 100.0, "{report:?}");
    let right = if letter == 'x' { 0.0 } else { ended };
    ensure!((report.resolved - right).abs() < 0.5, "{report:?}");
    Ok(vec![
        Some(cpu.as_secs_f64() * 1e6 / ended),
        Some(report.each_second),
    ])
}

fn latency(rig: &mut Rig, way: Way, _: &Cli) -> Result<Figures> {
    let one = |way, letter| -> Result<f64> {
        let to = rig.to(way, letter == 'c');
        let got = one_by_one(&rig.place(way), to, letter, SINGLE, Duration::ZERO)?;
        let latencies = Latencies::of(got.iter().flatten().map(|got| got.took));
        latencies.at(0.5).context("no answers")
    };
    let direct = one(Way::Direct, 'u')?;
    let (kept, forwarded) = (one(way, 'c')?, one(way, 'u')?);
    Ok(vec![Some(kept), Some(forwarded), Some(forwarded - direct)])
}

fn lease(rig: &mut Rig, way: Way, _: &Cli) -> Result<Figures> {
    let to = rig.to(way, false);
    let got = one_by_one(&rig.place(way), to, 'n', NEW, Duration::ZERO)?;
    let upstream = &rig.site(way).upstream;
    let took = got.iter().flatten().map(|got| {
        let sent = upstream.sent(got.address).context("nobody sent it")?;
        Ok(got.at.saturating_sub(sent).as_secs_f64() * 1e6)
    });
    let took = Latencies::of(took.collect::<Result<Vec<f64>>>()?);
    Ok([0.5, 0.99, 1.0].map(|part| took.at(part)).to_vec())
}
