//! Fills in the agent's status from its parts and serves it.

use crate::applied::Applied;
use crate::config::{Config, Intercept};
use crate::dns::{DnsUse, NameServers, Server};
use crate::kernel::{self, Kernel};
use crate::kubernetes::{Ranges, Shown, Standings};
use crate::observe::counters::Registry;
use crate::observe::families::Section;
use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::Trouble;
use crate::operate::admin;
use crate::operate::ask::{Ask, Detail, Facts};
use crate::operate::request::{Asked, Explained, Request};
use crate::operate::status::{
    DnsStatus, FollowedStatus, KernelStatus, RulesStatus, Status, WorkloadStatus,
};
use crate::proxy::Shared;
use crate::workloads::Placed;
use egress_ebpf::abi::ABI_VERSION;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Time between two tries to listen.
const SOCKET_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// See the module.
pub struct Reporter {
    /// The facts that do not change while the agent runs.
    fixed: Status,
    /// The folder of the pins, and the enforced roots.
    gate: (PathBuf, Vec<PathBuf>),
    providers: Providers,
    /// The age at which the last canary no longer counts.
    stale: std::time::Duration,
}

/// Whether the agent is ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Time since a canary last passed; `None` if none has.
    pub age: Option<std::time::Duration>,
    /// The last canary passed, and is not too long ago.
    pub closed: bool,
    /// No canary has passed for too long.
    pub overdue: bool,
    /// What is wrong, by part.
    pub parts: BTreeMap<Part, Trouble>,
}

impl Readiness {
    /// Every reason why the agent is not ready.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles: Vec<_> = self.parts.values().map(Trouble::to_string).collect();
        if troubles.is_empty() && self.overdue {
            let age = self.age.unwrap_or_default().as_secs();
            troubles.push(format!("no canary has passed for {age} s"));
        }
        troubles
    }

    /// Whether it is ready.
    pub fn ready(&self) -> bool {
        self.age.is_some() && self.parts.is_empty() && !self.overdue
    }
}

/// The parts that know what changes while the agent runs.
pub struct Providers {
    /// Readiness.
    pub board: Board,
    /// The counters.
    pub registry: Registry,
    /// The problem of the rule files, if there is one.
    pub problem: watch::Receiver<Option<String>>,
    /// The rules, the tables and the workloads.
    pub engine: mpsc::Sender<Ask>,
    /// The rules that are in force.
    pub applied: watch::Receiver<Arc<Applied>>,
    /// The proxy.
    pub proxy: Arc<Shared>,
    /// The DNS server, `None` if queries are not redirected, and the agent's name servers.
    pub dns: (Option<Arc<Server>>, NameServers),
    /// The followers of the Kubernetes API.
    pub kubernetes: Standings,
    /// The cluster's own ranges; `None` without a cluster.
    pub cluster: Option<watch::Receiver<Arc<Ranges>>>,
}

