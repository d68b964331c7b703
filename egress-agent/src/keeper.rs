//! Keeps the gate closed and proves it: restores removed links, deletes the entries of removed cgroups,
//! and sends the canaries. Their outcome decides readiness.

use crate::config::{Config, DenyErrno};
use crate::gate;
use crate::gate::placement;
use crate::gate::roots::Roots;
use crate::gate::started::Started;
use crate::kernel::canary::{self, Redirected};
use crate::kernel::{self, Counters, Kernel};
use crate::observe::counters::Counters as Counted;
use crate::observe::families::Own;
use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::{NoRedirect, Trouble};
use crate::privilege;
use anyhow::bail;
use egress_core::policy::state::Unlisted;
use egress_ebpf::abi::counter;
use egress_ebpf::ids::CgroupId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the engine tells the keeper, and the cgroups of the keeper's canaries.
#[derive(Clone, Debug, Default)]
pub struct Canaries(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The newest canaries' cgroups. Their denials are not logged.
    cages: BTreeSet<CgroupId>,
    /// The verdict of each enforced root's policy on unlisted destinations.
    unlisted: Vec<Unlisted>,
    /// The errno of a denied call.
    errno: DenyErrno,
    /// Whether nothing is denied to any workload.
    audits: bool,
}

/// Cgroups of canaries that are remembered: more than can start between a denial and its event.
const CAGES: usize = 256;
/// Delay to a second canary after one with an unexpected outcome: the rules may have changed during
/// the first.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl Canaries {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: CgroupId) {
        let cages = &mut self.known().cages;
        cages.insert(id);
        if cages.len() > CAGES {
            // Ids grow, so the smallest is the oldest.
            cages.pop_first();
        }
    }

    /// Whether a cgroup is or recently was a canary's.
    pub fn has(&self, id: CgroupId) -> bool {
        self.known().cages.contains(&id)
    }

    /// Sets the verdict on unlisted destinations, by enforced root.
    pub fn expect(&self, unlisted: Vec<Unlisted>) {
        self.known().unlisted = unlisted;
    }

    /// Takes what a config says: the errno of a denied call, and whether nothing is denied.
    pub fn expect_config(&self, config: &Config) {
        let mut known = self.known();
        known.errno = config.deny_errno;
        known.audits = config.audits_all();
    }

    fn expected(&self, root: usize) -> Unlisted {
        let known = self.known();
        known.unlisted.get(root).copied().unwrap_or_default()
    }
}

/// See the module.
pub struct Keeper {
    /// Programs and pins.
    pub kernel: Arc<Mutex<Kernel>>,
    /// The agent's own cgroup.
    pub own: PathBuf,
    /// Enforced roots.
    pub roots: Roots,
    /// Where this process was started.
    pub started: Started,
    /// Readiness.
    pub board: Board,
    /// The canaries so far, and the outcome that they must have.
    pub canaries: Canaries,
    /// What the proxy answers a canary that was redirected to it.
    pub proof: Arc<str>,
    /// The kernel's counters: they show that the gate judged the canary.
    pub counters: Arc<Counters>,
    /// Where the outcomes of canaries are counted.
    pub counted: Counted,
}

impl Keeper {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a canary below every existing enforced root, and a second one if the first fails.
    pub async fn prove(&self) -> anyhow::Result<()> {
        for root in 0..self.roots.paths.len() {
            if !self.roots.paths[root].exists() {
                continue;
            }
            if let Err(error) = self.send_canary(root).await {
                tracing::debug!(error = format!("{error:#}"), "sending another canary");
                tokio::time::sleep(RETRY_DELAY).await;
                if self.roots.paths[root].exists() {
                    self.send_canary(root).await?;
                }
            }
        }
        self.board.known().proven = Some(Instant::now());
        Ok(())
    }

    /// Connects to an unlisted destination below an enforced root, and fails unless the gate does with
    /// the connect what the root's policy says: deny it, record it or let it pass.
    async fn send_canary(&self, root: usize) -> anyhow::Result<()> {
        let (wanted, counter) = match self.canaries.expected(root) {
            Unlisted::Denied => (canary::Outcome::Denied, counter::DENIED),
            Unlisted::Recorded => (canary::Outcome::Open, counter::WOULD_DENY),
            Unlisted::Passes => (canary::Outcome::Open, counter::ALLOWED),
        };
        let errno = match self.canaries.known().errno.number() {
            0 => libc::EPERM,
            other => other.cast_signed(),
        };
        let (folder, canaries) = (self.roots.paths[root].clone(), self.canaries.clone());
        let shown = folder.display().to_string();
        let before = self.counters.get(counter);
        let check = move || canary::check(&folder, errno, |id| canaries.add(id));
        let outcome = tokio::task::spawn_blocking(check).await??;
        // A connect without a route fails too. The counter shows that the gate judged it.
        let noticed = self.counters.get(counter) > before;
        match outcome {
            _ if outcome == wanted && noticed => Ok(()),
            canary::Outcome::Open => {
                bail!("{shown}: the gate did not judge an unlisted connect, which went through")
            }
            canary::Outcome::Denied => {
                bail!("{shown}: an unlisted connect failed, and the gate did not deny it")
            }
        }
    }

