//! HTTP and TLS load on a lab with many names while its agent is replaced, and what the clients noticed.
//!
//! Owns the rules, the clients and their counts. The caller replaces the agent, and judges the counts.

use crate::agent;
use crate::background::Background;
use crate::lab::{Lab, host, v4};
use crate::place::Place;
use crate::probe::{Session, Tally};
use crate::rules::{GOOGLE, HTTPBIN};
use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than an agent needs for one step of a takeover.
pub const SOON: Duration = Duration::from_secs(20);
/// Longer than an agent needs to resolve all names.
const LONG: Duration = Duration::from_mins(2);
/// How long the load runs after the agent was replaced, so that a late effect is noticed.
const AFTER: Duration = Duration::from_millis(300);

/// Lists the hosts of the load and `names` other services, and waits until they are in force and their leases are in
/// the file that the next agent reads.
pub fn list(lab: &Lab, names: usize) -> Result<()> {
    list_by(lab, names, |name, text| lab.write_rules(name, text))
}

/// The same with another way to write rules, of which each has a name.
pub fn list_by(lab: &Lab, names: usize, write: impl Fn(&str, &str) -> Result<()>) -> Result<()> {
    let service = |n: usize| {
        let name = format!("n{n}.example");
        lab.dns
            .set(&name, &[[10, 1, (n >> 8) as u8, n as u8].into()], 300);
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: n{n}}}\n\
             spec: {{hosts: [{name}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
        )
    };
    let many: String = (0..names).map(service).collect();
    write("many.yaml", &many)?;
    write("google.yaml", GOOGLE)?;
    write("httpbin.yaml", HTTPBIN)?;
    wait_until("the rules are in force", LONG, || {
        let all = lab.status().ok()?["rules"]["objects"].as_u64()? >= names as u64 + 2;
        let answers = |url: &str| Some(lab.curl(&[url]).ok()?.code == 200);
        (all && answers("http://httpbin.org/get")? && answers("https://www.google.com/")?)
            .then_some(())
    })?;
    wait_until("the leases are written", LONG, || {
        let file = lab.admin_socket().with_extension("leases");
        let text = fs::read_to_string(file).ok()?;
        (names == 0 || text.contains(&format!("n{}.example ", names - 1))).then_some(())
    })
}

/// The running load: new connections and a kept one with HTTP requests, a TLS connection whose response takes two
/// seconds, and connects to an unlisted host.
#[derive(Debug)]
pub struct Load {
    prober: Background,
    leaks: Session,
    slow: Background,
}

/// What the clients of a [`Load`] noticed.
#[derive(Debug, Clone)]
pub struct Noticed {
    /// The counts of the program `prober`.
    pub http: Value,
    /// The connects to the unlisted host.
    pub unlisted: Tally,
    /// The status of the slow response over TLS; 0 if its connection was cut.
    pub tls: u64,
    /// Connections that arrived at the unlisted host.
    pub leaked: usize,
}

impl Load {
    /// Starts it.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_in(lab, &lab.client_place())
    }

    /// Starts it with clients in this place.
    pub fn start_in(lab: &Lab, place: &Place<'_>) -> Result<Self> {
        let to = SocketAddr::new(v4(host::HTTPBIN), 80).to_string();
        let mut command = place.command(agent::beside("prober")?)?;
        command.args([&to, "httpbin.org"]);
        let prober = Background::start(command)?;
        let unlisted = SocketAddr::new(v4(host::BYSTANDER), 443);
        let leaks = Session::connects(place, unlisted)?;
        let mut command = place.command("curl")?;
        let authority = lab.authority().path().display().to_string();
        let shown = "{\"code\": %{http_code}, \"exit\": %{exitcode}}";
        command.args(["-q", "-sS", "-o", "/dev/null", "-w", shown]);
        command.args(["--cacert", &authority, "https://www.google.com/delay/2"]);
        let before = lab.google.requests().len();
        let slow = Background::start(command)?;
        wait_until("the TLS request arrived", SOON, || {
            (lab.google.requests().len() > before).then_some(())
        })?;
        Ok(Self {
            prober,
            leaks,
            slow,
        })
    }

    /// Ends it, once the slow response is over.
    pub fn end(self, lab: &Lab) -> Result<Noticed> {
        let slow = self.slow.end()?;
        std::thread::sleep(AFTER);
        Ok(Noticed {
            http: self.prober.end()?,
            tls: slow["code"].as_u64().unwrap_or_default(),
            unlisted: self.leaks.tally()?,
            leaked: lab.bystander.connections(),
        })
    }
}

impl Noticed {
    /// A count of the program `prober`, by its JSON pointer.
    pub fn count(&self, pointer: &str) -> Result<u64> {
        let count = self.http.pointer(pointer).and_then(Value::as_u64);
        count.with_context(|| format!("no count at {pointer}: {}", self.http))
    }

    /// The longest time in which every new connection failed.
    pub fn denied_for(&self) -> Result<Duration> {
        self.count("/fresh/deniedMs").map(Duration::from_millis)
    }

    /// Whether no connect to the unlisted host was allowed, of at least fifty.
    pub fn nothing_leaked(&self) -> bool {
        self.leaked == 0 && self.unlisted.all_denied(50)
    }
}
