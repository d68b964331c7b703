//! The engine's inputs: one value for each thing that may happen, and the channels that they come from.

use super::asker::Reply;
use crate::config::Config;
use crate::dns::Learned;
use crate::keeper::Canaries;
use crate::kubernetes::Ranges;
use crate::observe::counters::Counters;
use crate::observe::readiness::Board;
use crate::operate::ask::Ask;
use crate::sources::RuleSet;
use crate::workloads::{Identities, Missed, PodNews, Told};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};

/// One thing that happened.
pub(super) enum Input {
    /// The rule files changed.
    Rules(Arc<RuleSet>),
    /// The rule files are not followed any more.
    RulesLost,
    /// The config changed.
    Config(Box<Config>),
    /// The cluster's own ranges changed.
    Cluster,
    /// Workloads appeared or disappeared, or the namespaces of their processes were checked.
    Workloads(Vec<Told>),
    /// Pods of the Kubernetes API changed.
    Pods(Vec<PodNews>),
    /// Flows of these cgroups were denied because their network namespace has no proxy.
    Missed(BTreeSet<CgroupId>),
    /// An enforced root appeared.
    RootCame,
    /// Verdicts that sockets stored under these policies can be judged again.
    Left(BTreeSet<PolicyId>),
    /// DNS questions have results.
    Replies(Vec<Reply>),
    /// Answers to queries of workloads wait for their leases.
    Learned(Vec<Learned>),
    /// A lease ends, or a name must be resolved again.
    Due,
    /// The first answers took too long.
    FirstAnswersLate,
    /// The file of leases is due.
    KeepLeases,
    /// The file of identities is due.
    KeepIdentities,
    /// The addresses that running connections use are to be listed.
    LookForUsed,
    /// They are listed.
    Used(BTreeSet<IpAddr>),
    /// A question of `status` or `explain`.
    Ask(Ask),
}

impl Input {
    /// Whether what sockets remember must be judged again before the input counts as handled. Workloads that come in
    /// numbers must not wait for each other.
    pub(super) const fn is_whole(&self) -> bool {
        matches!(self, Self::Rules(_) | Self::Config(_) | Self::Cluster)
    }
}

/// The rule sets, and where the engine puts those that it has handled.
pub type RulesFeed = (watch::Receiver<Arc<RuleSet>>, watch::Sender<Arc<RuleSet>>);

/// The channels through which the rest of the agent reaches a running engine, and the board on
/// which the engine reports.
pub struct News {
    /// Questions of `status` and `explain`.
    pub asks: mpsc::Receiver<Ask>,
    /// Changed configs.
    pub configs: mpsc::Receiver<Config>,
    /// The node's pods from the Kubernetes API. Without it the channel is closed.
    pub pods: mpsc::Receiver<PodNews>,
    /// Leases of answers to the workloads' queries; closed without a DNS server.
    pub learned: mpsc::Receiver<Learned>,
    /// Notified when an enforced root appeared.
    pub came: Arc<Notify>,
    /// Cgroups with a flow that was denied because their namespace has no proxy.
    pub missed: Missed,
    /// Readiness.
    pub board: Board,
    /// The agent's own counters.
    pub counters: Counters,
    /// Identities of the workloads, for the log.
    pub identities: Identities,
    /// The cluster's own ranges.
    pub cluster: watch::Receiver<Arc<Ranges>>,
    /// The outcome that the canaries must have.
    pub canaries: Canaries,
}

impl News {
    /// Takes no more leases. Who waits for one learns that it will not be in force.
    pub(super) fn learn_no_more(&mut self) {
        self.learned.close();
        while self.learned.try_recv().is_ok() {}
    }

    /// The next input. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            Some(ask) = self.asks.recv() => Input::Ask(ask),
            Some(config) = self.configs.recv() => Input::Config(Box::new(config)),
            Some(pods) = batch(&mut self.pods) => Input::Pods(pods),
            Some(learned) = batch(&mut self.learned) => Input::Learned(learned),
            () = self.came.notified() => Input::RootCame,
            cgroups = self.missed.next() => Input::Missed(cgroups),
        }
    }
}

/// The most news that are handled together.
const TOGETHER: usize = 256;

/// All news that wait; `None` once there are no more. Dropping the future loses none.
async fn batch<T>(news: &mut mpsc::Receiver<T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    (news.recv_many(&mut all, TOGETHER).await > 0).then_some(all)
}

/// The rule sets that follow the first.
pub(super) struct Rules {
    /// `None` once the files are no longer followed.
    sets: Option<watch::Receiver<Arc<RuleSet>>>,
    taken: watch::Sender<Arc<RuleSet>>,
    /// The set that was returned last.
    last: Option<Arc<RuleSet>>,
}

impl Rules {
    /// Those that the receiver has not seen.
    pub(super) fn after_first((sets, taken): RulesFeed) -> Self {
        Self {
            sets: Some(sets),
            taken,
            last: None,
        }
    }

    /// The next set. A call means that the last one was handled. Reports once if the files are no longer followed.
    /// Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Input {
        if let Some(last) = self.last.take() {
            self.taken.send_replace(last);
        }
        let Some(sets) = &mut self.sets else {
            return std::future::pending().await;
        };
        if sets.changed().await.is_err() {
            self.sets = None;
            return Input::RulesLost;
        }
        let set = Arc::clone(&sets.borrow_and_update());
        self.last = Some(Arc::clone(&set));
        Input::Rules(set)
    }
}
