//! Looks at running flows: ends those that are no longer listed after a change of the rules or of their workload's
//! policy, and lists the addresses that they use.
//! It checks them against the kernel's tables in every network namespace where the agent makes sockets,
//! outside the async threads.

use crate::config::OnRemoval;
use crate::kernel::{Ended, Live};
use crate::observe::counters::Counters;
use crate::observe::event::Owners;
use crate::observe::families::Own;
use crate::sockets::SocketFactory;
use anyhow::Context as _;
use egress_ebpf::ids::NetnsCookie;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Workloads that get another policy within this time are checked together, because a check lists every
/// connection of every namespace.
const TOGETHER: Duration = Duration::from_secs(1);

/// Logs and counts the flows that were ended.
#[derive(Clone)]
struct Report {
    counters: Counters,
    owners: Owners,
}

/// See the module.
pub struct Ending {
    live: Arc<Live>,
    /// Running flows do not outlive their rule.
    ends: bool,
    sockets: Arc<SocketFactory>,
    report: Report,
    /// A check of the flows of moved workloads is scheduled.
    due: Arc<AtomicBool>,
}

impl Ending {
    /// Ends none yet.
    pub fn new(
        on_removal: OnRemoval,
        live: Live,
        sockets: Arc<SocketFactory>,
        counters: Counters,
        owners: Owners,
    ) -> Self {
        Self {
            live: Arc::new(live),
            ends: on_removal == OnRemoval::Close,
            sockets,
            report: Report { counters, owners },
            due: Arc::default(),
        }
    }

    /// From here on no flow is ended, by checks that are scheduled or that run either.
    pub(super) fn end_no_more(&self) {
        self.live.end_no_more();
    }

    /// Ends flows that the tables no longer list, in a task of its own.
    pub(super) fn end_unlisted(&self) {
        if self.ends {
            let live = Arc::clone(&self.live);
            let (sockets, report) = (Arc::clone(&self.sockets), self.report.clone());
            tokio::spawn(async move { end_all(&live, &sockets, &report).await });
        }
    }

    /// Lists the addresses that running connections use, in a task of its own, and sends them to `to`.
    pub(super) fn look_for_used(&self, to: mpsc::UnboundedSender<BTreeSet<IpAddr>>) {
        let (live, sockets) = (Arc::clone(&self.live), Arc::clone(&self.sockets));
        tokio::spawn(async move {
            // The engine has ended if nobody receives them.
            let _ = to.send(in_use(&live, &sockets).await);
        });
    }

    /// The same after workloads got other policies, once for all changes within [`TOGETHER`].
    pub(super) fn end_moved(&self) {
        if !self.ends || self.due.swap(true, Ordering::AcqRel) {
            return;
        }
        let live = Arc::clone(&self.live);
        let (sockets, report) = (Arc::clone(&self.sockets), self.report.clone());
        let due = Arc::clone(&self.due);
        tokio::spawn(async move {
            tokio::time::sleep(TOGETHER).await;
            // Before the check: a workload that moves from here on gets a check of its own.
            due.store(false, Ordering::Release);
            end_all(&live, &sockets, &report).await;
        });
    }
}

/// The addresses that workloads dialled for running connections, in every network namespace where the agent makes
/// sockets.
async fn in_use(live: &Arc<Live>, sockets: &SocketFactory) -> BTreeSet<IpAddr> {
    let mut used = BTreeSet::new();
    for netns in sockets.namespaces() {
        match used_in(live, sockets, netns).await {
            Ok(addresses) => used.extend(addresses),
            Err(error) => tracing::error!(
                netns = netns.0,
                error = format!("{error:#}"),
                "cannot list the running connections; the DNS leases of their addresses end after their grace"
            ),
        }
    }
    used
}

async fn used_in(
    live: &Arc<Live>,
    sockets: &SocketFactory,
    netns: NetnsCookie,
) -> anyhow::Result<BTreeSet<IpAddr>> {
    let diag = match sockets.diag(netns).await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        diag => diag.context("opening sock_diag")?,
    };
    let live = Arc::clone(live);
    tokio::task::spawn_blocking(move || live.destinations(diag)).await?
}

async fn end_all(live: &Arc<Live>, sockets: &SocketFactory, report: &Report) {
    for netns in sockets.namespaces() {
        match end_in(live, sockets, netns).await {
            Ok(flows) => {
                for flow in &flows {
                    report.log(flow);
                }
                report.counters.add(Own::FlowsEnded, flows.len() as u64);
            }
            // The egress hook denies their packets in any case.
            Err(error) => tracing::error!(
                netns = netns.0,
                error = format!("{error:#}"),
                "cannot end flows that no rule lists any more; their packets are denied, so they stall"
            ),
        }
    }
}

async fn end_in(
    live: &Arc<Live>,
    sockets: &SocketFactory,
    netns: NetnsCookie,
) -> anyhow::Result<Vec<Ended>> {
    let diag = match sockets.diag(netns).await {
        // The namespace is gone since, and its flows with it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        diag => diag.context("opening sock_diag")?,
    };
    let live = Arc::clone(live);
    tokio::task::spawn_blocking(move || live.end_unlisted(diag)).await?
}

impl Report {
    /// Spells the flow as the line of a denial does.
    fn log(&self, flow: &Ended) {
        let owner = self.owners.of(flow.cgroup);
        tracing::info!(
            destination = %flow.destination,
            pid = flow.pid,
            workload = owner.workload.as_deref(),
            pod = owner.pod_name(),
            container = owner.container(),
            cgroup = owner.cgroup.as_deref(),
            proxied = flow.proxied,
            "flow ended: no rule of its workload lists it any more"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup2;
    use crate::observe::captured;
    use crate::workloads::Identities;

    #[test]
    fn the_line_of_an_ended_flow_names_its_cgroup_by_path() {
        let report = Report {
            counters: Counters::default(),
            owners: Owners::new(Identities::default()).unwrap(),
        };
        let flow = Ended {
            destination: "203.0.113.9:443".parse().unwrap(),
            cgroup: cgroup2::id(&cgroup2::mount_point().unwrap()).unwrap(),
            pid: 7,
            proxied: false,
        };
        let lines = captured::lines(|| report.log(&flow));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["cgroup"], "/", "{lines:?}");
        assert_eq!(lines[0]["destination"], "203.0.113.9:443");
    }
}
