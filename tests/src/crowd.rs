//! A node with many workloads whose agent follows many objects of the Kubernetes API, and how long changes take there.
//!
//! Owns the arrangement. A bench measures with release builds, a test has bounds.

use crate::api::FakeApi;
use crate::cgroup::Cgroup;
use crate::lab::{Lab, LabOptions, host, v4};
use crate::pods::cluster::{NODE, object};
use crate::wait::wait_until;
use crate::watcher::{Watcher, now};
use crate::{pinned, rules};
use anyhow::{Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Namespaces of objects and workloads.
const NAMESPACES: usize = 10;
/// The time between two looks at the kernel's table.
const LOOK: Duration = Duration::from_micros(500);
/// Longer than the agent needs for anything here.
const SOON: Duration = Duration::from_mins(2);

/// The bystander's TLS port as plain TCP, so that a connect shows the kernel's verdict.
pub const BYSTANDER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bystander, namespace: shop}
spec:
  hosts: [bystander.example]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.99}, {address: '2001:db8:2::99'}]
";

/// How much there is.
#[derive(Clone, Debug)]
pub struct Size {
    /// `ServiceEntry`s.
    pub entries: usize,
    /// Workloads of a node.
    pub workloads: usize,
}

/// See the module.
pub struct Crowd {
    // Dropped in this order: the agent before its server.
    /// The node.
    pub lab: Lab,
    /// The server.
    pub api: FakeApi,
    cgroups: Vec<Cgroup>,
}

impl Crowd {
    /// An agent that is ready. `binary` is another one than that which was built with the tests.
    pub fn start(size: &Size, binary: Option<PathBuf>) -> Result<Self> {
        let mut lab = Lab::without_agent(LabOptions {
            files: false,
            binary,
            ..LabOptions::default()
        })?;
        let api = FakeApi::start_in(lab.node())?;
        let kubeconfig = api.kubeconfig()?.display().to_string();
        lab.add_flags(&[
            "--kubernetes-rules",
            "--kubernetes-node",
            NODE,
            "--kubernetes-cluster-ranges=false",
            "--kubeconfig",
            &kubeconfig,
        ]);
        api.install_istio();
        let all: String = (0..size.entries).map(entry).collect();
        api.apply(&all)?;
        api.apply(rules::HTTPBIN)?;
        let mut cgroups = Vec::new();
        for n in 0..size.workloads {
            let uid = format!("{n:08x}-2222-4000-8000-000000000000");
            let namespace = format!("ns-{}", n % NAMESPACES);
            let labels = json!({"app": format!("a{n}")});
            api.put(
                "pods",
                object(&uid, &namespace, &format!("pod-{n}"), &labels),
            )?;
            cgroups.push(lab.workloads().child(&format!("pod{uid}"))?);
        }
        lab.start_agent()?;
        let crowd = Self { lab, api, cgroups };
        let status = crowd.lab.status()?;
        ensure!(
            status["rules"]["objects"] == size.entries + 1,
            "{}",
            status["rules"]
        );
        crowd.known(&crowd.cgroups)?;
        Ok(crowd)
    }

    /// Waits until each of these cgroups has a policy.
    fn known(&self, cgroups: &[Cgroup]) -> Result<()> {
        for cgroup in cgroups {
            let id = cgroup.id()?;
            wait_until("a pod is known", SOON, || {
                pinned::has_owner(self.lab.bpf_dir(), id)
                    .ok()?
                    .then_some(())
            })?;
        }
        Ok(())
    }

    /// Creates and deletes one object again and again. Returns the times until each edit was in force, shortest first.
    pub fn edits(&self, count: usize) -> Result<Vec<Duration>> {
        let watcher = Watcher::start(&self.lab, SocketAddr::new(v4(host::BYSTANDER), 443))?;
        watcher.denied(0)?;
        let mut times = Vec::new();
        for _ in 0..count {
            let before = now();
            self.api.apply(BYSTANDER)?;
            times.push(watcher.connected(before)? - before);
            let before = now();
            self.api.unapply(BYSTANDER)?;
            times.push(watcher.denied(before)? - before);
        }
        watcher.end()?;
        times.sort_unstable();
        Ok(times.into_iter().map(Duration::from_micros).collect())
    }

    /// Creates pods back to back, each with its cgroup and its object. Returns the times from when both were there until
    /// the cgroup's policy, shortest first. The pods are gone afterwards.
    pub fn burst(&self, pods: usize) -> Result<Vec<Duration>> {
        let waiting = Mutex::new(Vec::new());
        let (done, times) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let taken = |of: &Mutex<Vec<_>>| -> Result<_> {
            Ok(std::mem::take(
                &mut *of.lock().map_err(|_| anyhow::anyhow!("poisoned"))?,
            ))
        };
        let bpf_dir = self.lab.bpf_dir();
        let look = || -> Result<()> {
            let (mut open, began) = (Vec::new(), Instant::now());
            loop {
                let over = done.load(Ordering::Acquire);
                open.append(&mut taken(&waiting)?);
                if over && open.is_empty() {
                    return Ok(());
                }
                ensure!(began.elapsed() < SOON, "{} pods have no policy", open.len());
                let mut still = Vec::new();
                for (id, since) in open.drain(..) {
                    if pinned::has_owner(bpf_dir, id)? {
                        let mut times = times.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
                        times.push(Instant::duration_since(&Instant::now(), since));
                    } else {
                        still.push((id, since));
                    }
                }
                open = still;
                // The agent needs the processor too.
                thread::sleep(LOOK);
            }
        };
        let cgroups = thread::scope(|scope| -> Result<Vec<Cgroup>> {
            let looking = scope.spawn(look);
            let create = || -> Result<Vec<Cgroup>> {
                let mut cgroups = Vec::new();
                for n in 0..pods {
                    let uid = format!("{n:08x}-3333-4000-8000-000000000000");
                    let cgroup = self.lab.workloads().child(&format!("pod{uid}"))?;
                    let labels = json!({"app": format!("burst-{n}")});
                    let namespace = format!("ns-{}", n % NAMESPACES);
                    self.api.put(
                        "pods",
                        object(&uid, &namespace, &format!("burst-{n}"), &labels),
                    )?;
                    let since = Instant::now();
                    let mut waiting = waiting.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
                    waiting.push((cgroup.id()?, since));
                    cgroups.push(cgroup);
                }
                Ok(cgroups)
            };
            let created = create();
            done.store(true, Ordering::Release);
            looking
                .join()
                .map_err(|_| anyhow::anyhow!("the looking thread panicked"))??;
            created
        })?;
        let mut times = times
            .into_inner()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        times.sort_unstable();
        for n in 0..pods {
            self.api.delete(
                "pods",
                &format!("ns-{}", n % NAMESPACES),
                &format!("burst-{n}"),
            )?;
        }
        drop(cgroups);
        Ok(times)
    }
}

/// The value that this part of 100 does not exceed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// One of many `ServiceEntry`s.
pub fn entry(n: usize) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: host-{n}, namespace: ns-{}, labels: {{app: a{n}, team: b}}}}
spec:
  hosts: [host-{n}.example]
  ports: [{{number: 443, name: tls, protocol: TLS}}, {{number: 80, name: http, protocol: HTTP}}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{{address: 192.0.2.{}}}]
",
        n % NAMESPACES,
        n % 250 + 1
    )
}
