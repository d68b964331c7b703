//! TLS passed through by its server name, beside haproxy (with splice) and nginx: bulk, small messages, and memory of
//! idle connections. Each proxy has a processor of its own; client and origin share the other one.
//!
//! The clients of the agent are gated and dial the origin's address. Those of the peers are not, and dial the peer.

use anyhow::{Context as _, Result, ensure};
use egress_tests::agent::beside;
use egress_tests::background::Background;
use egress_tests::bench::{cpu_of, pin, resident_of};
use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::wait::wait_until;
use egress_tests::{Lab, LabOptions, client};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(5);
const NAME: &str = "bulk.example";
/// The node's address, at which the peers listen.
const NODE: &str = "203.0.113.1";
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bulk}
spec:
  hosts: [bulk.example]
  ports: [{number: 8443, name: tls, protocol: TLS}]
  resolution: DNS
";

/// A way to the origin.
struct Way {
    name: &'static str,
    /// The process in between.
    pid: Option<u32>,
    /// Where the client connects to.
    to: SocketAddr,
    gated: bool,
}

impl Way {
    fn cpu(&self) -> Result<Duration> {
        self.pid.map_or(Ok(Duration::ZERO), cpu_of)
    }
}

/// What the runs print.
#[derive(Default)]
struct Figures {
    ms_per_gb: Vec<f64>,
    gb_per_s: Vec<f64>,
}

/// Measures, and prints a line for each way. `against`: another agent, in a lab of its own.
pub(crate) fn bench(
    rounds: usize,
    gigabytes: u32,
    idle: u64,
    against: Option<PathBuf>,
) -> Result<()> {
    // Everything that is started from here on, too.
    pin(std::process::id(), 0)?;
    let other = against.map(|binary| ("against", Some(binary)));
    let mut labs = Vec::new();
    for (name, binary) in other.into_iter().chain([("this", None)]) {
        let mut lab = Lab::start_with(LabOptions {
            binary,
            ..LabOptions::default()
        })?;
        lab.dns.set(NAME, &[v4(host::ECHO)], 60);
        lab.rules("bulk.yaml", RULES)?;
        pin(lab.agent()?.pid(), 1)?;
        labs.push((name, lab));
    }
    let origin = SocketAddr::new(v4(host::ECHO), 8443);
    let folder = tempfile::tempdir()?;
    let mut kept = Vec::new();
    let mut ways: Vec<(usize, Way)> = Vec::new();
    for (at, (name, lab)) in labs.iter_mut().enumerate() {
        let outside = Place {
            netns: Some(lab.outside()),
            ..Place::default()
        };
        let mut serve = outside.command(beside("passage")?)?;
        serve.args(["serve", &origin.to_string()]);
        let server = Background::start(serve)?;
        server.wait_line("the origin listens", LIMIT, |line| {
            line["listening"].is_string()
        })?;
        kept.push(server);
        let pid = Some(lab.agent()?.pid());
        ways.push((
            at,
            Way {
                name,
                pid,
                to: origin,
                gated: true,
            },
        ));
    }
    let last = labs.len() - 1;
    let peers = [
        peer(
            &labs[last].1,
            "haproxy",
            haproxy(folder.path(), origin)?,
            9001,
        )?,
        peer(&labs[last].1, "nginx", nginx(folder.path(), origin)?, 9002)?,
    ];
    for (name, child, port) in &peers {
        let to = format!("{NODE}:{port}").parse()?;
        ways.push((
            last,
            Way {
                name,
                pid: Some(child.id()),
                to,
                gated: false,
            },
        ));
    }
    ways.push((
        last,
        Way {
            name: "direct",
            pid: None,
            to: origin,
            gated: false,
        },
    ));
    // First, because later the heap has room that earlier connections left.
    if idle > 0 {
        for (at, way) in &ways {
            memory(&labs[*at].1, way, idle)?;
        }
    }
    for verb in ["up", "down"] {
        bulk(&labs, &ways, verb, rounds, gigabytes)?;
    }
    small(&labs, &ways, rounds)?;
    Ok(())
}

fn bulk(
    labs: &[(&str, Lab)],
    ways: &[(usize, Way)],
    verb: &str,
    rounds: usize,
    gigabytes: u32,
) -> Result<()> {
    let mut all: Vec<Figures> = ways.iter().map(|_| Figures::default()).collect();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let (lab, way) = &ways[at];
            let before = way.cpu()?;
            let said = run(
                &labs[*lab].1,
                way,
                verb,
                u64::from(gigabytes) * 1_000_000_000,
            )?;
            let cpu = way.cpu()?.saturating_sub(before);
            let gb = f64::from(gigabytes);
            all[at].ms_per_gb.push(cpu.as_secs_f64() * 1e3 / gb);
            let seconds = said["seconds"].as_f64().context("no time")?;
            all[at].gb_per_s.push(gb / seconds);
        }
    }
    for ((_, way), mut figures) in ways.iter().zip(all) {
        let cpu = spread(&mut figures.ms_per_gb);
        println!(
            "  TLS {verb:<6} {:<8} CPU ms/GB {cpu}   GB/s {}",
            way.name,
            spread(&mut figures.gb_per_s)
        );
    }
    Ok(())
}

