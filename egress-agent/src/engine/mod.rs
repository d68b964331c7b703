//! Drives the pure state machine: hands it rules, answers and time, and carries out what it asks
//! for: kernel writes, questions, and the proxy's snapshot. Decides nothing itself.

mod asking;
mod ending;
mod lease_file;
mod placing;
mod reloading;
mod ruling;
mod telling;

pub use ending::Ending;
pub use telling::{Ask, Facts, Noted};

use crate::config::{Config, Mode, OnRemoval, TrafficPolicy, UnlistedAddress};
use crate::dns::Resolver;
use crate::keeper::Canaries;
use crate::kernel::Tables;
use crate::observe::counters::Counters;
use crate::observe::families::Own;
use crate::observe::readiness::Board;
use crate::sources::RuleSet;
use crate::timer::until;
use crate::workloads::{Missed, Owners, Sharers, Workloads};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use asking::Questions;
use egress_core::policy::claims;
use egress_core::policy::diff::{Planner, TableOp};
use egress_core::policy::leases::LeaseSettings;
use egress_core::policy::naming::Names;
use egress_core::policy::state::{Settings, State};
use egress_core::routing::RouteTable;
use lease_file::LeaseFile;
use ruling::RulesFile;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// How long the first questions may take before the tables are written with what is known. Names
/// that answer later join then.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);
/// The same where no rule is in force yet: a resolver nearby answers all in one write.
const FIRST_ANSWERS_ALONE: Duration = Duration::from_millis(100);

/// What reaches a running engine from the rest of the agent, and where it says how far it is.
pub struct News {
    /// Questions.
    pub asks: mpsc::Receiver<Ask>,
    /// Configs that follow the first.
    pub configs: mpsc::Receiver<Config>,
    /// Notified when an enforced root came.
    pub came: Arc<Notify>,
    /// Readiness.
    pub board: Board,
    /// What is counted.
    pub counters: Counters,
    /// What the canaries must show.
    pub canaries: Canaries,
}

/// See the module.
pub struct Engine {
    state: State,
    tables: Tables,
    routes: Arc<ArcSwap<RouteTable>>,
    names: Arc<ArcSwap<Names>>,
    questions: Questions,
    lease_file: LeaseFile,
    rules_file: RulesFile,
    workloads: Workloads,
    /// A workload came, went or may have another policy.
    moved: bool,
    /// Objects of rules that are in force but were not announced: names in them are being asked.
    announce: Option<usize>,
    /// Raised with each new snapshot of the routes.
    changes: watch::Sender<u64>,
    ending: Ending,
    news: News,
    /// Cgroups whose flow found no proxy.
    missed: Missed,
    /// Until when the first answers are waited for; none once they are there.
    answers_until: Option<Instant>,
    /// Findings across the objects in force, once they are there.
    findings: Arc<OnceLock<Vec<String>>>,
    /// What is noted for `status`.
    noted: Noted,
}

