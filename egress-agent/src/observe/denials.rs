//! Logs the kernel's denials: reads the ring buffer in a task of its own.
//!
//! It reads the snapshot of names that the engine publishes and asks the engine nothing, so a workload that
//! dials at random does not delay rules and new pods. Decides nothing.

use super::counters::Counters;
use super::deny;
use super::event::{By, Owner, Owners, log_suppressed};
use super::families::Own;
use super::pod_denials::PodDenials;
use super::sorting::Sorting;
use super::tally::{Denied, UNKNOWN};
use super::throttle::Throttle;
use crate::keeper::Canaries;
use crate::kernel::Events;
use crate::timer::until;
use crate::workloads::Missed;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use egress_core::policy::naming::Names;
use egress_core::policy::tables::Transport;
use egress_ebpf::abi::{DEFAULT_POLICY, DenyEvent, NO_POLICY, proto};
use egress_ebpf::verdict::Reason;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most log lines of denials in a second. The kernel's limit of events is higher.
const LOGGED: u32 = 75;

/// Time between two reads of the ring buffer. The kernel wakes a reader only for an event that finds the
/// ring empty (`bpf_ringbuf_commit` in kernel/bpf/ringbuf.c), so a workload that dials at random wakes the
/// agent once in a pause and not once for each event.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module.
pub struct Denials {
    names: Arc<ArcSwap<Names>>,
    owners: Owners,
    /// The agent's own canaries, whose denials are not logged.
    canaries: Canaries,
    missed: Missed,
    counters: Counters,
    throttle: Throttle,
    sorting: Sorting,
    pods: PodDenials,
}

impl Denials {
    /// The engine replaces the content of `names`. `missed` gets the cgroups whose namespace has no
    /// proxy.
    pub fn new(
        names: Arc<ArcSwap<Names>>,
        missed: Missed,
        canaries: Canaries,
        counters: Counters,
        owners: Owners,
    ) -> Self {
        Self {
            names,
            owners,
            canaries,
            missed,
            counters,
            throttle: Throttle::new(LOGGED),
            sorting: Sorting::default(),
            pods: PodDenials::default(),
        }
    }

    /// Also notes denials of pods here.
    #[must_use]
    pub fn noting(mut self, pods: PodDenials) -> Self {
        self.pods = pods;
        self
    }

    /// Follows the kernel's events. Returns only if they cannot be read.
    pub async fn follow(mut self, mut events: Events) -> anyhow::Result<()> {
        let mut look = Instant::now();
        loop {
            let due = [self.sorting.due(), self.throttle.due()];
            let batch = async {
                until(Some(look)).await;
                events.next().await
            };
            tokio::select! {
                batch = batch => {
                    for event in batch.context("reading the kernel's events")? {
                        self.take(&event);
                    }
                    look = Instant::now() + PAUSE;
                }
                () = until(due.into_iter().flatten().min()) => {
                    while let Some(event) = self.sorting.ripe(Instant::now()) {
                        self.log(&event);
                    }
                    log_suppressed(By::Kernel, self.throttle.take(Instant::now()));
                }
            }
        }
    }

    fn take(&mut self, event: &DenyEvent) {
        self.counters.add(Own::Events, 1);
        if self.canaries.has(event.cgroup) {
            return;
        }
        let owner = self.owners.of(event.cgroup);
        self.count(event, &owner);
        if event.audit == 0 {
            self.note(event, &owner);
        }
        if [Reason::NoProxy as u8, Reason::NoDns as u8].contains(&event.reason) {
            self.missed.add(event.cgroup);
        }
        if self.sorting.tells(event, Instant::now()) {
            self.log(event);
        }
    }

    /// Counts the denial and those of its kind that had no event since the last one.
    fn count(&self, event: &DenyEvent, owner: &Owner) {
        let denied = Denied {
            by: By::Kernel,
            audit: event.audit != 0,
            reason: Reason::from_code(event.reason).map_or(deny::UNKNOWN, Reason::word),
            namespace: owner.namespace().unwrap_or(UNKNOWN).into(),
        };
        let more = 1 + u64::from(event.repeated);
        self.counters.denied().add(denied, more, Instant::now());
    }

    /// Notes the denial for an Event on its pod.
    fn note(&self, event: &DenyEvent, owner: &Owner) {
        let more = 1 + u64::from(event.repeated);
        let reason = Reason::from_code(event.reason).map_or(deny::UNKNOWN, Reason::word);
        let to = || SocketAddr::new(IpAddr::from(event.addr), event.port).to_string();
        self.pods.note(owner, to, reason, more, || {
            let names = self.names.load();
            let known = names.of(IpAddr::from(event.addr));
            let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
            let known = (!known.is_empty()).then(|| format!("names: {}", known.join(", ")));
            let said = known.into_iter().chain(nearest(event, &names));
            let said = said.collect::<Vec<_>>().join("; ");
            (!said.is_empty()).then_some(said)
        });
    }

    fn log(&mut self, event: &DenyEvent) {
        let Some(more) = self.throttle.allows(Instant::now(), Some(event.cgroup)) else {
            self.counters.add(Own::EventsNotLogged, 1);
            return;
        };
        log_suppressed(By::Kernel, more);
        let addr = IpAddr::from(event.addr);
        let names = self.names.load();
        let nearest = nearest(event, &names);
        let owner = self.owners.of(event.cgroup);
        deny::log(event, &owner, &names.of(addr), nearest.as_deref());
    }
}

/// The rule that came closest, and what differs from the flow.
fn nearest(event: &DenyEvent, names: &Names) -> Option<String> {
    let policy = if event.policy == NO_POLICY {
        DEFAULT_POLICY
    } else {
        event.policy
    };
    let via = match event.proto {
        proto::TCP => Transport::Tcp,
        proto::UDP => Transport::Udp,
        _ => return None,
    };
    let reason = Reason::from_code(event.reason).unwrap_or(Reason::State);
    names.nearest(policy, IpAddr::from(event.addr), event.port, via, reason)
}
