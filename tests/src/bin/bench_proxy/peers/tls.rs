//! TLS passed through by its server name: new connections, bulk both ways, and small messages.
//!
//! The client sends a real `ClientHello`, and bytes that nobody encrypts follow the handshake, so the cost is the
//! proxy's.

use super::Part;
use super::config::{NAME, Port};
use super::rig::{Rig, Way};
use crate::Cli;
use anyhow::{Context as _, Result};
use egress_tests::agent::beside;
use serde_json::Value;

pub(super) const CONNECTIONS: Part = Part {
    name: "tls-connections",
    about: "New TLS connections by their server name, 32 at a time: a handshake, a message of 100 bytes and its \
            answer, and the end.",
    peers: &["nginx", "haproxy", "Envoy", "direct"],
    figures: &["CPU µs per connection", "connections/s"],
    once: false,
    run: connections,
};

pub(super) const UP: Part = Part {
    name: "tls-up",
    about: "One TLS connection that sends many bytes. haproxy with `splice-auto`.",
    peers: &["nginx", "haproxy", "Envoy", "direct"],
    figures: &["CPU ms per GB", "GB/s"],
    once: false,
    run: |rig, way, cli| bulk(rig, way, cli, "up"),
};

pub(super) const DOWN: Part = Part {
    name: "tls-down",
    about: "One TLS connection that receives many bytes.",
    run: |rig, way, cli| bulk(rig, way, cli, "down"),
    ..UP
};

pub(super) const MESSAGES: Part = Part {
    name: "tls-messages",
    about: "One TLS connection with messages of 100 bytes, each after the answer to the last.",
    peers: &["nginx", "haproxy", "Envoy", "direct"],
    figures: &["CPU µs per message", "p50, µs"],
    once: false,
    run: messages,
};

/// What a client of this verb reports.
fn run(rig: &Rig, way: &Way, verb: &str, count: u64) -> Result<Value> {
    let (count, to) = (count.to_string(), way.to(Port::Tls).to_string());
    let arguments = [verb, "--host", NAME, "--count", &count, &to].map(Into::into);
    let said = way.run(rig, &beside("passage")?, &arguments)?;
    Ok(serde_json::from_str(&said)?)
}

fn connections(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    let count = cli.requests / 4;
    let before = way.cpu()?;
    let said = run(rig, way, "connections", count.into())?;
    let seconds = said["seconds"].as_f64().context("no time")?;
    let cpu = way.cpu_each(before, 1e6, count.into())?;
    Ok(vec![cpu, Some(f64::from(count) / seconds)])
}

fn bulk(rig: &Rig, way: &Way, cli: &Cli, verb: &str) -> Result<Vec<Option<f64>>> {
    let gb = f64::from(cli.gigabytes);
    let before = way.cpu()?;
    let said = run(rig, way, verb, u64::from(cli.gigabytes) * 1_000_000_000)?;
    let seconds = said["seconds"].as_f64().context("no time")?;
    Ok(vec![way.cpu_each(before, 1e3, gb)?, Some(gb / seconds)])
}

fn messages(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    let before = way.cpu()?;
    let said = run(rig, way, "small", cli.requests.into())?;
    let p50 = said["p50"].as_f64().context("no time")? * 1e6;
    let cpu = way.cpu_each(before, 1e6, cli.requests.into())?;
    Ok(vec![cpu, Some(p50)])
}
