//! Many names: a start with them, and the same number added to a running agent.

use crate::site::{Site, seen};
use crate::table::{Table, mib, percentile, time};
use crate::{LONG, Options, Part, SOON, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;
use std::time::{Duration, Instant};

/// See the module.
pub const PART: Part = Part {
    name: "names",
    about: "Names of ServiceEntries with resolution DNS and a TCP port, and a DNS server that keeps \
            `--answers` a second. All: every name's address was dialled and allowed. Edits: of a \
            ServiceEntry that all see, one after the other, while the names come into force.",
    columns: &[
        "ready",
        "all in force",
        "edits, p50",
        "p99",
        "RSS",
        "questions",
        "denied",
    ],
    run,
};

/// The pause between two edits.
const BETWEEN: Duration = Duration::from_millis(100);

/// One workload with a policy, because this part is about many names.
const SIZE: Size = Size {
    views: 1,
    services: 10,
};

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for count in options.names.iter().chain(&options.many_names) {
        at_start(options, binary, *count, table)
            .with_context(|| format!("start, {count} names"))?;
        live(options, binary, *count, table).with_context(|| format!("live, {count} names"))?;
    }
    Ok(())
}

fn at_start(options: &Options, binary: &Path, count: usize, table: &mut Table) -> Result<()> {
    let mut site = Site::new(binary, SIZE, options.answers)?;
    site.write_names(count)?;
    let begin = Instant::now();
    let ready = site.start()?;
    // Before the agent is ready nothing is denied yet.
    let mut dialer = Dialer::start(&site.workload(0))?;
    dialer.until_allowed(rules::name(0), count)?;
    dialer.at(LONG)?;
    let all = begin.elapsed();
    site.rested()?;
    let (memory, questions) = (site.resident()?, site.nameserver().questions());
    table.row(
        format!("start with {count} names"),
        vec![
            time(ready),
            time(all),
            "–".to_owned(),
            "–".to_owned(),
            mib(memory),
            questions.to_string(),
            "–".to_owned(),
        ],
    );
    silent_restart(&mut site, count, table)
}

/// The next agent starts while the DNS server is silent. It has the leases of the last agent.
fn silent_restart(site: &mut Site, count: usize, table: &mut Table) -> Result<()> {
    let watch = site.watch_in(0, &[0, count / 2, count - 1].map(rules::name))?;
    site.agent()?.signal(rustix::process::Signal::TERM)?;
    site.agent()?.wait_end(LONG)?;
    site.nameserver().silence(true);
    let asked = site.nameserver().questions();
    let ready = site.start()?;
    let mut dialer = Dialer::start(&site.workload(0))?;
    dialer.until_allowed(rules::name(0), count)?;
    dialer.at(LONG)?;
    let seen = watch.end()?;
    let what = format!("restart with {count} names, DNS silent");
    table.row(
        &what,
        vec![
            time(ready),
            "–".to_owned(),
            "–".to_owned(),
            "–".to_owned(),
            mib(site.resident()?),
            (site.nameserver().questions() - asked).to_string(),
            seen.denied.to_string(),
        ],
    );
    table.hold(&what, seen);
    Ok(())
}

fn live(options: &Options, binary: &Path, count: usize, table: &mut Table) -> Result<()> {
    let mut site = Site::running(binary, SIZE, options.answers)?;
    let watches = site.watch()?;
    let mut all = Dialer::start(&site.workload(0))?;
    all.until_allowed(rules::name(0), count)?;
    let begin = Instant::now();
    let at = egress_tests::prober::now();
    site.write_names(count)?;
    let mut times = Vec::new();
    let mut end = None;
    let mut edits = Dialer::start(&site.workload(0))?;
    for n in 0.. {
        if let Ok(done) = all.at(BETWEEN) {
            end = Some(done);
            break;
        }
        let to = rules::edited(0, 7000 + u16::try_from(n)?);
        edits.until_allowed(to, 1)?;
        let at = site.write("edited.yaml", &rules::entry("all", false, to))?;
        times.push(edits.at(SOON)?.saturating_sub(at));
        if begin.elapsed() > LONG || egress_tests::wait::interrupted() {
            break;
        }
    }
    let end = end.context("the names did not all come into force")?;
    site.rested()?;
    let seen = seen(watches)?;
    let what = format!("{count} names added to a running agent");
    table.row(
        &what,
        vec![
            "–".to_owned(),
            time(end.saturating_sub(at)),
            time(percentile(&times, 50)),
            time(percentile(&times, 99)),
            mib(site.resident()?),
            site.nameserver().questions().to_string(),
            seen.denied.to_string(),
        ],
    );
    table.hold(&what, seen);
    Ok(())
}
