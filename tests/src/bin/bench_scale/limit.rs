//! Rules that need more entries than the kernel's tables have room for: how soon an agent says so.

use crate::site::Site;
use crate::table::{Table, mib, time};
use crate::{LONG, Options, Part, Size};
use anyhow::{Context as _, Result};
use egress_tests::bench::peak_of;
use egress_tests::wait_until;
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "limit",
    about: "The agent starts with all rules in place and no gate, and they need more entries than its \
            tables have room for: each service takes two of each view. Said: from its start to the log \
            line with the number of entries and the limit. Peak: its largest resident memory until then.",
    columns: &["said after", "peak RSS", "the line"],
    run,
};

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for size in &options.too_large {
        one(options, binary, *size, table).with_context(|| size.to_string())?;
    }
    Ok(())
}

fn one(options: &Options, binary: &Path, size: Size, table: &mut Table) -> Result<()> {
    let mut lab = Site::new(binary, size, options.answers)?;
    let begin = lab.start_only()?;
    let agent = lab.agent()?;
    let mut peak = 0;
    let (line, said) = wait_until("the agent says that there is no room", LONG, || {
        // An older agent ends after the line.
        peak = peak_of(agent.pid()).unwrap_or(peak);
        let line = agent
            .log_since(0)
            .into_iter()
            .find(|l| l.contains("room for"))?;
        Some((line, begin.elapsed()))
    })
    .with_context(|| format!("the agent's log ends with:\n{}", agent.tail()))?;
    table.row(
        size.to_string(),
        vec![time(said), mib(peak), reason(&line).to_owned()],
    );
    Ok(())
}

/// The numbers in the line.
fn reason(line: &str) -> &str {
    let from = line
        .find("do not fit: ")
        .map_or(0, |at| at + "do not fit: ".len());
    let rest = &line[from..];
    &rest[..rest.find(';').unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn the_reason_is_what_the_line_says_about_room() {
        let line = "ERROR rules not applied problem=\"the rules do not fit: 9 entries, there is room for 3; none\"";
        assert_eq!(reason(line), "9 entries, there is room for 3");
        assert_eq!(reason("room for 3"), "room for 3");
    }
}