impl Engine {
    /// Starts from what stands in the kernel's tables, which stay in force until [`Self::begin`].
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
            .context("reading the tables of the agent before this one")?;
        let standing = Planner::adopt(policies, ids).above(tables.highest_generation());
        let mut state = State::adopting(settings(config), standing);
        let owners = Owners::standing(&tables)?;
        Ok(Self {
            routes: Arc::new(ArcSwap::new(state.routes())),
            names: Arc::default(),
            state,
            tables,
            questions: Questions::new(resolver),
            lease_file: LeaseFile::beside(&config.admin_socket),
            rules_file: RulesFile::beside(&config.admin_socket),
            findings: Arc::default(),
            workloads: Workloads::new(config, roots, owners)?,
            moved: true,
            announce: None,
            changes: watch::channel(0).0,
            ending,
            news,
            missed: Missed::default(),
            answers_until: None,
            noted: Noted {
                mode: config.mode,
                ..Noted::default()
            },
        })
    }

    /// The proxy's view of the rules, replaced with each change.
    pub fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        Arc::clone(&self.routes)
    }

    /// Which hosts each address is known by, replaced with each change.
    pub fn names(&self) -> Arc<ArcSwap<Names>> {
        Arc::clone(&self.names)
    }

    /// Where to say which cgroups found no proxy.
    pub fn missed(&self) -> Missed {
        self.missed.clone()
    }

    /// Who shares the proxy as one.
    pub fn sharers(&self) -> Sharers {
        self.workloads.sharers()
    }

    /// Raised whenever [`Self::routes`] was replaced.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes the workloads that are there and the first rules: asks for every name in them and
    /// writes the tables. Where a previous agent's rules stand, they stay in force until each name
    /// has an answer or a failure, or time is up, so that nothing that both list is denied in
    /// between. Where nothing is listed yet, what is known is in force at once, and names join as
    /// they answer. Rules that the tables have no room for give way to those of the previous agent,
    /// or to none.
    pub async fn begin(&mut self, rules: &RuleSet) -> anyhow::Result<()> {
        let told = self.workloads.next().await?;
        self.hear(told);
        self.state.handle_rules(Instant::now(), &rules.objects);
        self.show(rules);
        self.restore_leases();
        self.ask();
        self.first_answers().await;
        // With all that is known in the new tables before they are looked at: what an agent before
        // this one let through is not refused in between.
        let plan = self.state.begin(Instant::now());
        match self.tables.fits(plan.ops()) {
            Ok(()) => {
                plan.commit();
                self.keep_rules(rules);
            }
            Err(full) => {
                drop(plan);
                self.give_way(rules, &full)?;
            }
        }
        let ops = self.state.poll_ops();
        self.carry_out(&ops)
    }

    /// Runs until something fails that the agent cannot go on without.
    pub async fn run(&mut self, mut rules: watch::Receiver<Arc<RuleSet>>) -> anyhow::Result<()> {
        rules.mark_unchanged();
        let mut following = true;
        loop {
            let due = self.state.poll_timeout();
            tokio::select! {
                changed = rules.changed(), if following => {
                    following = changed.is_ok();
                    if !following {
                        let problem = "the rule files are not followed any more: restart the agent";
                        tracing::error!(problem, "the last good rules stay in force");
                        self.noted.problem = Some(problem.to_owned());
                        continue;
                    }
                    let set = Arc::clone(&rules.borrow_and_update());
                    self.take(&set)?;
                    continue;
                }
                Some(ask) = self.news.asks.recv() => {
                    self.reply(ask);
                    continue;
                }
                told = self.workloads.next() => {
                    self.hear(told?);
                    self.news.board.poke();
                    let ops = self.state.poll_ops();
                    self.carry_out(&ops)?;
                    self.settle().await?;
                    continue;
                }
                Some(reply) = self.questions.reply() => {
                    self.answer(reply);
                    self.tell_of_answers();
                }
                () = until(self.lease_file.due()) => {
                    self.keep_leases();
                    continue;
                }
                () = until(due) => self.state.handle_timeout(Instant::now()),
                () = until(self.answers_until) => {
                    self.stop_waiting();
                    continue;
                }
                Some(config) = self.news.configs.recv() => {
                    self.reload(&config)?;
                    continue;
                }
                () = self.news.came.notified() => {
                    self.workloads.look_again();
                    continue;
                }
                cgroups = self.missed.next() => {
                    for cgroup in cgroups {
                        self.workloads.missed(cgroup);
                    }
                    continue;
                }
            }
            let ops = self.state.poll_ops();
            self.carry_out(&ops)?;
        }
    }

    /// The snapshot first: a flow that the kernel redirects by a new entry must find its route.
    fn carry_out(&mut self, ops: &[TableOp]) -> anyhow::Result<()> {
        self.publish();
        if !ops.is_empty() || self.moved {
            let left_out = self.write(ops)?;
            if left_out > 0 {
                self.news.counters.add(Own::LeftOut, left_out as u64);
                tracing::error!(
                    left_out,
                    "the table is full: addresses of listed names are left out and denied"
                );
            }
            tracing::debug!(
                writes = ops.len(),
                generation = self.state.generation(),
                "tables written"
            );
        }
        self.ask();
        if let Some(objects) = self.announce
            && self.state.unresolved().is_empty()
        {
            tracing::info!(
                objects,
                generation = self.state.generation(),
                "rules applied"
            );
            self.announce = None;
        }
        Ok(())
    }

    /// Hands the proxy the routes and owners as they are, and has running connections judged by them;
    /// and the log the names.
    fn publish(&mut self) {
        self.names.store(Arc::new(self.state.names()));
        let routes = self.state.routes();
        if !Arc::ptr_eq(&routes, &self.routes.load()) {
            self.routes.store(routes);
            self.changes.send_modify(|n| *n += 1);
        }
    }
}

/// What the state machine is told of the config.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        leases: LeaseSettings {
            min_ttl: config.dns.min_ttl,
            grace: config.dns.grace,
            allow_private_answers: config.allow_private_answers,
            private_answers: config.private_answers.clone(),
            ..LeaseSettings::default()
        },
        dns_servers: config.dns.servers.clone(),
        internal: config.internal.clone(),
        unlisted_address: match config.unlisted_address {
            UnlistedAddress::Refuse => claims::UnlistedAddress::Refuse,
            UnlistedAddress::ByName => claims::UnlistedAddress::ByName,
        },
        allow_any: config.outbound_traffic_policy == TrafficPolicy::AllowAny,
        audit: config.mode == Mode::Audit,
        deny_errno: config.deny_errno.number(),
        proxy_port: config.proxy_port,
        keep_removed: config.on_removal == OnRemoval::Keep,
        ..Settings::default()
    }
}
