//! Keeps the gate closed and proves it: looks after the links, sends the canary, collects what
//! vanished cgroups left behind. Readiness follows.

use crate::kernel::{self, Kernel, canary};
use crate::observe::status::Board;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Cgroups of canaries, whose refusals are no news. The newest are kept.
#[derive(Clone, Debug, Default)]
pub struct Cages(Arc<Mutex<BTreeSet<u64>>>);

/// More than are between a refusal and its event.
const CAGES: usize = 256;

impl Cages {
    fn add(&self, id: u64) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id);
        if ids.len() > CAGES {
            // Ids grow, so the smallest is the oldest.
            ids.pop_first();
        }
    }

    /// Whether it is or was a canary's.
    pub fn has(&self, id: u64) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }
}

/// See the module.
pub struct Keeper {
    /// Programs and pins.
    pub kernel: Kernel,
    /// The agent's own cgroup.
    pub own: PathBuf,
    /// Enforced roots.
    pub roots: Vec<PathBuf>,
    /// Where it is noted.
    pub board: Board,
    /// The canaries so far.
    pub cages: Cages,
}

impl Keeper {
    /// Closes the gate. What was newly attached is detached again on an error.
    pub fn close(&mut self) -> anyhow::Result<()> {
        kernel::attach(&mut self.kernel, &self.own, &self.roots)
    }

    /// Has the kernel refuse a connect of the agent's own below every enforced root.
    pub async fn prove(&self) -> anyhow::Result<()> {
        for root in self.roots.clone() {
            let cages = self.cages.clone();
            tokio::task::spawn_blocking(move || canary::check(&root, |id| cages.add(id))).await??;
        }
        let mut gate = self.board.gate();
        gate.proven = Some(Instant::now());
        gate.trouble = None;
        Ok(())
    }

    /// Looks after the gate for ever.
    pub async fn keep(mut self, interval: Duration) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = match self.mend() {
                Ok(()) => self.prove().await,
                Err(e) => Err(e),
            };
            if let Err(error) = result {
                let why = format!("{error:#}");
                tracing::error!(error = why, "not ready: the gate is not proven closed");
                self.board.gate().trouble = Some(why);
            }
        }
    }

    /// Attaches again where a link, a pin or the cgroup itself was removed.
    fn mend(&mut self) -> anyhow::Result<()> {
        let mut open = kernel::missing(&self.kernel, &self.own, &self.roots)?;
        if open.is_empty() {
            return kernel::forget_vanished(&self.kernel.pins);
        }
        open.truncate(3);
        let what = open.join(", ");
        tracing::error!(
            what,
            "the gate was open: a link was removed from outside; attaching again"
        );
        self.close()?;
        tracing::warn!(what, "attached again");
        Ok(())
    }
}
