//! Memory of idle connections: TLS passed through, each after one small message.

use super::Part;
use super::config::{NAME, Port};
use super::rig::{LIMIT, Rig, Way};
use crate::Cli;
use anyhow::Result;
use egress_tests::agent::beside;
use egress_tests::background::Background;
use egress_tests::bench::{float, settled};
use egress_tests::cgroup::Cgroup;
use egress_tests::place::Place;

pub(super) const PART: Part = Part {
    name: "idle",
    about: "Idle TLS connections that are passed through, of four workloads. A connection takes two descriptors, so the \
            process's limit of descriptors bounds their number.",
    peers: &["nginx", "haproxy", "Envoy"],
    figures: &["connections", "bytes of RSS for each"],
    once: true,
    run,
};

fn run(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    let Some(pid) = way.pid.filter(|_| cli.idle >= 4) else {
        return Ok(vec![None, None]);
    };
    let lab = rig.lab(way);
    let workloads: Vec<Cgroup> = (0..4)
        .map(|n| lab.workloads().child(&format!("hold-{n}")))
        .collect::<Result<_>>()?;
    let hold = |each: u64| -> Result<(Vec<Background>, u64)> {
        let mut clients = Vec::new();
        for workload in &workloads {
            let place = Place {
                cgroup: Some(workload).filter(|_| way.is_gated()),
                ..way.place(&lab)
            };
            let mut command = place.command(beside("passage")?)?;
            let (count, to) = (each.to_string(), way.to(Port::Tls).to_string());
            command.args(["hold", "--host", NAME, "--count", &count, &to]);
            clients.push(Background::start(command)?);
        }
        let mut open = 0;
        for client in &clients {
            let line =
                client.wait_line("its connections", LIMIT, |line| line["open"].is_number())?;
            open += line["open"].as_u64().unwrap_or_default();
        }
        Ok((clients, open))
    };
    for client in hold(1)?.0 {
        client.end()?;
    }
    let before = settled(pid, LIMIT)?;
    let (clients, open) = hold(cli.idle / 4)?;
    let each = settled(pid, LIMIT)?.saturating_sub(before) / open;
    clients
        .into_iter()
        .try_for_each(|client| client.end().map(drop))?;
    Ok(vec![Some(float(open)), Some(float(each))])
}
