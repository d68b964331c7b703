//! New rules and settings as a plan: what they write is known before anything is in force. A plan that
//! is not committed leaves the state as it was, and nothing was copied for that: a few changed rules
//! are changed back, and policies that were made anew give way to those that were put aside.

use super::State;
use super::policy::PolicyState;
use super::settings::Settings;
use crate::istio::Object;
use crate::policy::diff::{Mark, TableOp};
use crate::policy::naming::{Hosts, Needs};
use crate::registry::{Change, Touched, Update};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What is planned. Dropped, it is as if it had not been.
#[must_use = "a plan that is dropped changes nothing"]
#[derive(Debug)]
pub struct Plan<'a> {
    state: &'a mut State,
    now: Instant,
    ops: Vec<TableOp>,
    /// None once it is decided.
    back: Option<Back>,
}

/// What it takes to go back.
#[derive(Debug)]
struct Back {
    before: Before,
    registry: Option<Update>,
    settings: Option<Settings>,
    policies: Policies,
    needs: Needs,
}

/// How it was where a plan began.
#[derive(Debug)]
struct Before {
    planner: Mark,
    begun: bool,
    /// Writes that were not polled yet.
    ops: usize,
}

/// What a plan does to the policies.
#[derive(Debug)]
enum Policies {
    /// None is another.
    Kept,
    /// These parts of them are others.
    Amended(Touched),
    /// All were made anew.
    Rebuilt(Box<Aside>),
}

/// What gave way to policies that were made anew.
#[derive(Debug)]
struct Aside {
    policies: BTreeMap<u32, PolicyState>,
    hosts: Hosts,
    /// Policies of workloads.
    placed: BTreeMap<u64, u32>,
    next_id: u32,
    moved: bool,
    rebuilt: bool,
}

impl Plan<'_> {
    /// The writes, in their order; to be looked at before the plan is committed.
    pub fn ops(&self) -> &[TableOp] {
        &self.ops
    }

    /// Puts it in force: [`State::poll_ops`] gives the writes, and names are asked for and
    /// forgotten.
    pub fn commit(mut self) {
        let Some(back) = self.back.take() else {
            return;
        };
        let state = &mut *self.state;
        state.planner.keep();
        if back.settings.is_some() {
            state.leases.set(state.settings.leases.clone());
        }
        state.ops.extend(std::mem::take(&mut self.ops));
        state.want(self.now, &back.needs);
        state.handle_timeout(self.now);
    }
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            self.state.go_back(back);
        }
    }
}

impl State {
    /// Plans a whole new set of resources; see [`Self::handle_rules`].
    pub fn plan_rules(&mut self, now: Instant, objects: &[Arc<Object>]) -> Plan<'_> {
        let before = self.before();
        let update = self.registry.update(objects);
        let (policies, needs) = match &update.change {
            Change::Some(touched) if !self.policies.is_empty() => {
                let needs = self.amend(touched);
                (Policies::Amended(touched.clone()), needs)
            }
            Change::Some(_) | Change::Everything => self.plan_anew(),
        };
        self.planned(now, before, Some(update), None, policies, needs)
    }

    /// Plans other settings: every policy is made anew from them. Leases keep the addresses that
    /// they have.
    pub fn plan_settings(&mut self, now: Instant, settings: Settings) -> Plan<'_> {
        let before = self.before();
        let held = std::mem::replace(&mut self.settings, settings);
        let (policies, needs) = self.plan_anew();
        self.planned(now, before, None, Some(held), policies, needs)
    }

    /// Plans what was gathered since [`Self::adopting`]: tables that were filled while names were
    /// asked for the first time become visible whole, in the place of what is in the kernel.
    pub fn begin(&mut self, now: Instant) -> Plan<'_> {
        let before = self.before();
        self.begun = true;
        self.replace();
        self.planned(now, before, None, None, Policies::Kept, Needs::default())
    }

    /// Makes every policy anew and puts the former ones aside.
    fn plan_anew(&mut self) -> (Policies, Needs) {
        let placed = self.workloads.iter();
        let mut aside = Aside {
            policies: BTreeMap::new(),
            hosts: self.hosts.clone(),
            placed: placed.map(|(id, (_, policy))| (*id, *policy)).collect(),
            next_id: self.next_id,
            moved: self.moved,
            rebuilt: self.rebuilt,
        };
        let (policies, needs) = self.rebuild();
        aside.policies = policies;
        (Policies::Rebuilt(Box::new(aside)), needs)
    }

    fn planned(
        &mut self,
        now: Instant,
        before: Before,
        registry: Option<Update>,
        settings: Option<Settings>,
        policies: Policies,
        needs: Needs,
    ) -> Plan<'_> {
        let back = Back {
            before,
            registry,
            settings,
            policies,
            needs,
        };
        Plan {
            now,
            ops: self.ops.split_off(back.before.ops).into(),
            back: Some(back),
            state: self,
        }
    }

    fn before(&mut self) -> Before {
        Before {
            planner: self.planner.mark(),
            begun: self.begun,
            ops: self.ops.len(),
        }
    }

    fn go_back(&mut self, back: Back) {
        self.planner.go_back(back.before.planner);
        self.begun = back.before.begun;
        if let Some(settings) = back.settings {
            self.settings = settings;
        }
        if let Some(update) = back.registry {
            self.registry.go_back(update);
        }
        match back.policies {
            Policies::Kept => {}
            Policies::Amended(touched) => drop(self.look_anew(&touched)),
            Policies::Rebuilt(aside) => {
                self.policies = aside.policies;
                self.hosts = aside.hosts;
                for (id, policy) in aside.placed {
                    if let Some((_, held)) = self.workloads.get_mut(&id) {
                        *held = policy;
                    }
                }
                self.next_id = aside.next_id;
                self.moved = aside.moved;
                self.rebuilt = aside.rebuilt;
            }
        }
    }
}
