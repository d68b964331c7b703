//! Drives the pure state machine: gives it rules, answers and time, and carries out what it asks for
//! (kernel writes, DNS questions, snapshots for other tasks). Decides nothing itself.
//!
//! Each thing that happens is one `Input`. After each input the engine carries out everything that the
//! state machine asks for.

mod ending;
mod first_answers;
mod identity_file;
mod in_force;
mod input;
mod internal;
mod lease_file;
mod placing;
mod published;
mod questions;
mod rejudge;
mod rules_file;
mod settings;
mod shown;
mod start;
mod used;

pub use ending::Ending;
pub use input::{News, RulesFeed};
pub use published::Published;
pub(crate) use settings::{queries, settings};

use crate::applied::Applied;
use crate::config::Config;
use crate::dns::{Learned, Resolver};
use crate::kernel::{Tables, random};
use crate::observe::families::Own;
use crate::observe::histogram::Timing;
use crate::operate::ask::Ask;
use crate::sources::{Difference, RuleSet};
use crate::timer::until;
use crate::workloads::{Owners, Sharers, Workloads};
use anyhow::Context as _;
use egress_core::policy::diff::{Planner, TableOp};
use egress_core::policy::state::State;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::{CgroupId, PolicyId};
use first_answers::FirstAnswers;
use identity_file::IdentityFile;
use in_force::InForce;
use input::{Input, Rules};
use internal::Internal;
use lease_file::LeaseFile;
use placing::Placing;
use questions::{Questions, Reply};
use shown::Shown;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{oneshot, watch};
use used::Used;

/// See the module.
pub struct Engine {
    state: State,
    placing: Placing,
    published: Published,
    questions: Questions,
    first_answers: FirstAnswers,
    lease_file: LeaseFile,
    identity_file: IdentityFile,
    used: Used,
    in_force: InForce,
    internal: Internal,
    /// Running flows must be checked: the rules may not list them any more.
    end_unlisted: bool,
    news: News,
    shown: Shown,
}

impl Engine {
    /// Starts from the kernel's present tables, which stay in force until [`Self::begin`].
    pub fn new(
        config: &Config,
        roots: &[PathBuf],
        mut tables: Tables,
        resolver: Resolver,
        ending: Ending,
        news: News,
    ) -> anyhow::Result<Self> {
        let (policies, ids) = tables
            .standing()
            .context("reading the tables of the previous agent")?;
        let standing = Planner::adopt(policies, ids)
            .above(tables.highest_generation())
            .within(tables.room());
        let mut internal = Internal::new(&config.internal, news.cluster.clone());
        let mut settings = settings(config);
        settings.internal = internal.all();
        let queries = settings::queries(config, &settings.internal);
        [settings.leases.seed] = random::words().context("drawing random numbers")?;
        let owners = Owners::standing(&tables)?;
        let mut state = State::adopting(settings, standing).with_owners(owners.all().clone());
        let identity_file = IdentityFile::beside(&config.admin_socket);
        let identity = config.kubernetes.as_ref().is_some_and(|k| k.identity);
        let pods = if identity {
            identity_file.restored()
        } else {
            Vec::new()
        };
        let workloads = Workloads::new(config, roots, owners, news.identities.clone(), pods)?;
        Ok(Self {
            published: Published::of(&mut state, queries),
            state,
            placing: Placing::new(tables, workloads, ending)?,
            questions: Questions::new(resolver, news.counters.clone()),
            first_answers: FirstAnswers::new(news.board.clone()),
            lease_file: LeaseFile::beside(&config.admin_socket),
            identity_file,
            used: Used::new(Instant::now()),
            in_force: InForce::none(&config.admin_socket),
            internal,
            end_unlisted: false,
            news,
            shown: Shown::new(config.mode),
        })
    }

    /// The snapshots that other tasks read.
    pub fn published(&self) -> Published {
        self.published.clone()
    }

    /// The rules that are in force.
    pub fn applied(&self) -> watch::Receiver<Arc<Applied>> {
        self.in_force.applied()
    }