fn small(labs: &[(&str, Lab)], ways: &[(usize, Way)], rounds: usize) -> Result<()> {
    const COUNT: u32 = 20_000;
    let mut all: Vec<[Vec<f64>; 2]> = ways.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let (lab, way) = &ways[at];
            let before = way.cpu()?;
            let said = run(&labs[*lab].1, way, "small", COUNT.into())?;
            let cpu = way.cpu()?.saturating_sub(before);
            all[at][0].push(cpu.as_secs_f64() * 1e6 / f64::from(COUNT));
            all[at][1].push(said["p50"].as_f64().context("no time")? * 1e6);
        }
    }
    for ((_, way), [mut cpu, mut p50]) in ways.iter().zip(all) {
        println!(
            "  small messages {:<8} CPU us {}   p50 us {}",
            way.name,
            spread(&mut cpu),
            spread(&mut p50)
        );
    }
    Ok(())
}

/// Prints the median, the smallest and the largest.
fn spread(all: &mut [f64]) -> String {
    all.sort_by(f64::total_cmp);
    let mut text = String::new();
    if let (Some(min), Some(median), Some(max)) = (all.first(), all.get(all.len() / 2), all.last())
    {
        let _ = write!(text, "{median:7.2} ({min:.2} to {max:.2})");
    }
    text
}

fn place<'a>(lab: &'a Lab, way: &Way) -> Place<'a> {
    let cgroup = lab.client_place().cgroup.filter(|_| way.gated);
    Place {
        cgroup,
        netns: Some(lab.node()),
        resolver: None,
    }
}

fn run(lab: &Lab, way: &Way, verb: &str, count: u64) -> Result<Value> {
    let mut command = place(lab, way).command(beside("passage")?)?;
    command.args([
        verb,
        "--host",
        NAME,
        "--count",
        &count.to_string(),
        &way.to.to_string(),
    ]);
    let ended = client::run(command, LIMIT)?;
    ensure!(ended.exit == 0, "{} {verb}: {}", way.name, ended.stderr);
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// Resident bytes of the proxy for each idle connection, among four workloads.
fn memory(lab: &Lab, way: &Way, count: u64) -> Result<()> {
    let Some(pid) = way.pid else { return Ok(()) };
    let workloads: Vec<Cgroup> = (0..4)
        .map(|n| lab.workloads().child(&format!("hold-{n}")))
        .collect::<Result<_>>()?;
    let hold = |each: u64| -> Result<(Vec<Background>, u64)> {
        let mut clients = Vec::new();
        for workload in &workloads {
            let place = Place {
                cgroup: Some(workload).filter(|_| way.gated),
                ..place(lab, way)
            };
            let mut command = place.command(beside("passage")?)?;
            command.args([
                "hold",
                "--host",
                NAME,
                "--count",
                &each.to_string(),
                &way.to.to_string(),
            ]);
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
    let before = settled(pid)?;
    let (clients, open) = hold(count / 4)?;
    let idle = settled(pid)?;
    println!(
        "  idle {:<8} {open} connections, {} bytes each, RSS {} KiB before and {} KiB with them",
        way.name,
        idle.saturating_sub(before) / open,
        before >> 10,
        idle >> 10
    );
    clients
        .into_iter()
        .try_for_each(|client| client.end().map(drop))
}

/// Resident memory once it no longer falls.
fn settled(pid: u32) -> Result<u64> {
    let mut last = resident_of(pid)?;
    wait_until("its memory settles", LIMIT, || {
        std::thread::sleep(Duration::from_secs(4));
        let now = resident_of(pid).ok()?;
        let settled = now + now / 100 >= last;
        last = now;
        settled.then_some(now)
    })
}

type Peer = (&'static str, Guarded, u16);

fn peer(lab: &Lab, name: &'static str, arguments: Vec<String>, port: u16) -> Result<Peer> {
    let place = Place {
        netns: Some(lab.node()),
        ..Place::default()
    };
    let mut command: Command = place.command(name)?;
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = Guarded::spawn(&mut command).with_context(|| format!("cannot start {name}"))?;
    let to: SocketAddr = format!("{NODE}:{port}").parse()?;
    wait_until("the peer listens", Duration::from_secs(10), || {
        lab.node()
            .run(|| std::net::TcpStream::connect(to).ok())
            .ok()?
    })?;
    pin(child.id(), 1)?;
    Ok((name, child, port))
}

/// haproxy in one process and one thread, with splice where it decides to.
fn haproxy(folder: &Path, origin: SocketAddr) -> Result<Vec<String>> {
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global
  maxconn 9000
  nbthread 1
  maxpipes 256
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  option splice-auto
  option splice-request
  option splice-response
frontend front
  bind {NODE}:9001
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_sni -i {NAME} }}
  tcp-request content reject
  default_backend back
backend back
  server origin {origin}
"
    );
    std::fs::write(&file, text)?;
    Ok(vec!["-db".into(), "-f".into(), file.display().to_string()])
}

/// nginx in one process.
fn nginx(folder: &Path, origin: SocketAddr) -> Result<Vec<String>> {
    let file = folder.join("nginx.conf");
    let folder = folder.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 20000; }}
stream {{
  map $ssl_preread_server_name $to {{ {NAME} {origin}; }}
  server {{
    listen {NODE}:9002;
    ssl_preread on;
    tcp_nodelay on;
    proxy_timeout 1h;
    proxy_pass $to;
  }}
}}
"
    );
    std::fs::write(&file, text)?;
    Ok(vec![
        "-c".into(),
        file.display().to_string(),
        "-e".into(),
        format!("{folder}/nginx.log"),
    ])
}
