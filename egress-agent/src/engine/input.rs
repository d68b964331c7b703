//! What the engine acts on: one value for each thing that may happen, and where they come from.

use super::questions::Reply;
use crate::config::Config;
use crate::keeper::Canaries;
use crate::observe::counters::Counters;
use crate::observe::readiness::Board;
use crate::operate::ask::Ask;
use crate::sources::RuleSet;
use crate::workloads::{Identities, Missed, Told};
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};

/// One thing that happened.
pub(super) enum Input {
    /// The rule files have other rules.
    Rules(Arc<RuleSet>),
    /// The rule files are not followed any more.
    RulesLost,
    /// The config changed.
    Config(Box<Config>),
    /// Workloads came or went, or it is time to look where their processes are.
    Workloads(Vec<Told>),
    /// Flows of these cgroups found no proxy in their network namespace.
    Missed(BTreeSet<CgroupId>),
    /// An enforced root came.
    RootCame,
    /// DNS questions came back.
    Replies(Vec<Reply>),
    /// A lease ends, or a name is to be asked for.
    Due,
    /// The first answers took too long.
    FirstAnswersLate,
    /// The leases are to be written for the next agent.
    KeepLeases,
    /// A question of `status` or `explain`.
    Ask(Ask),
}

/// The channels through which the rest of the agent reaches a running engine, and the board on
/// which the engine reports.
pub struct News {
    /// Questions.
    pub asks: mpsc::Receiver<Ask>,
    /// Configs that follow the first.
    pub configs: mpsc::Receiver<Config>,
    /// Notified when an enforced root came.
    pub came: Arc<Notify>,
    /// Cgroups whose flow found no proxy.
    pub missed: Missed,
    /// Readiness.
    pub board: Board,
    /// What is counted.
    pub counters: Counters,
    /// Who the workloads are, for the log.
    pub identities: Identities,
    /// What the canaries must show.
    pub canaries: Canaries,
}

impl News {
    /// The next input. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            Some(ask) = self.asks.recv() => Input::Ask(ask),
            Some(config) = self.configs.recv() => Input::Config(Box::new(config)),
            () = self.came.notified() => Input::RootCame,
            cgroups = self.missed.next() => Input::Missed(cgroups),
        }
    }
}

/// The rule sets that follow the first.
pub(super) struct Rules(Option<watch::Receiver<Arc<RuleSet>>>);

impl Rules {
    /// The set that is there at the moment is not given again.
    pub(super) fn after_first(mut rules: watch::Receiver<Arc<RuleSet>>) -> Self {
        rules.mark_unchanged();
        Self(Some(rules))
    }

    /// The next set. Reports once that the files are no longer followed. Dropping the future loses
    /// none.
    pub(super) async fn next(&mut self) -> Input {
        let Some(rules) = &mut self.0 else {
            return std::future::pending().await;
        };
        if rules.changed().await.is_err() {
            self.0 = None;
            return Input::RulesLost;
        }
        Input::Rules(Arc::clone(&rules.borrow_and_update()))
    }
}
