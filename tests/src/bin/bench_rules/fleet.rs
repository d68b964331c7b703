//! A lab with many services and policies, and an agent that has applied them.

use super::LONG;
use anyhow::{Context as _, Result};
use clap::Args;
use egress_tests::cgroup::Cgroup;
use egress_tests::place::Place;
use egress_tests::readiness::number;
use egress_tests::{Lab, LabOptions, pinned, wait_until};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Services in one file.
const IN_A_FILE: usize = 100;

/// How many rules.
#[derive(Args, Clone, Copy, Debug)]
pub struct Size {
    /// Services of names that every policy sees, each with a route.
    #[arg(long, default_value_t = 10_000)]
    pub services: usize,
    /// Namespaces with a service of their own, each with a workload.
    #[arg(long, default_value_t = 50)]
    pub policies: usize,
}

/// See the module.
pub struct Fleet {
    /// The lab; its agent runs.
    pub lab: Lab,
    /// Its size.
    pub size: Size,
    workloads: Vec<Cgroup>,
}

impl Fleet {
    /// Starts the agent, and waits until it has applied everything.
    pub fn start(size: Size) -> Result<Self> {
        let entries = (0..size.policies).map(|n| format!("{{cgroup: ns{n}-*, namespace: ns-{n}}}"));
        let lab = Lab::start_with(LabOptions {
            ttl: 86_400,
            agent: entries
                .flat_map(|entry| ["--workload".to_owned(), entry])
                .collect(),
            ..LabOptions::default()
        })?;
        for n in 0..size.services {
            lab.dns.set(&host(n), &[address(n)], 86_400);
        }
        let workloads = (0..size.policies)
            .map(|n| lab.workloads().child(&format!("ns{n}-w")))
            .collect::<Result<_>>()?;
        let begin = Instant::now();
        for (name, text) in files(size) {
            lab.write_rules(&name, &text)?;
        }
        let mut fleet = Self {
            lab,
            size,
            workloads,
        };
        let (objects, owners) = (2 * size.services + size.policies, size.policies);
        wait_until("the agent has everything", LONG, || {
            thread::sleep(Duration::from_millis(500));
            let status = fleet.lab.status().ok()?;
            let known = number(&status, "/rules/objects").ok()? == objects as u64;
            let addresses = number(&status, "/rules/addresses/used").ok()? as usize;
            let placed = pinned::owners(fleet.lab.bpf_dir()).ok()? == owners;
            // Each name has two ports in each policy, including the root's.
            (known && placed && addresses >= 2 * size.services * owners).then_some(())
        })?;
        println!("everything in force after {:.1?}", begin.elapsed());
        fleet.settled()?;
        Ok(fleet)
    }

    /// Where a workload of a namespace runs.
    pub fn workload(&self, n: usize) -> Place<'_> {
        Place {
            cgroup: self.workloads.get(n),
            ..self.lab.client_place()
        }
    }

    /// Processor time that the agent used so far.
    pub fn cpu(&mut self) -> Result<Duration> {
        self.lab.agent()?.cpu()
    }

    /// The same, once the agent has nothing to do.
    pub fn settled(&mut self) -> Result<Duration> {
        let mut last = self.cpu()?;
        wait_until("the agent rests", LONG, || {
            thread::sleep(Duration::from_millis(300));
            let spent = self.cpu().ok()?;
            let rests = spent.saturating_sub(last) <= Duration::from_millis(10);
            last = spent;
            rests.then_some(spent)
        })
        .context("an agent at rest")
    }

    /// Denials that the kernel reported one by one.
    pub fn events(&self) -> Result<u64> {
        number(&self.lab.status()?, "/rules/events")
    }

    /// Log lines of denials.
    pub fn denials_logged(&mut self) -> Result<usize> {
        let lines = self.lab.agent()?.log_since(0);
        let denied = |line: &&String| line.contains(" denied ") || line.contains("\"denied\"");
        Ok(lines.iter().filter(denied).count())
    }

    /// Changes one object, and waits until the agent reports it.
    pub fn change(&self, n: usize) -> Result<Duration> {
        let (name, text) = changed(n);
        let begin = Instant::now();
        self.lab.rules(&name, &text)?;
        Ok(begin.elapsed())
    }
}

/// Name of a service.
pub fn host(n: usize) -> String {
    format!("h{n}.example.com")
}

/// Its address. The agent resolves it, but no client dials it.
pub fn address(n: usize) -> IpAddr {
    IpAddr::from([203, 0, (n >> 8) as u8, n as u8])
}

/// The files of all rules.
pub fn files(size: Size) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for first in (0..size.services).step_by(IN_A_FILE) {
        let last = size.services.min(first + IN_A_FILE);
        // The first service has a file of its own, which changes.
        let text = (first.max(1)..last).map(|n| service(n, 3)).collect();
        files.push((format!("all-{first}.yaml"), text));
    }
    files.push(changed(1));
    let mut own = String::new();
    for n in 0..size.policies {
        // Writing to a string does not fail.
        let _ = write!(
            own,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: own, namespace: ns-{n}}}\nspec:\n  hosts: [own-{n}.example]\n  \
             exportTo: ['.']\n  resolution: STATIC\n  \
             ports: [{{number: 5432, name: tcp, protocol: TCP}}]\n  \
             endpoints: [{{address: 198.51.100.{}}}]\n",
            100 + n % 100
        );
    }
    files.push(("own.yaml".to_owned(), own));
    files
}

/// The file with the object that changes: a route's timeout, and a port that comes and goes.
pub fn changed(n: usize) -> (String, String) {
    ("one.yaml".to_owned(), service(0, 3 + n % 2))
}

/// A service of a name with a route.
fn service(n: usize, timeout: usize) -> String {
    let host = host(n);
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{n}, namespace: all}}\n\
         spec:\n  hosts: [{host}]\n  resolution: DNS\n  ports: [{{number: 443, name: t, protocol: TLS}}, \
         {{number: 80, name: h, protocol: HTTP}}]\n---\napiVersion: networking.istio.io/v1\n\
         kind: VirtualService\nmetadata: {{name: v{n}, namespace: all}}\nspec:\n  hosts: [{host}]\n  \
         http: [{{timeout: {timeout}s, route: [{{destination: {{host: {host}}}}}]}}]\n"
    )
}