    /// The cgroups that have one share of the proxy each.
    pub fn sharers(&self) -> Sharers {
        self.placing.workloads.sharers()
    }

    /// Handles inputs. Returns only with an error that the agent cannot recover from.
    pub async fn run(&mut self, rules: RulesFeed) -> anyhow::Result<()> {
        let mut rules = Rules::after_first(rules);
        loop {
            let input = self.next(&mut rules).await?;
            self.handle(input).await?;
        }
    }

    /// Waits for the next input. Dropping the future loses nothing.
    async fn next(&mut self, rules: &mut Rules) -> anyhow::Result<Input> {
        if self.first_answers.are_late() {
            return Ok(Input::FirstAnswersLate);
        }
        let due = self.state.poll_timeout();
        Ok(tokio::select! {
            rules = rules.next() => rules,
            input = self.news.next() => input,
            () = self.internal.changed() => Input::Cluster,
            told = self.placing.workloads.next() => Input::Workloads(told?),
            policies = self.placing.rejudge.due() => Input::Left(policies?),
            replies = self.questions.replies() => Input::Replies(replies),
            () = until(due) => Input::Due,
            () = until(self.first_answers.due()) => Input::FirstAnswersLate,
            () = until(self.lease_file.due()) => Input::KeepLeases,
            () = until(self.identity_file.due()) => Input::KeepIdentities,
            () = until(self.used.due()) => Input::LookForUsed,
            used = self.used.next() => Input::Used(used),
        })
    }

    /// Handles one input and carries out everything that follows from it.
    async fn handle(&mut self, input: Input) -> anyhow::Result<()> {
        self.news.counters.add(Own::Inputs, 1);
        let settles = matches!(input, Input::Workloads(_));
        let whole = input.is_whole();
        let mut noticed = None;
        let mut in_force = Vec::new();
        match input {
            Input::Rules(rules) if self.take(&rules) => noticed = rules.noticed,
            Input::Rules(_) => {}
            Input::RulesLost => self.shown.not_followed(),
            Input::Config(config) => self.reload(&config),
            Input::Cluster => self.take_ranges(),
            Input::Workloads(told) => {
                self.placing.hear(&mut self.state, told);
                self.news.board.poke();
            }
            Input::Pods(news) => {
                let told = self.placing.workloads.take_pods(news);
                self.placing.hear(&mut self.state, told);
            }
            Input::Missed(cgroups) => {
                for cgroup in cgroups {
                    self.placing.workloads.missed(cgroup);
                }
            }
            Input::RootCame => self.placing.workloads.look_again(),
            Input::Left(policies) => self.placing.judge_again(&mut self.state, policies)?,
            Input::Replies(replies) => self.answer(replies),
            Input::Learned(learned) => in_force = self.learn(learned),
            Input::Due => self.state.handle_timeout(Instant::now()),
            Input::FirstAnswersLate => self.first_answers.give_up(&self.state),
            Input::KeepLeases => self.lease_file.keep_soon(&self.state),
            Input::KeepIdentities => self.identity_file.keep(self.placing.workloads.pods()),
            Input::LookForUsed => self.look_for_used(),
            Input::Used(used) => self.keep_used(&used),
            Input::Ask(ask) => self.reply(ask),
        }
        if self.placing.workloads.pods_changed() {
            self.identity_file.changed(Instant::now());
        }
        self.flush(whole)?;
        for done in in_force {
            // The query's client may have left.
            let _ = done.send(());
        }
        if let Some(noticed) = noticed {
            let timings = self.news.counters.timings();
            timings.observe(Timing::RulesInForce, noticed.elapsed());
        }
        if settles {
            self.placing.settle().await?;
        }
        Ok(())
    }

