//! The soak: clients that make requests of all kinds while the rules change again and again, and an agent whose memory
//! and descriptors are watched.
//!
//! Owns the rules and the arrangement. The program `soak` makes the requests and judges the answers. A bench runs the
//! whole, a test a short form.

use crate::agent::beside;
use crate::background::Background;
use crate::lab::{Lab, LabOptions, v4};
use crate::place::Place;
use crate::wait::wait_until;
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The host of most requests.
pub const HOST: &str = "soak.example";
/// The host that only even versions of the rules list.
pub const SOMETIMES: &str = "sometimes.example";
/// The status of requests that the rules abort.
pub const ABORTED: u16 = 418;

const FIRST: u8 = 60;
const SECOND: u8 = 61;
const MIRROR: u8 = 62;
const PORT: u16 = 80;
const SOON: Duration = Duration::from_secs(20);
/// Samples at the start that do not count: buffers and pools grow to their size.
const WARM: usize = 10;

/// What a soak needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Another agent than the one that was built with the tests.
    pub binary: Option<PathBuf>,
    /// Requests.
    pub requests: u64,
    /// Time between two changes of the rules.
    pub change: Duration,
    /// Time between two rotations of the access log.
    pub rotation: Duration,
    /// Longest time of the whole.
    pub limit: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the clients report: numbers of requests by kind, wrong answers.
    pub clients: Value,
    /// Versions of the rules that were in force.
    pub versions: u64,
    /// Lines of the access log.
    pub lines: u64,
    /// Requests that the origins served: first, second, mirror.
    pub served: [u64; 3],
    /// Resident memory and descriptors of the agent, each second.
    pub samples: Vec<Sample>,
    /// Descriptors before the first client and after the last one.
    pub descriptors: [usize; 2],
    /// Processor time of the agent.
    pub cpu: Duration,
}

/// What the agent uses at a time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Resident bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Outcome {
    /// Requests whose answer no version of the rules that may have been in force gives.
    pub fn wrong(&self) -> u64 {
        self.clients["wrong"].as_u64().unwrap_or(u64::MAX)
    }

    /// Requests without a line of the access log. What the gate cut off may not have been read.
    pub fn unlogged(&self) -> u64 {
        let count = |name: &str| self.clients[name].as_u64().unwrap_or_default();
        let read = count("requests").saturating_sub(count("cut"));
        read.saturating_sub(self.lines)
    }

    /// The median resident memory of a tenth of the samples, of ten, without the first seconds.
    pub fn resident(&self, tenth: usize) -> u64 {
        let warm = self.samples.get(WARM..).unwrap_or_default();
        let each = warm.len() / 10;
        let part = warm.get(tenth * each..(tenth + 1) * each);
        let mut part: Vec<u64> = part
            .unwrap_or_default()
            .iter()
            .map(|s| s.resident)
            .collect();
        part.sort_unstable();
        part.get(part.len() / 2).copied().unwrap_or_default()
    }

    /// The most descriptors at a time.
    pub fn most_descriptors(&self) -> usize {
        let all = self.samples.iter().map(|sample| sample.descriptors);
        all.max().unwrap_or_default()
    }
}

/// Version `version` of the rules.
pub fn rules(version: u64) -> String {
    let odd = version % 2 == 1;
    let flip = if odd {
        "second.example"
    } else {
        "first.example"
    };
    let entry = |name: &str, address: u8| {
        let address = v4(address);
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  addresses: [{address}]
  ports: [{{number: {PORT}, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
---"
        )
    };
    let mut text = [
        entry("soak", FIRST),
        entry("first", FIRST),
        entry("second", SECOND),
        entry("mirror", MIRROR),
    ]
    .concat();
    if !odd {
        text += &entry("sometimes", FIRST);
    }
    let to = |name: &str| format!("route: [{{destination: {{host: {name}}}}}]");
    let (first, second, flip) = (to("first.example"), to("second.example"), to(flip));
    let routes = format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: soak}}
spec:
  hosts: [{HOST}]
  http:
  - match: [{{uri: {{prefix: /b/}}}}]
    {second}
  - match: [{{uri: {{prefix: /by-header/}}, headers: {{x-to: {{exact: second}}}}}}]
    {second}
  - match: [{{uri: {{prefix: /flip/}}}}]
    timeout: 20s
    {flip}
  - match: [{{uri: {{prefix: /old/}}}}]
    rewrite: {{uri: /new/}}
    {first}
  - match: [{{uri: {{prefix: /retry/}}}}]
    retries: {{attempts: 3, retryOn: 5xx}}
    {first}
  - match: [{{uri: {{prefix: /abort/}}}}]
    fault: {{abort: {{httpStatus: {ABORTED}, percentage: {{value: 100}}}}}}
    {first}
  - match: [{{uri: {{prefix: /delay/}}}}]
    fault: {{delay: {{fixedDelay: 5ms, percentage: {{value: 100}}}}}}
    {first}
  - match: [{{uri: {{prefix: /mirror/}}}}]
    mirror: {{host: mirror.example}}
    mirrorPercentage: {{value: 50}}
    {first}
  - match: [{{uri: {{prefix: /changed/}}}}]
    headers:
      request: {{set: {{x-added: v{version}}}}}
      response: {{add: {{x-version: v{version}}}}}
    {first}
  - match: [{{uri: {{prefix: /redirect/}}}}]
    redirect: {{authority: else.example, uri: /there, redirectCode: 307}}
  - match: [{{uri: {{prefix: /direct/}}}}]
    directResponse: {{status: 203, body: {{string: version {version}}}}}
  - timeout: 20s
    {first}
"
    );
    text + &routes
}

