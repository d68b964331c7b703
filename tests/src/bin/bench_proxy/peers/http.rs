//! HTTP requests over kept connections, made by h2load.

use super::Part;
use super::config::{NAME, Port};
use super::rig::{Rig, Way};
use crate::Cli;
use anyhow::{Context as _, Result, ensure};
use egress_tests::bench::{float, resident_of};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const CONNECTIONS: &str = "32";
/// Requests at a time on each HTTP/2 connection.
const STREAMS: &str = "10";

pub(super) const HTTP1: Part = Part {
    name: "http1",
    about: "HTTP/1.1 requests on 32 kept connections, with all of Istio's headers in the agent and in Envoy, and a \
            response of 128 bytes. RSS: the largest while the requests run.",
    peers: &["nginx", "haproxy", "Envoy", "direct"],
    figures: &["CPU µs per request", "requests/s", "RSS, MB"],
    once: false,
    run: http1,
};

pub(super) const HTTP2: Part = Part {
    name: "http2",
    about: "The same over HTTP/2, with prior knowledge, on both sides: 32 connections with 10 requests at a time.",
    peers: &["Envoy", "direct"],
    figures: &["CPU µs per request", "requests/s", "RSS, MB"],
    once: false,
    run: http2,
};

pub(super) const ACCESS_LOG: Part = Part {
    name: "access-log",
    about: "HTTP/1.1 requests as above, with Istio's access log off and on, written to a file.",
    peers: &["logs", "Envoy", "Envoy, text log", "Envoy, JSON log"],
    figures: &["CPU µs per request", "lines per request"],
    once: false,
    run: access_log,
};

fn http1(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    requests(rig, way, Port::Http1, cli.requests)
}

fn http2(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    requests(rig, way, Port::Http2, cli.requests)
}

fn access_log(rig: &Rig, way: &Way, cli: &Cli) -> Result<Vec<Option<f64>>> {
    rig.set_log(way)?;
    let cpu = requests(rig, way, Port::Http1, cli.requests)?.remove(0);
    // Envoy and the agent write shortly after the request.
    thread::sleep(Duration::from_millis(1500));
    let lines = rig.log_lines(way)?;
    Ok(vec![
        cpu,
        Some(float(lines as u64) / f64::from(cli.requests)),
    ])
}

/// The arguments of h2load for requests at a way's port, without their number.
pub(super) fn arguments(way: &Way, port: Port, path: &str) -> Vec<String> {
    let mut arguments: Vec<String> = ["-t", "1", "-c", CONNECTIONS].map(Into::into).into();
    match port {
        Port::Http2 => arguments.extend(["-m", STREAMS].map(Into::into)),
        Port::Http1 | Port::Tls | Port::Silent => arguments.push("--h1".into()),
    }
    arguments.push(format!("--connect-to={}", way.to(port)));
    arguments.push(format!("http://{NAME}:{}{path}", port.number()));
    arguments
}

fn requests(rig: &Rig, way: &Way, port: Port, count: u32) -> Result<Vec<Option<f64>>> {
    let mut arguments = arguments(way, port, "/some/path?of=a-request");
    arguments.splice(0..0, ["-n".into(), count.to_string()]);
    let before = way.cpu()?;
    let (said, resident) = watching(way, || way.run(rig, Path::new("h2load"), &arguments))?;
    let cpu = way.cpu_each(before, 1e6, count.into())?;
    let all_succeeded = format!("{count} succeeded, 0 failed");
    ensure!(said.contains(&all_succeeded), "{}: {said}", way.name);
    Ok(vec![cpu, Some(rate(&said)?), resident])
}

/// `finished in 2.35s, 42583.21 req/s, 5.53MB/s`.
fn rate(said: &str) -> Result<f64> {
    let end = said.split_once(" req/s").context("no rate")?.0;
    let number = end.rsplit(' ').next().context("no rate")?;
    Ok(number.parse()?)
}

/// The largest resident memory of a proxy, in megabytes, while something runs.
fn watching<T>(way: &Way, run: impl FnOnce() -> Result<T>) -> Result<(T, Option<f64>)> {
    let Some(pid) = way.pid else {
        return Ok((run()?, None));
    };
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(resident_of(pid).unwrap_or_default());
                thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let result = run();
        ended.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap_or_default();
        Ok((result?, Some(float(most) / 1e6)))
    })
}
