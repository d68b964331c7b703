//! The load under which a test kills, stops or replaces the agent: it tries listed and unlisted destinations without
//! pauses.
//!
//! Owns the rules, the load's targets and their expected results. The test acts on the agent.

use crate::lab::{Lab, host, v4, v6};
use crate::load::{Counts, Load};
use crate::place::Place;
use crate::rules::{ECHO, HTTPBIN};
use anyhow::Result;
use std::time::Duration;

/// The echo's port by UDP too.
const ECHO_UDP: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo-udp}
spec:
  hosts: [echo-udp.example]
  ports: [{number: 7, name: udp, protocol: UDP}]
  resolution: DNS
";

/// Each kind must have more tries than this, so that the counts mean something.
const AT_LEAST: u64 = 100;

/// What the load needs: the echo by TCP and UDP, and `httpbin.org` through the proxy.
pub const LISTED: [(&str, &str); 3] = [
    ("echo.yaml", ECHO),
    ("echo-udp.yaml", ECHO_UDP),
    ("httpbin.yaml", HTTPBIN),
];

/// Lists the load's targets, and starts the load.
///
/// # Errors
/// The rules are not applied, or the load does not start.
pub fn start(lab: &Lab) -> Result<Load> {
    prepare(lab)?;
    for (name, text) in LISTED {
        lab.rules(name, text)?;
    }
    load(lab)
}

/// Makes the lab ready for the load. Comes before its rules.
pub fn prepare(lab: &Lab) -> Result<()> {
    // One connect each millisecond uses up all ports during their TIME_WAIT.
    for (key, value) in [
        ("tcp_tw_reuse", "1"),
        ("ip_local_port_range", "16000 65000"),
    ] {
        lab.node().sysctl(&format!("ipv4/{key}"), value)?;
    }
    lab.dns
        .set("echo-udp.example", &[v4(host::ECHO), v6(host::ECHO)], 30);
    Ok(())
}

/// Starts the load, whose targets are listed.
pub fn load(lab: &Lab) -> Result<Load> {
    load_at(&lab.client_place(), &[])
}

/// The same in a place, with this pause between two tries of each kind: for a long time, or beside other load.
pub fn slow_load(place: &Place<'_>, pause: Duration) -> Result<Load> {
    load_at(place, &["--pause", &pause.as_micros().to_string()])
}

fn load_at(place: &Place<'_>, flags: &[&str]) -> Result<Load> {
    let mut arguments = flags.to_vec();
    let targets = [
        ("--direct", host::ECHO, 7),
        ("--proxied", host::HTTPBIN, 80),
        ("--unlisted", host::BYSTANDER, 80),
    ]
    .map(|(flag, last, port)| (flag, format!("{}:{port}", v4(last))));
    arguments.insert(0, "mix");
    for (flag, target) in &targets {
        arguments.extend([flag, target.as_str()]);
    }
    Load::start(place, &arguments)
}

/// Panics if a direct flow was denied or an unlisted flow was allowed.
pub fn assert_held(lab: &Lab, counts: &Counts) {
    for kind in ["standing", "direct-tcp", "direct-udp"] {
        assert_only(counts, kind, &["ok"], "a false deny");
        assert!(count(counts, kind, "ok") > AT_LEAST, "{counts:?}");
    }
    for kind in ["unlisted-tcp", "unlisted-udp"] {
        assert_only(counts, kind, &["eperm"], "a leak");
        assert!(count(counts, kind, "eperm") > AT_LEAST, "{counts:?}");
    }
    assert_eq!(lab.bystander.connections(), 0, "a leak, seen from outside");
    // A redirected flow without its proxy is denied or reset. It never goes straight.
    let without_proxy = ["ok", "econnrefused", "eperm", "errno104"];
    assert_only(counts, "proxied", &without_proxy, "a redirected flow");
    assert!(count(counts, "proxied", "ok") > 0, "{counts:?}");
}

fn count(counts: &Counts, kind: &str, result: &str) -> u64 {
    let name = format!("{kind}.{result}");
    counts.get(&name).copied().unwrap_or_default()
}

/// Panics if a try of this kind had a result that is not in `results`.
fn assert_only(counts: &Counts, kind: &str, results: &[&str], what: &str) {
    let others: Vec<_> = counts
        .iter()
        .filter(|(name, _)| name.split('.').next() == Some(kind))
        .filter(|(name, _)| !results.iter().any(|r| **name == format!("{kind}.{r}")))
        .collect();
    assert!(others.is_empty(), "{what}: {others:?} of {counts:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_not_among_those_given_is_found() {
        let counts = Counts::from([("a.ok".to_owned(), 5), ("a.eperm".to_owned(), 1)]);
        assert_only(&counts, "a", &["ok", "eperm"], "both");
        let found = std::panic::catch_unwind(|| assert_only(&counts, "a", &["ok"], "one"));
        assert!(found.is_err());
        assert_eq!(count(&counts, "a", "ok"), 5);
        assert_eq!(count(&counts, "b", "ok"), 0);
    }
}