/// Runs the whole.
pub fn run(options: &Options) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let (config, log) = (folder.path().join("agent.yaml"), folder.path().join("log"));
    fs::write(&config, format!("accessLogFile: {}\n", log.display()))?;
    let mut lab = Lab::start_with(LabOptions {
        binary: options.binary.clone(),
        ..LabOptions::flags(&["--config", config.to_str().context("a path")?])
    })?;
    for netns in [lab.node(), lab.outside()] {
        netns.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    }
    let origins = origins(&lab)?;
    lab.rules("soak.yaml", &rules(0))?;
    let mut lines = 0;
    let pid = lab.agent()?.pid();
    let unused = descriptors(pid)?;
    let before = lab.agent()?.cpu()?;
    let mut command = lab.command(beside("soak")?.to_str().context("a path")?)?;
    let (count, to) = (
        options.requests.to_string(),
        SocketAddr::new(v4(FIRST), PORT),
    );
    command.args(["client", "--requests", &count, &to.to_string()]);
    let mut clients = Background::start(command)?;
    let (start, mut version) = (Instant::now(), 0);
    let (mut changed, mut looked, mut rotated) = (start, start, start);
    let mut samples = Vec::new();
    let ended = |clients: &Background| {
        let lines = clients.lines();
        lines.into_iter().find(|line| line["requests"].is_number())
    };
    let report = loop {
        if let Some(report) = ended(&clients) {
            break report;
        }
        ensure!(start.elapsed() < options.limit, "the soak takes too long");
        ensure!(!crate::wait::interrupted(), "interrupted");
        if changed.elapsed() >= options.change {
            changed = Instant::now();
            version += 1;
            say(&mut clients, "begin", version)?;
            if ended(&clients).is_none() {
                lab.rules("soak.yaml", &rules(version))?;
                say(&mut clients, "done", version)?;
            }
        }
        if looked.elapsed() >= Duration::from_secs(1) {
            looked = Instant::now();
            samples.push(Sample {
                resident: lab.agent()?.resident()?,
                descriptors: descriptors(pid)?,
            });
        }
        if rotated.elapsed() >= options.rotation {
            rotated = Instant::now();
            lines += rotate(&mut lab, &log)?;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let cpu = lab.agent()?.cpu()?.saturating_sub(before);
    drop(clients);
    // Connections of the clients and idle ones to the origins end with the clients.
    let left = wait_until("descriptors are closed", SOON, || {
        descriptors(pid).ok().filter(|now| *now <= unused)
    });
    let left = left.or_else(|_| descriptors(pid))?;
    // What the gate cut off may not have been read. Lines are written shortly after the requests.
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    let all = count("requests").saturating_sub(count("cut"));
    let written = wait_until("lines of the access log", SOON, || {
        let more = count_lines(&log).ok()?;
        (lines + more >= all).then_some(more)
    });
    lines += written.or_else(|_| count_lines(&log))?;
    let mut served = [0; 3];
    for (served, origin) in served.iter_mut().zip(origins) {
        *served = origin.end()?["served"].as_u64().unwrap_or_default();
    }
    Ok(Outcome {
        clients: report,
        versions: version,
        lines,
        served,
        samples,
        descriptors: [unused, left],
        cpu,
    })
}

fn origins(lab: &Lab) -> Result<Vec<Background>> {
    let outside = Place {
        netns: Some(lab.outside()),
        ..Place::default()
    };
    let mut origins = Vec::new();
    for (name, last) in [("first", FIRST), ("second", SECOND), ("mirror", MIRROR)] {
        let mut serve = outside.command(beside("soak")?)?;
        serve.args(["origin", name, &SocketAddr::new(v4(last), PORT).to_string()]);
        let origin = Background::start(serve)?;
        let is_up = |line: &Value| line["listening"].is_string();
        origin.wait_line("the origin listens", SOON, is_up)?;
        origins.push(origin);
    }
    Ok(origins)
}

/// Tells the clients about a version, and waits until they know.
fn say(clients: &mut Background, word: &str, version: u64) -> Result<()> {
    // Clients that have ended just now do not listen.
    let _ = clients.say(&format!("{word} {version}\n"));
    let knows = |line: &Value| line[word] == version || line["requests"].is_number();
    clients.wait_line("the clients know", SOON, knows).map(drop)
}

/// Moves the access log away, has the agent open a new one, and returns the lines of the former.
fn rotate(lab: &mut Lab, log: &Path) -> Result<u64> {
    let old = log.with_extension("old");
    fs::rename(log, &old)?;
    lab.agent()?.signal(Signal::HUP)?;
    wait_until("a new access log", SOON, || log.exists().then_some(()))?;
    let lines = count_lines(&old)?;
    fs::remove_file(old)?;
    Ok(lines)
}

fn count_lines(file: &Path) -> Result<u64> {
    let lines = std::io::BufReader::new(fs::File::open(file)?).split(b'\n');
    Ok(lines.count() as u64)
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
