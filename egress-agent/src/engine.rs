//! Drives the pure state machine: hands it rules, answers and time, and carries out what it asks
//! for: kernel writes, questions, and the proxy's snapshot. Decides nothing itself.

use crate::config::{Config, TrafficPolicy};
use crate::dns::Resolver;
use crate::kernel::{Events, Tables};
use crate::observe::cgroups::CgroupPaths;
use crate::observe::deny::Denial;
use crate::sources::RuleSet;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use egress_core::policy::diff::Planner;
use egress_core::policy::leases::{Answer, Failure, LeaseSettings};
use egress_core::policy::state::{Settings, State};
use egress_core::policy::tables::Transport;
use egress_core::routing::RouteTable;
use egress_ebpf::abi::{DEFAULT_POLICY, DenyEvent, NO_POLICY, proto};
use std::collections::BTreeSet;
use std::future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How long the first questions may take before the tables are written with what is known. Names
/// that answer later join then.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// A question that came back.
struct Reply {
    name: Arc<str>,
    result: Result<Answer, Failure>,
}

/// See the module.
pub struct Engine {
    state: State,
    tables: Tables,
    resolver: Arc<Resolver>,
    routes: Arc<ArcSwap<RouteTable>>,
    replies: mpsc::UnboundedSender<Reply>,
    inbox: mpsc::UnboundedReceiver<Reply>,
    cgroups: CgroupPaths,
    ignored: BTreeSet<u64>,
    /// Objects of rules that are in force but were not announced: names in them are being asked.
    announce: Option<usize>,
}

impl Engine {
    /// Starts from what stands in the kernel's tables, which stay in force until [`Self::begin`].
    pub fn new(config: &Config, tables: Tables, resolver: Resolver) -> anyhow::Result<Self> {
        let (policies, ids) = tables
            .standing()
            .context("reading the tables of the agent before this one")?;
        let mut state = State::adopting(settings(config), Planner::adopt(policies, ids));
        let (replies, inbox) = mpsc::unbounded_channel();
        Ok(Self {
            routes: Arc::new(ArcSwap::new(state.routes())),
            state,
            tables,
            resolver: Arc::new(resolver),
            replies,
            inbox,
            cgroups: CgroupPaths::new()?,
            ignored: BTreeSet::new(),
            announce: None,
        })
    }

    /// The proxy's view of the rules, replaced with each change.
    pub fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        Arc::clone(&self.routes)
    }

    /// The tables, for what is not a rule: where the proxy listens.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Refusals in this cgroup are the agent's own canary and are not reported.
    pub fn ignore(&mut self, cgroup: u64) {
        self.ignored.insert(cgroup);
    }

    /// Takes the first rules: asks for every name in them, and writes the tables once each has an
    /// answer or a failure, or time is up.
    pub async fn begin(&mut self, rules: &RuleSet) -> anyhow::Result<()> {
        self.state.handle_rules(Instant::now(), &rules.objects);
        self.ask();
        let deadline = tokio::time::Instant::now() + FIRST_ANSWERS;
        while !self.state.unresolved().is_empty() {
            let Ok(Some(reply)) = tokio::time::timeout_at(deadline, self.inbox.recv()).await else {
                let names = self.state.unresolved().join(", ");
                tracing::warn!(names, "not resolved yet; refused until they are");
                break;
            };
            self.answer(reply);
        }
        self.carry_out()
    }

    /// Runs until something fails that the agent cannot go on without.
    pub async fn run(
        &mut self,
        mut rules: watch::Receiver<Arc<RuleSet>>,
        mut events: Events,
    ) -> anyhow::Result<()> {
        rules.mark_unchanged();
        let mut following = true;
        loop {
            let due = self.state.poll_timeout();
            tokio::select! {
                changed = rules.changed(), if following => {
                    // Without its source the last rules stay in force.
                    following = changed.is_ok();
                    let set = Arc::clone(&rules.borrow_and_update());
                    self.state.handle_rules(Instant::now(), &set.objects);
                    self.announce = Some(set.objects.len());
                }
                Some(reply) = self.inbox.recv() => self.answer(reply),
                () = until(due) => self.state.handle_timeout(Instant::now()),
                batch = events.next() => {
                    for event in batch.context("reading the kernel's events")? {
                        self.report(&event);
                    }
                    continue;
                }
            }
            self.carry_out()?;
        }
    }

    fn answer(&mut self, Reply { name, result }: Reply) {
        if let Err(failure) = &result {
            tracing::warn!(%name, %failure, "no answer; the addresses known stay listed");
        }
        let outcome = self.state.handle_answer(Instant::now(), &name, result);
        if !outcome.refused.is_empty() {
            let addresses = join(&outcome.refused);
            tracing::warn!(%name, addresses, "answer with addresses that are not public: left out (--allow-private-answers takes them)");
        }
        if outcome.left_out > 0 {
            tracing::warn!(%name, left_out = outcome.left_out, "more addresses than one name may hold");
        }
    }

    /// The snapshot first: a flow that the kernel redirects by a new entry must find its route.
    fn carry_out(&mut self) -> anyhow::Result<()> {
        self.routes.store(self.state.routes());
        let ops = self.state.poll_ops();
        if !ops.is_empty() {
            self.tables.apply(&ops)?;
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

    fn ask(&mut self) {
        while let Some(query) = self.state.poll_query() {
            let (resolver, replies) = (Arc::clone(&self.resolver), self.replies.clone());
            tokio::spawn(async move {
                let result = resolver.resolve(&query.name).await;
                // The receiver is gone only when the agent ends.
                let _ = replies.send(Reply {
                    name: query.name,
                    result,
                });
            });
        }
    }

    fn report(&mut self, event: &DenyEvent) {
        if self.ignored.contains(&event.cgroup) {
            return;
        }
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
        Denial::of(event, &mut self.cgroups).log(&names, nearest.as_deref());
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        leases: LeaseSettings {
            min_ttl: config.dns.min_ttl,
            grace: config.dns.grace,
            allow_private_answers: config.allow_private_answers,
            ..LeaseSettings::default()
        },
        dns_servers: config.dns.servers.clone(),
        internal: config.internal.clone(),
        allow_any: config.outbound_traffic_policy == TrafficPolicy::AllowAny,
        ..Settings::default()
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => future::pending().await,
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
