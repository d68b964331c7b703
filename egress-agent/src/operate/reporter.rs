//! Fills in the agent's status from its parts and serves it.

use crate::config::Config;
use crate::kernel::{Kernel, Room};
use crate::observe::counters::Registry;
use crate::observe::families::Section;
use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::Trouble;
use crate::operate::admin::{self, Explained, Request};
use crate::operate::ask::Ask;
use crate::operate::status::{KernelStatus, RulesStatus, Status, TableStatus, WorkloadStatus};
use crate::workloads::Placed;
use egress_core::policy::explain::Question;
use egress_ebpf::abi::ABI_VERSION;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch};

/// Time between two tries to listen.
const SOCKET_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// See the module.
pub struct Reporter {
    /// The facts that do not change while the agent runs.
    fixed: Status,
    board: Board,
    registry: Registry,
    problem: watch::Receiver<Option<String>>,
    engine: mpsc::Sender<Ask>,
    /// The age at which the last canary no longer counts.
    stale: std::time::Duration,
}

impl Reporter {
    /// For a loaded kernel side. `problem` has the problem of the rule files, if there is one.
    pub fn new(
        config: &Config,
        kernel: &Kernel,
        roots: &[PathBuf],
        board: &Board,
        problem: watch::Receiver<Option<String>>,
        engine: mpsc::Sender<Ask>,
        registry: Registry,
    ) -> Self {
        for gap in &kernel.gaps {
            tracing::warn!(gap, "this kernel leaves a way open");
        }
        Self {
            fixed: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                abi: ABI_VERSION,
                roots: roots.iter().map(|r| r.display().to_string()).collect(),
                adopted: kernel.adopted,
                kernel: KernelStatus {
                    release: rustix::system::uname()
                        .release()
                        .to_string_lossy()
                        .into_owned(),
                    gaps: kernel.gaps.clone(),
                },
                ..Status::default()
            },
            board: board.clone(),
            registry,
            problem,
            engine,
            stale: config.canary_interval * 3,
        }
    }

    /// Serves the status. Does not return. The gate works without the socket, so an agent that cannot
    /// listen goes on and tries again.
    pub async fn serve(self, socket: PathBuf) {
        loop {
            let listener = match admin::listen(&socket) {
                Ok(listener) => listener,
                Err(error) => {
                    let error = format!("{error:#}");
                    if !self.board.troubled(Part::Admin) {
                        tracing::error!(error, "cannot listen on the admin socket; trying again");
                    }
                    self.board.set(Part::Admin, Some(Trouble::Admin(error)));
                    tokio::time::sleep(SOCKET_AGAIN).await;
                    continue;
                }
            };
            self.board.set(Part::Admin, None);
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
            Request::Status => serde_json::to_vec(&self.status().await?).ok(),
            Request::Explain(asked) => {
                let told = match asked.question() {
                    Ok(question) => self.explain(question, asked.workload).await?,
                    Err(error) => Explained {
                        allowed: false,
                        denied_by: None,
                        reason: None,
                        lines: vec![format!("{}: {error}", asked.destination)],
                        flows: Vec::new(),
                    },
                };
                serde_json::to_vec(&told).ok()
            }
        }
    }

    async fn explain(&self, question: Question, workload: Vec<CgroupId>) -> Option<Explained> {
        let (answer, told) = oneshot::channel();
        let ask = Ask::Explain {
            question: Box::new(question),
            workload,
            answer,
        };
        self.engine.send(ask).await.ok()?;
        Some(told.await.ok()?.into())
    }

    async fn status(&self) -> Option<Status> {
        let (answer, facts) = oneshot::channel();
        self.engine.send(Ask::Status(answer)).await.ok()?;
        let facts = facts.await.ok()?;
        let (age, closed, mut troubles) = {
            let known = self.board.known();
            let age = known.proven.map(|at| at.elapsed());
            (age, known.closed(), known.troubles())
        };
        let overdue = age.is_some_and(|age| age > self.stale);
        if troubles.is_empty() && overdue {
            let age = age.unwrap_or_default().as_secs();
            troubles.push(format!("no canary has passed for {age} s"));
        }
        let counters = |section| -> BTreeMap<String, u64> {
            let samples = self.registry.samples();
            samples
                .filter(|sample| sample.series.section == section)
                .map(|sample| (sample.series.key.to_owned(), sample.value))
                .collect()
        };
        let noted = facts.noted;
        Some(Status {
            running: true,
            closed: closed && !overdue,
            ready: age.is_some() && troubles.is_empty(),
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
            troubles,
            canary_age_seconds: age.map(|age| age.as_secs_f64()),
            rules: RulesStatus {
                mode: noted.mode,
                objects: noted.objects,
                problem: self.problem.borrow().clone().or(noted.problem),
                problems: noted.problems,
                notes: noted.notes,
                findings: facts.findings,
                generation: facts.generation,
                policies: table(facts.policies),
                addresses: table(facts.addresses),
                networks: table(facts.networks),
                without_policy: noted.without_policy,
                too_deep: facts.too_deep,
                names: facts.names,
                names_without_address: facts.names_without_address,
                failing: facts
                    .failing
                    .into_iter()
                    .map(|(name, why)| (name.to_string(), why.to_string()))
                    .collect(),
                counters: counters(Section::Rules),
            },
            workloads: facts.workloads.into_iter().map(workload).collect(),
            proxy: counters(Section::Proxy),
            counters: counters(Section::Counters),
            ..self.fixed.clone()
        })
    }
}

fn table(Room { used, limit }: Room) -> TableStatus {
    TableStatus { used, limit }
}

fn workload(placed: Placed) -> WorkloadStatus {
    WorkloadStatus {
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
