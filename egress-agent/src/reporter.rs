//! Puts the agent's status together from those who know its parts, and serves it.

use crate::admin;
use crate::config::Config;
use crate::engine::Ask;
use crate::kernel::{Counters, Kernel, counter_names};
use crate::observe::status::{Board, KernelStatus, Status};
use egress_ebpf::abi::ABI_VERSION;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch};

/// See the module.
pub struct Reporter {
    /// What does not change while the agent runs.
    fixed: Status,
    board: Board,
    counters: Counters,
    problem: watch::Receiver<Option<String>>,
    engine: mpsc::Sender<Ask>,
    /// A proof older than this is none.
    stale: std::time::Duration,
}

impl Reporter {
    /// For a kernel side that is loaded; `problem` is what is wrong with the rule files.
    pub fn new(
        config: &Config,
        kernel: &Kernel,
        roots: &[PathBuf],
        board: &Board,
        problem: watch::Receiver<Option<String>>,
        engine: mpsc::Sender<Ask>,
    ) -> anyhow::Result<Self> {
        for gap in &kernel.gaps {
            tracing::warn!(gap, "this kernel leaves a way open");
        }
        Ok(Self {
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
            counters: Counters::open(&kernel.pins)?,
            problem,
            engine,
            stale: config.canary_interval * 3,
        })
    }

    /// Serves it for ever. Without its socket the agent does its work all the same.
    pub async fn serve(self, socket: PathBuf) {
        match admin::listen(&socket) {
            Ok(listener) => admin::serve(listener, || self.status()).await,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "no status socket"),
        }
    }

    async fn status(&self) -> Option<Status> {
        let (answer, state) = oneshot::channel();
        self.engine.send(answer).await.ok()?;
        let (mut rules, workloads) = state.await.ok()?;
        if let Some(problem) = self.problem.borrow().as_ref() {
            rules.problem = Some(problem.clone());
        }
        let (age, mut trouble) = {
            let gate = self.board.gate();
            (gate.proven.map(|at| at.elapsed()), gate.trouble.clone())
        };
        if trouble.is_none() && age.is_some_and(|age| age > self.stale) {
            trouble = Some("the last canary is too long ago".to_owned());
        }
        Some(Status {
            ready: age.is_some() && trouble.is_none(),
            trouble,
            canary_age_seconds: age.map(|age| age.as_secs_f64()),
            rules,
            workloads,
            counters: counter_names()
                .map(|(index, name)| (name.to_owned(), self.counters.get(index)))
                .collect(),
            ..self.fixed.clone()
        })
    }
}
