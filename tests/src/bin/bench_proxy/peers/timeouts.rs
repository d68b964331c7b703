//! How exactly a route's timeout comes: requests that are never answered, while others keep the proxy busy.

use super::Part;
use super::config::{LATE, LATE_AFTER_MS, NAME, Port};
use super::http;
use super::rig::{Rig, Way};
use crate::Cli;
use anyhow::{Context as _, Result, ensure};
use egress_tests::agent::beside;
use egress_tests::child::Guarded;
use serde_json::Value;
use std::process::Stdio;

const COUNT: u32 = 1000;

pub(super) const PART: Part = Part {
    name: "timeouts",
    about: "1 000 requests whose route has a timeout of 250 ms and whose origin does not answer, 50 at a time, while \
            h2load keeps the proxy busy with 32 connections: how long after the 250 ms the client has the status 504. \
            The client shares a processor with h2load and the origins.",
    peers: &["Envoy"],
    figures: &[
        "earliest, ms",
        "p50, ms",
        "p99, ms",
        "latest, ms",
        "processor time of the proxy, %",
    ],
    once: false,
    run,
};

fn run(rig: &Rig, way: &Way, _: &Cli) -> Result<Vec<Option<f64>>> {
    let lab = rig.lab(way);
    let mut load = way.place(&lab).command("h2load")?;
    load.args(["-D", "600"])
        .args(http::arguments(way, Port::Http1, "/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let load = Guarded::spawn(&mut load).context("cannot start h2load")?;
    let before = way.cpu()?;
    let to = way.to(Port::Http1).to_string();
    let (count, after) = (COUNT.to_string(), LATE_AFTER_MS.to_string());
    let arguments = [
        "--host",
        NAME,
        "--path",
        LATE,
        "--count",
        &count,
        "--threads",
        "50",
        "--after",
        &after,
        &to,
    ];
    let said = way.run(rig, &beside("late")?, &arguments.map(Into::into))?;
    let busy = way.cpu()?.saturating_sub(before);
    drop(load);
    let said: Value = serde_json::from_str(&said)?;
    ensure!(said["failed"] == 0, "{}: {said}", way.name);
    let figure = |name: &str| said[name].as_f64();
    let seconds = figure("seconds").context("no time")?;
    Ok(vec![
        figure("earliest"),
        figure("p50"),
        figure("p99"),
        figure("latest"),
        Some(busy.as_secs_f64() / seconds * 100.0),
    ])
}
