//! DNS queries of clients, in each way in which resolvers send them: `clients/dns.py`.

use crate::client::{self, Finished};
use crate::place::Place;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The response code NOERROR (RFC 1035 section 4.1.1).
pub const NO_ERROR: u64 = 0;
/// The response code SERVFAIL.
pub const SERVER_FAILURE: u64 = 2;
/// The response code NXDOMAIN.
pub const NAME_ERROR: u64 = 3;
/// The response code REFUSED.
pub const REFUSED: u64 = 5;

/// Longer than any client takes.
const LIMIT: Duration = Duration::from_mins(3);

/// A client of the folder `clients`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a Python client.
pub fn python(place: &Place<'_>, name: &str, arguments: &[&str]) -> Result<Finished> {
    let mut command = place.command("python3")?;
    command.arg(script(name)).args(arguments);
    client::run(command, LIMIT)
}

/// The lines of JSON that a client printed.
pub fn lines(ended: &Finished) -> Result<Vec<Value>> {
    let lines = ended.stdout.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
    ensure!(!lines.is_empty(), "{}", ended.stderr);
    Ok(lines)
}

/// The answers that one client in `place` gets, one query after another. `names` are separated by commas.
pub fn ask(place: &Place<'_>, way: &str, names: &str, servers: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&[way, names], servers].concat();
    lines(&python(place, "dns.py", &arguments)?)
}

/// The addresses of an answer, in its order.
pub fn addresses(answer: &Value) -> Result<Vec<IpAddr>> {
    let list = answer["addresses"].as_array();
    let list = list.with_context(|| format!("no addresses: {answer}"))?;
    let address = |ip: &Value| Ok(ip.as_str().context("no text")?.parse()?);
    list.iter().map(address).collect()
}