impl Reporter {
    /// For a loaded kernel side.
    pub fn new(config: &Config, kernel: &Kernel, roots: &[PathBuf], providers: Providers) -> Self {
        for gap in kernel.gaps() {
            tracing::warn!(gap, "this kernel leaves a way open");
        }
        Self {
            fixed: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build: kernel::BUILD.to_owned(),
                abi: ABI_VERSION,
                roots: roots.iter().map(|r| r.display().to_string()).collect(),
                adopted: kernel.adopted,
                kernel: KernelStatus {
                    release: rustix::system::uname()
                        .release()
                        .to_string_lossy()
                        .into_owned(),
                    gaps: kernel.gaps().to_vec(),
                    neighbours: Vec::new(),
                },
                ..Status::default()
            },
            gate: (config.bpf_dir.clone(), roots.to_vec()),
            providers,
            stale: config.canary_interval * 3,
        }
    }

    /// Serves the status. Does not return. The gate works without the socket, so an agent that cannot
    /// listen goes on and tries again.
    pub async fn serve(self: Arc<Self>, socket: PathBuf) {
        loop {
            let listener = match admin::listen(&socket) {
                Ok(listener) => listener,
                Err(error) => {
                    let error = format!("{error:#}");
                    let board = &self.providers.board;
                    if !board.troubled(Part::Admin) {
                        tracing::error!(error, "cannot listen on the admin socket; trying again");
                    }
                    board.set(Part::Admin, Some(Trouble::Admin(error)));
                    tokio::time::sleep(SOCKET_AGAIN).await;
                    continue;
                }
            };
            self.providers.board.set(Part::Admin, None);
            let served = admin::serve(listener, |request| self.answer(request));
            tokio::select! {
                () = served => {}
                () = admin::replaced(&socket) => {
                    tracing::warn!(socket = %socket.display(), "the admin socket was removed; making it again");
                }
            }
        }
    }

    /// The answer to a request, as JSON; `None` while the agent stops.
    async fn answer(&self, request: Request) -> Option<Vec<u8>> {
        match request {
            Request::Status => serde_json::to_vec(&self.status(Detail::Full).await?).ok(),
            Request::Rule(name) => {
                let name = name.parse().ok()?;
                let applied = Arc::clone(&self.providers.applied.borrow());
                serde_json::to_vec(&applied.state_of(&name)).ok()
            }
            Request::Explain(asked) => {
                let told = match self.explain(asked).await {
                    Ok(told) => told?,
                    Err(error) => Explained {
                        allowed: false,
                        denied_by: None,
                        reason: None,
                        lines: vec![error],
                        flows: Vec::new(),
                    },
                };
                serde_json::to_vec(&told).ok()
            }
        }
    }

    /// What cannot be read is left out: it does not concern the gate itself.
    fn neighbours(&self) -> Vec<String> {
        let (bpf_dir, roots) = &self.gate;
        kernel::neighbours(bpf_dir, roots)
            .inspect_err(|error| tracing::debug!(error = format!("{error:#}"), "listing programs"))
            .unwrap_or_default()
            .into_iter()
            .collect()
    }

    /// What a question asks of the engine. An error says what is wrong with the question; `None` means that the agent
    /// stops.
    async fn explain(&self, asked: Asked) -> Result<Option<Explained>, String> {
        let (answer, told) = oneshot::channel();
        let workload = asked.workload.clone();
        let ask = match &asked.query {
            Some(query) => Ask::Query {
                question: query.question().map_err(|e| e.to_string())?,
                workload,
                answer,
            },
            None => Ask::Explain {
                question: asked
                    .question()
                    .map_err(|e| format!("{}: {e}", asked.destination))?
                    .into(),
                workload,
                answer,
            },
        };
        if self.providers.engine.send(ask).await.is_err() {
            return Ok(None);
        }
        Ok(told.await.ok().map(Into::into))
    }

    /// The counters.
    pub fn registry(&self) -> &Registry {
        &self.providers.registry
    }

    /// Whether the agent is ready. Asks no other task.
    pub fn readiness(&self) -> Readiness {
        let known = self.providers.board.known();
        let age = known.proven.map(|at| at.elapsed());
        let overdue = age.is_some_and(|age| age > self.stale);
        Readiness {
            age,
            closed: known.closed() && !overdue,
            overdue,
            parts: known.by_part(),
        }
    }

    /// The status. Waits for a turn of the engine's task. `None` while the agent stops.
    pub async fn status(&self, detail: Detail) -> Option<Status> {
        let providers = &self.providers;
        let (answer, facts) = oneshot::channel();
        let ask = Ask::Status(detail, answer);
        providers.engine.send(ask).await.ok()?;
        let Facts { rules, workloads } = facts.await.ok()?;
        let readiness = self.readiness();
        let troubles = readiness.troubles();
        let counters = |section| -> BTreeMap<String, u64> {
            let samples = providers.registry.samples();
            samples
                .filter(|sample| sample.series.section == section)
                .map(|sample| (sample.series.key.to_owned(), sample.value))
                .collect()
        };
        Some(Status {
            running: true,
            closed: readiness.closed,
            ready: readiness.ready(),
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
            troubles,
            canary_age_seconds: readiness.age.map(|age| age.as_secs_f64()),
            rules: RulesStatus {
                problem: providers.problem.borrow().clone().or(rules.problem),
                counters: counters(Section::Rules),
                ..rules
            },
            cluster: providers
                .cluster
                .as_ref()
                .map(|ranges| (**ranges.borrow()).clone()),
            kubernetes: providers
                .kubernetes
                .shown()
                .into_iter()
                .map(followed)
                .collect(),
            workloads: workloads.into_iter().map(workload).collect(),
            dns: dns(providers),
            proxy: counters(Section::Proxy),
            agent: counters(Section::Agent),
            proxy_use: providers.proxy.in_use(),
            counters: counters(Section::Counters),
            kernel: KernelStatus {
                neighbours: self.neighbours(),
                ..self.fixed.kernel.clone()
            },
            ..self.fixed.clone()
        })
    }
}

fn dns(providers: &Providers) -> DnsStatus {
    let (server, names) = &providers.dns;
    let used = server.as_ref().map(|server| server.in_use());
    let DnsUse {
        waiting,
        cache,
        targets,
    } = used.unwrap_or_default();
    DnsStatus {
        intercept: match used {
            Some(_) => Intercept::Auto,
            None => Intercept::Off,
        },
        servers: names.states(),
        waiting,
        cache_bytes: cache,
        alias_targets: targets,
    }
}

fn followed(shown: Shown) -> FollowedStatus {
    let (age, problem) = shown.away.unzip();
    FollowedStatus {
        kind: shown.kind,
        synced: shown.synced,
        objects: shown.objects,
        away_seconds: age.map(|age| age.as_secs_f64()),
        problem,
        last_answer_seconds: shown.heard.map(|age| age.as_secs_f64()),
        failures: shown.failures,
        refused: shown.refused,
    }
}

fn workload(placed: Placed) -> WorkloadStatus {
    let names = placed.pod.unwrap_or_default();
    WorkloadStatus {
        pod_name: (!names.pod.is_empty()).then_some(names.pod),
        container_name: names.container,
        owner: names.owner,
        cgroup: placed.cgroup,
        id: placed.id,
        identity: placed.identity,
        pod: placed.name.pod.map(|pod| pod.uid),
        container: placed.name.container.map(|container| container.id),
        mode: placed.mode,
        policy: placed.policy,
        network_namespaces: placed.namespaces.all,
        proxied: placed.namespaces.served,
    }
}
