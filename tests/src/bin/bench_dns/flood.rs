//! One workload asks as much as it can, and its neighbour in the same network namespace asks a little.

use super::load::{Latencies, Load, Most, Report, one_by_one};
use super::rig::{Rig, Way};
use super::{Cli, Figures, Part, Ways};
use anyhow::{Context as _, Result};
use egress_tests::bench::float;
use egress_tests::place::Place;
use std::thread;
use std::time::Duration;

/// Time between two queries of the neighbour.
const PAUSE: Duration = Duration::from_millis(2);
/// Queries of the other in a second.
const FLOOD: u32 = 50_000;

pub const PART: Part = Part {
    name: "flood",
    about: "A workload sends 50 000 queries a second, for names that are kept and for unlisted ones, while its neighbour \
            sends one every 2 ms to the same sockets of the agent. Latencies are the neighbour's, in µs.",
    figures: &[
        "alone: p50",
        "alone: p99",
        "kept names: queries/s answered",
        "kept names: neighbour's p50",
        "kept names: neighbour's p99",
        "kept names: neighbour's lost, %",
        "unlisted names: queries/s answered",
        "unlisted names: neighbour's p50",
        "unlisted names: neighbour's p99",
        "unlisted names: neighbour's lost, %",
    ],
    ways: Ways::Agents,
    run,
};

/// The latencies, and how many answers were lost, in percent.
type Little = (Latencies, f64);

fn run(rig: &mut Rig, way: Way, cli: &Cli) -> Result<Figures> {
    let (alone, _) = neighbour(rig, way, cli.seconds)?;
    let mut figures = vec![alone.at(0.5), alone.at(0.99)];
    for letter in ['c', 'x'] {
        let (flood, (little, lost)) = both(rig, way, cli.seconds, letter)?;
        figures.extend([
            Some(flood.each_second),
            little.at(0.5),
            little.at(0.99),
            Some(lost),
        ]);
    }
    Ok(figures)
}

fn neighbour(rig: &Rig, way: Way, seconds: u32) -> Result<Little> {
    let Way::Agent(at) = way else {
        anyhow::bail!("only agents have workloads");
    };
    let place = Place {
        cgroup: Some(&rig.sites[at].neighbour),
        ..rig.place(way)
    };
    let count = seconds * 1000 / PAUSE.as_millis() as u32;
    let got = one_by_one(&place, rig.to(way, true), 'c', count, PAUSE)?;
    let lost = got.iter().filter(|got| got.is_none()).count();
    let share = 100.0 * float(lost as u64) / float(got.len() as u64);
    let took = got.iter().flatten().map(|got| got.took);
    Ok((Latencies::of(took), share))
}

fn both(rig: &Rig, way: Way, seconds: u32, letter: char) -> Result<(Report, Little)> {
    let names = rig.names(letter);
    let load = Load {
        names: &names,
        to: rig.to(way, true),
        clients: 10,
        at_once: 1000,
        // The neighbour begins later and ends earlier.
        most: Most::Seconds(2 * seconds + 2),
        rate: Some(FLOOD),
    };
    let place = rig.place(way);
    thread::scope(|scope| {
        let flood = scope.spawn(|| load.run(&place));
        thread::sleep(Duration::from_secs(1));
        let little = neighbour(rig, way, seconds)?;
        let flood = flood.join().ok().context("dnsperf's thread")??;
        Ok((flood, little))
    })
}
