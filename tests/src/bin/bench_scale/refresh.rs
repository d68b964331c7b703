//! Questions for names over time: how evenly they are spread.

use crate::site::Site;
use crate::table::{Table, ratio};
use crate::{LONG, Options, Part, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::prober::Dialer;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// See the module.
pub const PART: Part = Part {
    name: "refresh",
    about: "DNS questions in each second, from the moment on when every name had its address. The TTL of \
            all answers is 30 s. Twice the number of names (A and AAAA) divided by the TTL is the least \
            that keeps every address fresh.",
    columns: &[
        "seconds",
        "questions",
        "mean",
        "busiest second",
        "quietest second",
    ],
    run,
};

/// Seconds that an answer may be kept.
const TTL: u32 = 30;

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for count in &options.names {
        one(options, binary, *count, table).with_context(|| format!("{count} names"))?;
    }
    Ok(())
}

fn one(options: &Options, binary: &Path, count: usize, table: &mut Table) -> Result<()> {
    let size = Size {
        views: 1,
        services: 10,
    };
    let mut node = Site::new(binary, size, options.answers)?;
    node.nameserver().keep_for(TTL);
    node.write_names(count)?;
    node.start()?;
    let mut dialer = Dialer::start(&node.workload(0))?;
    dialer.until_allowed(rules::name(0), count)?;
    dialer.at(LONG)?;
    let (begin, mut before) = (Instant::now(), node.nameserver().questions());
    let mut seconds = Vec::new();
    for second in 1..=options.refresh {
        let end = begin + Duration::from_secs(second);
        sleep(end.saturating_duration_since(Instant::now()));
        let now = node.nameserver().questions();
        seconds.push(now - before);
        before = now;
        if egress_tests::wait::interrupted() {
            break;
        }
    }
    let (sum, length) = (seconds.iter().sum::<u64>(), seconds.len() as u64);
    let mean = sum / length.max(1);
    let most = seconds.iter().max().copied().unwrap_or_default();
    let least = seconds.iter().min().copied().unwrap_or_default();
    table.row(
        format!("{count} names"),
        vec![
            length.to_string(),
            sum.to_string(),
            mean.to_string(),
            format!("{most} ({})", ratio(most, mean)),
            least.to_string(),
        ],
    );
    Ok(())
}