    /// Carries out what the state machine asks for. Publishes the snapshots first: a flow that the kernel
    /// redirects by a new entry must find its route.
    /// With `whole` sockets remember no verdict of a policy that their workload has left.
    fn flush(&mut self, whole: bool) -> anyhow::Result<()> {
        self.published.publish(&mut self.state);
        let mut ops = self.state.poll_ops();
        while !ops.is_empty() || self.placing.is_due() {
            let left_out = self.placing.write(&mut self.state, &ops)?;
            if left_out > 0 {
                self.news.counters.add(Own::LeftOut, left_out as u64);
                tracing::error!(
                    left_out,
                    "the rule table is full: some addresses of listed names are denied"
                );
            }
            tracing::debug!(
                writes = ops.len(),
                generation = self.state.generation().0,
                "tables written"
            );
            self.published.publish(&mut self.state);
            ops = self.state.poll_ops();
            if ops.is_empty() && !self.placing.is_due() {
                self.shown.without_policy(self.state.without_policy());
                self.news
                    .canaries
                    .expect(self.placing.unlisted(&self.state));
            }
        }
        if whole {
            self.placing.judge_all_again(&mut self.state)?;
        }
        self.published.written(&self.state);
        self.questions.ask(&mut self.state);
        if std::mem::take(&mut self.end_unlisted) {
            self.placing.ending.end_unlisted();
        }
        self.in_force.announce(&self.state);
        // Memory can wait: all is in force.
        self.state.share();
        Ok(())
    }

    /// Puts new rules in force: all of them, or none if the tables have no room. Returns which.
    fn take(&mut self, rules: &RuleSet) -> bool {
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
    fn reload(&mut self, config: &Config) {
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
    fn take_ranges(&mut self) {
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
    fn answer(&mut self, replies: Vec<Reply>) {
        let now = Instant::now();
        let taken = questions::give(replies, now, &mut self.state);
        if taken.answered {
            self.lease_file.answered(now, taken.changed);
        }
        self.first_answers.look(&self.state);
    }

    /// Takes the addresses of answers to the workloads' queries. Returns whom to notify once they are in force.
    fn learn(&mut self, learned: Vec<Learned>) -> Vec<oneshot::Sender<()>> {
        let now = Instant::now();
        let mut waiting = Vec::with_capacity(learned.len());
        let mut leases = Vec::with_capacity(learned.len());
        for Learned { lease, done } in learned {
            leases.push(lease);
            waiting.push(done);
        }
        let outcomes = self.state.handle_leases(now, &leases);
        let changed = outcomes.iter().any(|outcome| outcome.changed);
        self.lease_file.answered(now, changed);
        waiting
    }

    /// Asks which addresses running connections use.
    fn look_for_used(&mut self) {
        let grace = self.state.lease_settings().grace;
        let leases = self.state.leases();
        let ending = &self.placing.ending;
        self.used.look(Instant::now(), grace, leases, ending);
    }

    /// Keeps the leases of addresses that running connections use.
    fn keep_used(&mut self, used: &BTreeSet<IpAddr>) {
        let now = Instant::now();
        let next = self.used.taken(now, self.state.lease_settings().grace);
        self.state.handle_in_use(now, used, next);
    }

    /// Answers a question. The client may have disconnected.
    fn reply(&mut self, ask: Ask) {
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

    /// Writes the leases and the identities for the next agent. Returns when they are written, and no verdict of a former
    /// policy is left. From then on this agent ends no flow: the next one does, by its own tables.
    pub fn keep_state(&mut self) {
        if let Err(error) = self.placing.judge_all_again(&mut self.state) {
            let error = format!("{error:#}");
            tracing::error!(
                error,
                "sockets of workloads that moved keep the verdicts of their former policy"
            );
        }
        self.placing.ending.end_no_more();
        self.lease_file.keep(&self.state);
        self.identity_file.keep(self.placing.workloads.pods());
    }

    /// The proxy's listening sockets.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.placing.workloads.listeners()
    }

    /// Waits until the drain has stopped the listeners, and closes them.
    pub async fn close_listeners(&mut self) {
        self.placing.workloads.namespaces().close().await;
    }

    /// Stops the redirects in every namespace: new flows that need the proxy are denied.
    pub fn close(&mut self) -> anyhow::Result<()> {
        self.placing.close()
    }

    /// Waits until the drain has ended all flows through the proxy.
    pub async fn drained(&mut self) {
        self.placing.workloads.namespaces().drained().await;
    }
}
