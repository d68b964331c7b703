//! The agent restarted, killed and replaced while clients ask.

use super::load::{Load, Most};
use super::rig::{Rig, Way, start_agent};
use super::{Cli, Figures, Part, Ways};
use anyhow::{Context as _, Result, ensure};
use egress_tests::Agent;
use egress_tests::agent::{self, beside};
use egress_tests::background::Background;
use rustix::process::Signal;
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);
/// Queries of dnsperf in a second.
const RATE: u32 = 1000;
/// How long dnsperf asks.
const SECONDS: u32 = 3;

pub const PART: Part = Part {
    name: "replaced",
    about: "The agent is replaced while dnsperf sends 1 000 queries a second for names that are kept, and another client \
            asks every 2 ms. Without answers: the longest time between two answers to the other client, in ms. Failed: \
            the share of dnsperf's queries without an answer, which includes those that could not be sent, in the three \
            seconds around the change.",
    figures: &[
        "SIGTERM, then a start: without answers, ms",
        "SIGTERM, then a start: failed, %",
        "kill -9, then a start: without answers, ms",
        "kill -9, then a start: failed, %",
        "standby takes over: without answers, ms",
        "standby takes over: failed, %",
    ],
    ways: Ways::Agents,
    run,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Restart,
    Kill,
    Standby,
}

fn run(rig: &mut Rig, way: Way, _: &Cli) -> Result<Figures> {
    let mut figures = Vec::new();
    for how in [How::Restart, How::Kill, How::Standby] {
        let to = rig.to(way, true).to_string();
        let mut command = rig.place(way).command(beside("asker")?)?;
        command.args(["steady", &to, "c0.example", "x0.example"]);
        let asker = Background::start(command)?;
        asker.wait_line("the first answer", LONG, |line| line["answering"].is_u64())?;
        let names = rig.names('c');
        let load = Load {
            names: &names,
            to: to.parse()?,
            clients: 10,
            at_once: 1000,
            most: Most::Seconds(SECONDS),
            rate: Some(RATE),
        };
        let mut command = rig.place(way).command("dnsperf")?;
        command.args(load.arguments());
        let perf = thread::spawn(move || egress_tests::client::run(command, LONG));
        thread::sleep(Duration::from_secs(1));
        replace(rig, way, how)?;
        let said = perf.join().ok().context("dnsperf's thread")??.stdout;
        let report = super::load::read(&said).with_context(|| said.clone())?;
        let ended = asker.end()?;
        let count = |name: &str| ended[name].as_u64().context("a count of the asker");
        ensure!(count("wrong")? == 0, "an unlisted name resolved: {ended}");
        let longest = Duration::from_micros(count("longestUs")?);
        // All that could have been sent.
        let possible = f64::from(RATE * SECONDS);
        let failed = (possible - report.resolved).max(0.0) * 100.0 / possible;
        figures.extend([Some(longest.as_secs_f64() * 1e3), Some(failed)]);
    }
    Ok(figures)
}

fn replace(rig: &mut Rig, way: Way, how: How) -> Result<()> {
    let lab = &mut rig.site(way).lab;
    match how {
        How::Restart => {
            lab.agent()?.signal(Signal::TERM)?;
            lab.agent()?.wait_end(LONG)?;
            start_agent(lab)
        }
        How::Kill => {
            lab.agent()?.kill()?;
            start_agent(lab)
        }
        How::Standby => {
            let mut arguments = lab.agent_arguments();
            arguments.push("--standby".into());
            let next = Agent::spawn(&lab.agent_place(), &agent::binary()?, &arguments)?;
            next.wait_line(0, LONG, "the standby waits", |line| {
                line.contains("standby: waiting")
            })?;
            lab.agent()?.signal(Signal::TERM)?;
            let mut former = lab.swap_agent(next)?;
            lab.agent()?.wait_ready_for(LONG)?;
            former.wait_end(LONG)?;
            Ok(())
        }
    }
}
