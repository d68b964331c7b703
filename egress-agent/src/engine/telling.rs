//! What the engine tells: to whoever asks, how the rules stand and what becomes of a destination;
//! to the log, what the kernel refused. Nothing of it changes a verdict.

use super::Engine;
use crate::keeper::Canaries;
use crate::kernel::Room;
use crate::observe::cgroups::CgroupPaths;
use crate::observe::deny::Denial;
use crate::observe::sorting::Sorting;
use crate::observe::throttle::Throttle;
use crate::operate::status::{RulesStatus, TableStatus, WorkloadStatus};
use egress_core::policy::explain::{Explanation, Question};
use egress_core::policy::tables::Transport;
use egress_ebpf::abi::{DEFAULT_POLICY, DenyEvent, NO_POLICY, proto};
use std::net::IpAddr;
use std::time::Instant;
use tokio::sync::oneshot;

/// Log lines of denials in a second; the kernel's bound on events is higher, and each costs a line.
const DENIALS_LOGGED: u32 = 75;

/// A question to the running engine, with the way back.
#[derive(Debug)]
pub enum Ask {
    /// How the rules stand, and who is under them.
    Status(oneshot::Sender<(RulesStatus, Vec<WorkloadStatus>)>),
    /// What becomes of a destination.
    Explain {
        /// The destination.
        question: Box<Question>,
        /// Cgroup ids of the workload that would dial it, the deepest first; none is the enforced
        /// root's default.
        workload: Vec<u64>,
        /// The way back.
        answer: oneshot::Sender<Explanation>,
    },
}

/// What it takes to turn the kernel's events into log lines.
pub(super) struct Denials {
    cgroups: CgroupPaths,
    /// Refusals in these are no news.
    canaries: Canaries,
    throttle: Throttle,
    sorting: Sorting,
}

impl Denials {
    /// Nothing told yet.
    pub(super) fn new(canaries: Canaries) -> anyhow::Result<Self> {
        Ok(Self {
            cgroups: CgroupPaths::new()?,
            canaries,
            throttle: Throttle::new(DENIALS_LOGGED),
            sorting: Sorting::default(),
        })
    }
}

impl Engine {
    /// Answers; whoever asked may have left.
    pub(super) fn reply(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                let _ = answer.send((self.status(), self.workloads.status()));
            }
            Ask::Explain {
                question,
                workload,
                answer,
            } => {
                // As the kernel finds it: the deepest cgroup that has a policy.
                let mut owners = workload.into_iter().filter_map(|id| self.state.owned(id));
                let policy = owners.next().unwrap_or(DEFAULT_POLICY);
                let _ = answer.send(self.state.explain(policy, &question));
            }
        }
    }

    fn status(&self) -> RulesStatus {
        let (exact, ranges) = self.tables.room();
        let table = |room: Room| TableStatus {
            used: room.used,
            limit: room.limit,
        };
        let failing = self.state.failing().into_iter();
        RulesStatus {
            generation: self.state.generation(),
            addresses: table(exact),
            networks: table(ranges),
            failing: failing
                .map(|(n, f)| (n.to_string(), f.to_string()))
                .collect(),
            findings: self.findings(),
            too_deep: self.workloads.too_deep(),
            flows_ended: self.ending.ended(),
            ..self.shown.clone()
        }
    }

    /// Tells of refusals without a line, after which none came that could have told of them.
    pub(super) fn tell_held_back(&mut self) {
        tell_held_back(self.denials.throttle.take(Instant::now()));
    }

    /// Takes a refusal of the kernel.
    pub(super) fn report(&mut self, event: &DenyEvent) {
        self.shown.events += 1;
        if self.denials.canaries.has(event.cgroup) {
            return;
        }
        self.missed(event);
        if self.denials.sorting.tells(event, Instant::now()) {
            self.tell(event);
        }
    }

    /// When a denial that was kept back is to be told.
    pub(super) fn denials_due(&self) -> Option<Instant> {
        self.denials.sorting.due()
    }

    /// Tells of denials that were kept back for as long as that makes sense.
    pub(super) fn tell_kept_back(&mut self) {
        while let Some(event) = self.denials.sorting.ripe(Instant::now()) {
            self.tell(&event);
        }
    }

    fn tell(&mut self, event: &DenyEvent) {
        let Some(more) = self.denials.throttle.allows(Instant::now()) else {
            self.shown.not_logged += 1;
            return;
        };
        tell_held_back(more);
        let addr = IpAddr::from(event.addr);
        let names = self.state.names_of(addr);
        let policy = if event.policy == NO_POLICY {
            DEFAULT_POLICY
        } else {
            event.policy
        };
        let via = match event.proto {
            proto::TCP => Some(Transport::Tcp),
            proto::UDP => Some(Transport::Udp),
            _ => None,
        };
        let nearest = via.and_then(|via| self.state.nearest(policy, addr, event.port, via));
        Denial::of(event, &mut self.denials.cgroups).log(&names, nearest.as_deref());
    }
}

fn tell_held_back(more: u64) {
    if more > 0 {
        tracing::warn!(suppressed = more, "denials not logged (rate limit)");
    }
}
