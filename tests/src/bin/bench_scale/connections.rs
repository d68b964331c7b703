//! Memory of the proxy's connections: while they are idle, and after they are closed.

use crate::table::{Table, mib};
use crate::{Options, Part};
use anyhow::Result;
use egress_tests::idle::{Speaks, measure};
use egress_tests::{Lab, LabOptions};
use std::path::Path;

/// See the module.
pub const PART: Part = Part {
    name: "connections",
    about: "Connections of four workloads, one request each, then nothing, as many as there are \
            descriptors for. RSS: resident memory before the first, while all are idle, and after the \
            last is closed; each: what one idle connection takes.",
    columns: &["connections", "RSS before", "RSS idle", "each", "RSS after"],
    run,
};

fn run(options: &Options, binary: &Path, table: &mut Table) -> Result<()> {
    for (what, speaks) in [
        ("HTTP, kept alive", Speaks::Http),
        ("TLS, passed through", Speaks::Tls),
    ] {
        let mut lab = Lab::start_with(LabOptions {
            binary: Some(binary.to_owned()),
            ..LabOptions::default()
        })?;
        let found = measure(&mut lab, speaks, options.connections)?;
        table.row(
            what,
            vec![
                found.connections.to_string(),
                mib(found.before),
                mib(found.idle),
                format!("{} bytes", found.of_each()),
                mib(found.closed),
            ],
        );
    }
    Ok(())
}
