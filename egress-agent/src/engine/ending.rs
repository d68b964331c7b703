//! Ends running flows that a change of rules or of their workload's policy no longer lists, in
//! every network namespace where the agent makes sockets, off the async threads. The kernel's
//! tables say which flows these are.

use crate::config::OnRemoval;
use crate::kernel::{Ended, Live};
use crate::observe::counters::Counters;
use crate::observe::event::Owners;
use crate::observe::families::Own;
use crate::sockets::SocketFactory;
use anyhow::Context as _;
use egress_ebpf::ids::NetnsCookie;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Workloads that get a policy within this time of each other are checked together: a check lists
/// every connection of every namespace.
const TOGETHER: Duration = Duration::from_secs(1);

/// Where it shows that a flow was ended.
#[derive(Clone)]
struct Told {
    counters: Counters,
    owners: Owners,
}

/// See the module.
pub struct Ending {
    /// None where running flows outlive their rule.
    live: Option<Arc<Live>>,
    sockets: Arc<SocketFactory>,
    told: Told,
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
            live: (on_removal == OnRemoval::Close).then(|| Arc::new(live)),
            sockets,
            told: Told { counters, owners },
            due: Arc::default(),
        }
    }

    /// Ends what the tables no longer list, a moment from now.
    pub(super) fn end_unlisted(&self) {
        if let Some(live) = self.live.clone() {
            let (sockets, told) = (Arc::clone(&self.sockets), self.told.clone());
            tokio::spawn(async move { end_all(&live, &sockets, &told).await });
        }
    }

    /// The same after workloads got other policies: once for all that do within [`TOGETHER`].
    pub(super) fn end_moved(&self) {
        let Some(live) = self.live.clone() else {
            return;
        };
        if self.due.swap(true, Ordering::AcqRel) {
            return;
        }
        let (sockets, told) = (Arc::clone(&self.sockets), self.told.clone());
        let due = Arc::clone(&self.due);
        tokio::spawn(async move {
            tokio::time::sleep(TOGETHER).await;
            // Before the look: what moves from here on has one of its own.
            due.store(false, Ordering::Release);
            end_all(&live, &sockets, &told).await;
        });
    }
}

async fn end_all(live: &Arc<Live>, sockets: &SocketFactory, told: &Told) {
    for netns in sockets.namespaces() {
        match end_in(live, sockets, netns).await {
            Ok(flows) => {
                for flow in &flows {
                    told.log(flow);
                }
                told.counters.add(Own::FlowsEnded, flows.len() as u64);
            }
            // Their packets are denied all the same.
            Err(error) => tracing::error!(
                netns = netns.0,
                error = format!("{error:#}"),
                "flows that no rule lists any more could not be ended; they stall"
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
        // Gone since it was named, and its flows with it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        diag => diag.context("opening sock_diag")?,
    };
    let live = Arc::clone(live);
    tokio::task::spawn_blocking(move || live.end_unlisted(diag)).await?
}

impl Told {
    /// In the spelling of a denial's line.
    fn log(&self, flow: &Ended) {
        let owner = self.owners.of(flow.cgroup);
        tracing::info!(
            destination = %flow.destination,
            pid = flow.pid,
            workload = owner.workload.as_deref(),
            cgroup = owner.cgroup.as_deref(),
            proxied = flow.proxied,
            "ended: no rule of its workload lists it any more"
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
        let told = Told {
            counters: Counters::default(),
            owners: Owners::new(Identities::default()).unwrap(),
        };
        let flow = Ended {
            destination: "203.0.113.9:443".parse().unwrap(),
            cgroup: cgroup2::id(&cgroup2::mount_point().unwrap()).unwrap(),
            pid: 7,
            proxied: false,
        };
        let lines = captured::lines(|| told.log(&flow));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["cgroup"], "/", "{lines:?}");
        assert_eq!(lines[0]["destination"], "203.0.113.9:443");
    }
}
