//! Drives the pure state machine: gives it rules, answers and time, and carries out what it asks for
//! (kernel writes, DNS questions, snapshots for other tasks). Decides nothing itself.
//!
//! Each thing that happens is one `Input`. After each input the engine carries out everything that the
//! state machine asks for.

mod ahead;
mod asker;
mod changes;
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
use crate::dns::Resolver;
use crate::kernel::{Tables, random};
use crate::observe::families::Own;
use crate::observe::histogram::Timing;
use crate::timer::until;
use crate::workloads::{Owners, Sharers, Workloads};
use anyhow::Context as _;
use egress_core::policy::diff::Planner;
use egress_core::policy::state::State;
use first_answers::FirstAnswers;
use identity_file::IdentityFile;
use in_force::InForce;
use input::{Input, Rules};
use internal::Internal;
use lease_file::LeaseFile;
use placing::Placing;
use questions::Questions;
use shown::Shown;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
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
        self.news.learn_no_more();
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