    /// Keeps the gate closed. Does not return.
    pub async fn keep(self, interval: Duration) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = None;
        self.look();
        loop {
            self.tell(&mut said);
            tokio::select! {
                _ = ticks.tick() => {
                    self.check().await;
                    self.board.set(Part::Descriptors, privilege::descriptor_trouble());
                    self.look();
                }
                () = self.board.changed() => {
                    // A first workload and a recreated root are noticed before the next tick.
                    let misplaced = [Part::Workloads, Part::Roots].map(|p| self.board.troubled(p));
                    if misplaced.contains(&true) || !self.roots.missing().is_empty() {
                        self.look();
                    }
                }
            }
        }
    }

    /// Repairs the gate and proves it, and the way to the proxy.
    pub async fn check(&self) {
        self.check_gate().await;
        self.check_redirect().await;
    }

    async fn check_gate(&self) {
        // First, so that a start does not look ready between the first canary and the first look.
        self.look();
        let result = match self.mend() {
            Ok(()) => self.prove().await,
            Err(e) => Err(e),
        };
        self.counted.add(
            match result {
                Ok(()) => Own::CanariesPassed,
                Err(_) => Own::CanariesFailed,
            },
            1,
        );
        let trouble = result.err();
        let trouble = trouble.map(|error| Trouble::Gate(format!("{error:#}")));
        self.board.set(Part::Gate, trouble);
    }

    /// Checks that the kernel redirects a connect of the agent to the proxy, and that the proxy
    /// answers it.
    async fn check_redirect(&self) {
        let Some(root) = self.roots.paths.iter().find(|root| root.exists()).cloned() else {
            return;
        };
        let proof = self.kernel().proof();
        let (words, canaries) = (Arc::clone(&self.proof), self.canaries.clone());
        let run = move || canary::redirect(&root, &mut proof?, &words, |id| canaries.add(id));
        let outcome = match tokio::task::spawn_blocking(run).await {
            Ok(outcome) => outcome,
            Err(error) => Err(error.into()),
        };
        let trouble = match outcome {
            Ok(Redirected::Here) => None,
            Ok(Redirected::Denied) => Some(NoRedirect::Denied),
            Ok(Redirected::Elsewhere) => Some(NoRedirect::Elsewhere),
            Err(error) => Some(NoRedirect::Failed(format!("{error:#}"))),
        };
        self.counted.add(
            match trouble {
                None => Own::RedirectsPassed,
                Some(_) => Own::RedirectsFailed,
            },
            1,
        );
        self.board
            .set(Part::Redirect, trouble.map(Trouble::Redirect));
    }

    /// Checks whether the gate is where it should be.
    fn look(&self) {
        let absent = self.roots.missing();
        let trouble = if self.roots.alternatives {
            Trouble::PodsAbsent
        } else {
            Trouble::RootsAbsent
        };
        let absent = (!absent.is_empty()).then(|| trouble(absent));
        self.board.set(Part::Roots, absent);
        let misplaced =
            placement::misplaced(&self.started, &self.roots.paths, self.roots.alternatives);
        self.board
            .set(Part::Workloads, misplaced.map(Trouble::Misplaced));
        let (pins, mounted_here) = {
            let kernel = self.kernel();
            (kernel.pins.root().to_owned(), kernel.pins.mounted_here)
        };
        let short_lived = placement::short_lived(&pins, mounted_here);
        let short_lived = short_lived.then_some(Trouble::PinsShortLived(pins));
        self.board.set(Part::Pins, short_lived);
    }

    /// Logs each change of readiness once.
    fn tell(&self, said: &mut Option<BTreeMap<Part, Trouble>>) {
        let troubles = {
            let known = self.board.known();
            if known.proven.is_none() && known.troubles().is_empty() {
                return;
            }
            known.by_part()
        };
        if said.as_ref() == Some(&troubles) {
            return;
        }
        let (roots, audits) = (gate::shown(&self.roots.paths), self.canaries.known().audits);
        match (troubles.is_empty(), audits) {
            (true, false) => tracing::info!(%roots, "ready: the gate is closed"),
            (true, true) => {
                tracing::info!(%roots, "ready: the gate is in place, audits and denies nothing");
            }
            (false, _) => {}
        }
        for (part, why) in &troubles {
            if said
                .as_ref()
                .is_some_and(|said| said.get(part) == Some(why))
            {
                continue;
            }
            match part {
                Part::Gate => tracing::error!(%why, "not ready: the gate is not proven closed"),
                // A name without an answer is logged when its question fails.
                Part::Answers => {}
                _ => tracing::warn!(%why, "not ready"),
            }
        }
        *said = Some(troubles);
    }

    /// Attaches again if a link, a pin or the cgroup itself was removed.
    fn mend(&self) -> anyhow::Result<()> {
        let mut kernel = self.kernel();
        kernel::forget_vanished(&mut kernel)?;
        let missing = kernel::missing(&kernel, &self.own, &self.roots.paths)?;
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
        kernel::attach(&mut kernel, &self.own, &self.roots.paths)?;
        tracing::warn!(what, "attached again");
        Ok(())
    }
}
