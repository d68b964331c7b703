//! What each kind of input does to the state machine: new rules, a changed config, the cluster's ranges, answers, and
//! questions of people. The engine carries out what follows.

use super::Engine;
use super::asker::Reply;
use super::questions;
use super::settings;
use crate::config::Config;
use crate::dns::Learned;
use crate::operate::ask::Ask;
use crate::sources::{Difference, RuleSet};
use egress_core::policy::diff::TableOp;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

impl Engine {
    /// Puts new rules in force: all of them, or none if the tables have no room. Returns which.
    pub(super) fn take(&mut self, rules: &RuleSet) -> bool {
        let Difference { added, gone } = self.in_force.until(&rules.objects);
        let plan = self.state.plan_change(Instant::now(), &added, &gone);
        if let Err(full) = self.placing.fits(&plan) {
            drop(plan);
            let instead = "the previous rules stay in force";
            let problem = self.shown.does_not_fit(&full, instead);
            self.in_force.does_not_fit(problem);
            return false;
        }
        let judges = |op: &TableOp| matches!(op, TableOp::SetPolicy(..) | TableOp::DeletePolicy(_));
        self.end_unlisted |= plan.ops().iter().any(judges);
        plan.commit();
        self.shown.set_rules(rules);
        self.in_force.change(rules);
        self.placing.place_anew();
        true
    }

    /// Applies a changed config: all of it, or nothing if the tables have no room.
    pub(super) fn reload(&mut self, config: &Config) {
        let mut settings = settings::settings(config);
        settings.internal = self.internal.with(&config.internal);
        let queries = settings::queries(config, &settings.internal);
        let plan = self.state.plan_settings(Instant::now(), settings);
        if let Err(full) = self.placing.fits(&plan) {
            tracing::error!(%full, "config not applied: the tables have no room for it; the previous config stays in force");
            return;
        }
        plan.commit();
        self.published.judge_queries_by(queries);
        self.internal.configure(&config.internal);
        self.shown.set_mode(config.mode);
        self.news.canaries.expect_config(config);
        let told = self.placing.workloads.rename(config.workloads.clone());
        self.placing.hear(&mut self.state, told);
        self.placing.place_anew();
        self.end_unlisted = true;
        tracing::info!("config applied");
    }

    /// Allows the present ranges of the cluster: all of them, or nothing changes if the tables have no room.
    pub(super) fn take_ranges(&mut self) {
        let internal = self.internal.all();
        let plan = self.state.plan_internal(Instant::now(), internal.clone());
        if let Err(full) = self.placing.fits(&plan) {
            tracing::error!(%full, "the tables have no room for the cluster's ranges; the previous ones stay in force");
            return;
        }
        plan.commit();
        self.published.reaching(internal);
        self.end_unlisted = true;
    }

    /// Takes the results of DNS questions.
    pub(super) fn answer(&mut self, replies: Vec<Reply>) {
        let now = Instant::now();
        let taken = questions::give(replies, now, &mut self.state);
        if taken.answered {
            let grace = self.state.lease_settings().grace;
            self.lease_file.answered(now, taken.changed, grace);
        }
        self.first_answers.look(&self.state);
    }

    /// Takes the addresses of answers to the workloads' queries. Returns whom to notify once they are in force.
    pub(super) fn learn(&mut self, learned: Vec<Learned>) -> Vec<oneshot::Sender<()>> {
        let now = Instant::now();
        let mut waiting = Vec::with_capacity(learned.len());
        let mut leases = Vec::with_capacity(learned.len());
        for Learned { lease, done } in learned {
            leases.push(lease);
            waiting.push(done);
        }
        let outcomes = self.state.handle_leases(now, &leases);
        let changed = outcomes.iter().any(|outcome| outcome.changed);
        let grace = self.state.lease_settings().grace;
        self.lease_file.answered(now, changed, grace);
        waiting
    }

    /// Asks which addresses running connections use.
    pub(super) fn look_for_used(&mut self) {
        let grace = self.state.lease_settings().grace;
        let leases = self.state.leases();
        let ending = &self.placing.ending;
        self.used.look(Instant::now(), grace, leases, ending);
    }

    /// Keeps the leases of addresses that running connections use.
    pub(super) fn keep_used(&mut self, used: &BTreeSet<IpAddr>) {
        let now = Instant::now();
        let grace = self.state.lease_settings().grace;
        let next = self.used.taken(now, grace);
        self.state.handle_in_use(now, used, next);
        if !used.is_empty() {
            self.lease_file.prolonged(now, grace);
        }
    }

    /// Answers a question. The client may have disconnected.
    pub(super) fn reply(&mut self, ask: Ask) {
        match ask {
            Ask::Status(detail, answer) => {
                let facts = self.shown.facts(&self.state, &self.placing, detail);
                let _ = answer.send(facts);
            }
            Ask::Explain {
                question,
                workload,
                answer,
            } => {
                let policy = self.policy_of(workload);
                let _ = answer.send(self.state.explain(policy, &question));
            }
            Ask::Query {
                question,
                workload,
                answer,
            } => {
                let policy = self.policy_of(workload);
                let settings = Arc::clone(&self.published.directory.load().settings);
                let told = self.state.explain_query(policy, &settings, &question);
                let _ = answer.send(told);
            }
        }
    }

    /// The policy of a workload. As in the kernel, the deepest cgroup with one counts.
    fn policy_of(&self, workload: Vec<CgroupId>) -> PolicyId {
        let mut owners = workload.into_iter().filter_map(|id| self.state.owned(id));
        owners.next().unwrap_or(DEFAULT_POLICY)
    }
}
