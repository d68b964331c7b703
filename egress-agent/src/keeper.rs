//! Keeps the gate closed and proves it: looks after the links, sends the canary, collects what
//! vanished cgroups left behind. Readiness follows.

use crate::config::DenyErrno;
use crate::kernel::{self, Counters, Kernel, canary};
use crate::observe::status::Board;
use anyhow::bail;
use egress_core::policy::state::Unlisted;
use egress_ebpf::abi::counter;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the keeper and the rules know of canaries together.
#[derive(Clone, Debug, Default)]
pub struct Canaries(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Their cgroups, whose refusals are no news. The newest are kept.
    cages: BTreeSet<u64>,
    /// What the policy of each enforced root makes of what no rule lists.
    unlisted: Vec<Unlisted>,
}

/// More than are between a refusal and its event.
const CAGES: usize = 256;
/// How long after a canary that showed something else another is sent: the rules may have changed
/// under the first.
const AGAIN: Duration = Duration::from_millis(200);

impl Canaries {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u64) {
        let cages = &mut self.known().cages;
        cages.insert(id);
        if cages.len() > CAGES {
            // Ids grow, so the smallest is the oldest.
            cages.pop_first();
        }
    }

    /// Whether it is or was a canary's.
    pub fn has(&self, id: u64) -> bool {
        self.known().cages.contains(&id)
    }

    /// Says what becomes of what no rule lists, by enforced root.
    pub fn expect(&self, unlisted: Vec<Unlisted>) {
        self.known().unlisted = unlisted;
    }

    fn expected(&self, root: usize) -> Unlisted {
        let known = self.known();
        known.unlisted.get(root).copied().unwrap_or_default()
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
    /// The canaries so far, and what they must show.
    pub canaries: Canaries,
    /// What a refused call fails with.
    pub errno: DenyErrno,
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
        for root in 0..self.roots.len() {
            if let Err(error) = self.send_canary(root).await {
                tracing::debug!(error = format!("{error:#}"), "sending another canary");
                tokio::time::sleep(AGAIN).await;
                self.send_canary(root).await?;
            }
        }
        let mut gate = self.board.gate();
        gate.proven = Some(Instant::now());
        gate.trouble = None;
        Ok(())
    }

    /// Where what no rule lists is refused, its refusal is the proof; else that it was seen and let
    /// pass.
    async fn send_canary(&self, root: usize) -> anyhow::Result<()> {
        let (wanted, counter) = match self.canaries.expected(root) {
            Unlisted::Refused => (canary::Outcome::Refused, counter::DENIED),
            Unlisted::Recorded => (canary::Outcome::Open, counter::WOULD_DENY),
            Unlisted::Passes => (canary::Outcome::Open, counter::ALLOWED),
        };
        let errno = match self.errno.number() {
            0 => libc::EPERM,
            other => other.cast_signed(),
        };
        let (folder, canaries) = (self.roots[root].clone(), self.canaries.clone());
        let shown = folder.display().to_string();
        let before = self.counters.get(counter);
        let check = move || canary::check(&folder, errno, |id| canaries.add(id));
        let outcome = tokio::task::spawn_blocking(check).await??;
        // A host without a route fails a connect too: the counter says that the gate did.
        let noticed = self.counters.get(counter) > before;
        match outcome {
            _ if outcome == wanted && noticed => Ok(()),
            canary::Outcome::Open => bail!("{shown}: an unlisted connect went through unseen"),
            canary::Outcome::Refused => bail!("{shown}: a connect failed, but not by the gate"),
        }
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
