//! Keeps the gate closed and proves it: looks after the links, sends the canary, collects what
//! vanished cgroups left behind. Readiness follows.

use crate::config::{Config, Mode, TrafficPolicy};
use crate::kernel::{self, Counters, Kernel, canary};
use crate::observe::status::Board;
use anyhow::bail;
use egress_ebpf::abi::counter;
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

/// What proves that the programs judge: a canary's outcome, and the counter that rises with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    outcome: canary::Outcome,
    errno: i32,
    counter: u32,
}

impl Proof {
    /// Where what no rule lists is refused, its refusal; else that it was seen and let pass.
    pub fn of(config: &Config) -> Self {
        use canary::Outcome::{Open, Refused};
        let (outcome, counter) = match (config.outbound_traffic_policy, config.mode) {
            (TrafficPolicy::AllowAny, _) => (Open, counter::ALLOWED),
            (TrafficPolicy::RegistryOnly, Mode::Audit) => (Open, counter::WOULD_DENY),
            (TrafficPolicy::RegistryOnly, Mode::Enforce) => (Refused, counter::DENIED),
        };
        let errno = match config.deny_errno.number() {
            0 => libc::EPERM,
            other => other.cast_signed(),
        };
        Self {
            outcome,
            errno,
            counter,
        }
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
    /// What they must show.
    pub proof: Proof,
    /// Where it shows.
    pub counters: Counters,
}

impl Keeper {
    /// Closes the gate. What was newly attached is detached again on an error.
    pub fn close(&mut self) -> anyhow::Result<()> {
        kernel::attach(&mut self.kernel, &self.own, &self.roots)
    }

    /// Has the kernel judge a connect of the agent's own below every enforced root.
    pub async fn prove(&self) -> anyhow::Result<()> {
        let proof = self.proof;
        for root in self.roots.clone() {
            let cages = self.cages.clone();
            let before = self.counters.get(proof.counter);
            let shown = root.display().to_string();
            let check = move || canary::check(&root, proof.errno, |id| cages.add(id));
            let outcome = tokio::task::spawn_blocking(check).await??;
            // A host without a route fails a connect too: the counter says that the gate did.
            let counted = self.counters.get(proof.counter) > before;
            match outcome {
                _ if outcome == proof.outcome && counted => {}
                canary::Outcome::Open => bail!("{shown}: an unlisted connect went through unseen"),
                canary::Outcome::Refused => bail!("{shown}: a connect failed, but not by the gate"),
            }
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
        kernel::forget_vanished(&mut self.kernel)?;
        let missing = kernel::missing(&self.kernel, &self.own, &self.roots)?;
        if missing.is_empty() {
            return Ok(());
        }
        let few: Vec<&str> = missing.iter().take(3).map(|m| m.what.as_str()).collect();
        let what = few.join(", ");
        if missing.iter().any(|m| m.open) {
            tracing::error!(
                what,
                "the gate was open: a link was removed from outside; attaching again"
            );
        } else {
            tracing::warn!(
                what,
                "a pin was removed from outside; the agent held the link, and the gate stayed closed"
            );
        }
        self.close()?;
        tracing::warn!(what, "attached again");
        Ok(())
    }
}
