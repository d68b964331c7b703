//! New rules and settings as a plan: its writes are known before anything is in force. A plan that is dropped restores
//! the state: it undoes the rule changes, and puts the former policies back, which share unchanged parts with the
//! changed ones.

use super::State;
use super::grouping::Regrouped;
use super::policy::PolicyState;
use super::settings::Settings;
use crate::istio::Object;
use crate::policy::diff::{Mark, TableOp};
use crate::policy::naming::{Hosts, Needs};
use crate::policy::room::TooMany;
use crate::policy::tables::Delta;
use crate::registry::touched::Touched;
use crate::registry::update::{Change, Update};
use crate::registry::view::Made;
use egress_ebpf::ids::{CgroupId, PolicyId};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A plan. If it is dropped, nothing changes.
#[must_use = "a plan that is dropped changes nothing"]
#[derive(Debug)]
pub struct Plan<'a> {
    state: &'a mut State,
    now: Instant,
    ops: Vec<TableOp>,
    fits: Result<(), TooMany>,
    work: Work,
    /// `None` once the plan is committed or dropped.
    back: Option<Back>,
}

/// What is needed to undo the plan.
#[derive(Debug)]
struct Back {
    before: Before,
    registry: Option<Update>,
    settings: Option<Settings>,
    aside: Option<Box<Aside>>,
    needs: Needs,
}

/// The state at the beginning of the plan.
#[derive(Debug)]
struct Before {
    planner: Mark,
    begun: bool,
    /// Writes that were not polled yet.
    ops: usize,
}

/// What the plan replaced.
#[derive(Debug)]
struct Aside {
    /// The former versions of policies that ended, changed or were rebuilt.
    policies: BTreeMap<PolicyId, PolicyState>,
    /// Policies that were made.
    made: Vec<PolicyId>,
    hosts: Hosts,
    /// Workloads that moved, with their former policies.
    moved: Vec<(CgroupId, PolicyId)>,
    next_id: PolicyId,
    was_moved: bool,
    was_rebuilt: bool,
}

/// How much a plan looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Policies in which something was planned.
    pub policies: usize,
    /// Services that were planned, once for each of these policies.
    pub services: usize,
}

/// What is being planned.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) work: Work,
    fits: Result<(), TooMany>,
    pub(super) needs: Needs,
    aside: Option<Box<Aside>>,
}

impl Default for Planned {
    fn default() -> Self {
        Self {
            work: Work::default(),
            fits: Ok(()),
            needs: Needs::default(),
            aside: None,
        }
    }
}

impl Plan<'_> {
    /// Whether the tables have room for the entries. If not, there are no writes, and [`Self::commit`] changes nothing.
    ///
    /// # Errors
    /// There are more entries than the planner's room.
    pub fn fits(&self) -> Result<(), TooMany> {
        self.fits
    }

    /// The writes, in order. Check them before you commit the plan.
    pub fn ops(&self) -> &[TableOp] {
        &self.ops
    }

    /// The work that the plan took.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Puts it in force: [`State::poll_ops`] gives the writes, and names are asked for and
    /// forgotten.
    pub fn commit(mut self) {
        if self.fits.is_err() {
            return;
        }
        let Some(back) = self.back.take() else {
            return;
        };
        let state = &mut *self.state;
        state.planner.keep();
        if state.begun {
            state.owned_before.clear();
        }
        state.ops.extend(std::mem::take(&mut self.ops));
        if back.settings.is_some() {
            let refused = state.leases.set(self.now, state.settings.leases.clone());
            state.relocate(&refused);
            state.leases.sweep(&refused);
        }
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
        self.plan_update(now, before, update)
    }

    /// As [`Self::plan_rules`], for a caller that knows which objects were added and removed. Objects that stay cost
    /// nothing.
    pub fn plan_change(
        &mut self,
        now: Instant,
        added: &[Arc<Object>],
        gone: &[Arc<Object>],
    ) -> Plan<'_> {
        let before = self.before();
        let update = self.registry.change(added, gone);
        self.plan_update(now, before, update)
    }

    fn plan_update(&mut self, now: Instant, before: Before, update: Update) -> Plan<'_> {
        let planned = match &update.change {
            Change::Some(touched) if !self.policies.is_empty() => self.amend(touched),
            Change::Some(_) | Change::Everything => self.plan_anew(),
        };
        self.planned(now, before, Some(update), None, planned)
    }

    /// Plans other settings: every policy is rebuilt. Leases keep the addresses that the settings accept.
    pub fn plan_settings(&mut self, now: Instant, settings: Settings) -> Plan<'_> {
        let before = self.before();
        let held = std::mem::replace(&mut self.settings, settings);
        let planned = self.plan_anew();
        self.planned(now, before, None, Some(held), planned)
    }

    /// Plans other internal ranges: only their entries change in each policy.
    pub fn plan_internal(&mut self, now: Instant, internal: Vec<IpNet>) -> Plan<'_> {
        let before = self.before();
        let mut aside = self.aside();
        let mut planned = Planned::default();
        let mut changes = BTreeMap::new();
        let held = self.settings.clone();
        self.settings.internal = internal;
        for (id, policy) in &mut self.policies {
            aside.policies.insert(*id, policy.clone());
            changes.insert(*id, policy.pass(&held, &self.settings));
        }
        planned.work.policies = self.policies.len();
        if self.begun {
            self.ops.extend(self.planner.amend(&changes));
        }
        planned.aside = Some(Box::new(aside));
        self.planned(now, before, None, Some(held), planned)
    }

    /// Plans the first tables after [`Self::adopting`]. They were filled during the first DNS queries, and replace the
    /// kernel's content as a whole.
    pub fn begin(&mut self, now: Instant) -> Plan<'_> {
        let before = self.before();
        let mut planned = Planned::default();
        self.take_over(&mut planned.needs);
        self.begun = true;
        planned.fits = self.replace();
        self.planned(now, before, None, None, planned)
    }

    /// Plans an update in the policies that see it, and for workloads whose scope changes.
    fn amend(&mut self, touched: &Touched) -> Planned {
        let mut planned = Planned::default();
        let mut aside = self.aside();
        let groups = if touched.scopes.is_empty() {
            Regrouped::default()
        } else {
            self.regroup(|workload, _| touched.scopes.concerns(workload))
        };
        for id in groups.made.keys().chain(&groups.ended) {
            aside.policies.extend(self.close(*id, &mut planned.needs));
        }
        let changes = self.look_anew(touched, &mut planned, &mut aside);
        planned.work.policies += groups.made.len();
        aside.made = groups.made.keys().copied().collect();
        let made = self.make(groups.made, &mut planned.needs);
        let services = aside.made.iter().filter_map(|id| self.policies.get(id));
        planned.work.services += services.map(|p| p.view.services.len()).sum::<usize>();
        if self.begun {
            self.ops.extend(self.planner.amend(&changes));
            planned.fits = self.planner.room_for(&made, &groups.ended);
            if planned.fits.is_ok() {
                let ops = self.planner.make(made, &groups.ended);
                self.ops.extend(ops);
            }
        }
        aside.moved = groups.moved;
        planned.aside = Some(Box::new(aside));
        planned
    }

    /// Applies an update of the registry to the policies that see it.
    fn look_anew(
        &mut self,
        touched: &Touched,
        planned: &mut Planned,
        aside: &mut Aside,
    ) -> BTreeMap<PolicyId, Delta> {
        let mut changes = BTreeMap::new();
        let mut made = Made::default();
        for (id, policy) in &mut self.policies {
            let before = policy.clone();
            let looked = policy.view.update(&self.registry, touched, &mut made);
            if looked.services.is_empty() && looked.plans.is_empty() {
                continue;
            }
            aside.policies.insert(*id, before);
            planned.work.policies += 1;
            planned.work.services += looked.plans.len();
            let (view, needs) = (&policy.view, &mut planned.needs);
            self.hosts.change(*id, view, &looked.services, needs);
            let unlisted = self.settings.unlisted_address;
            let delta = policy.replan(looked.plans, &self.leases, unlisted);
            changes.insert(*id, delta);
        }
        changes
    }

    /// Rebuilds every policy and puts the former ones aside.
    fn plan_anew(&mut self) -> Planned {
        let mut aside = self.aside();
        let mut planned = Planned::default();
        let groups = self.regroup(|_, _| true);
        let hosts = Hosts::new(self.settings.unlisted_address);
        let hosts = std::mem::replace(&mut self.hosts, hosts);
        planned.needs.fewer.extend(hosts.needed().cloned());
        aside.policies = std::mem::take(&mut self.policies);
        let mut kinds = groups.made;
        for (id, policy) in &aside.policies {
            if !groups.ended.contains(id) {
                kinds.entry(*id).or_insert_with(|| policy.kind());
            }
        }
        aside.made = kinds.keys().copied().collect();
        for (id, kind) in kinds {
            self.open(id, kind, &mut planned.needs);
        }
        planned.fits = self.replace();
        let all = self.policies.values();
        planned.work = Work {
            policies: self.policies.len(),
            services: all.map(|p| p.view.services.len()).sum(),
        };
        aside.moved = groups.moved;
        planned.aside = Some(Box::new(aside));
        planned
    }

    /// An empty record of what the plan replaces.
    fn aside(&self) -> Aside {
        Aside {
            policies: BTreeMap::new(),
            made: Vec::new(),
            hosts: self.hosts.clone(),
            moved: Vec::new(),
            next_id: self.next_id,
            was_moved: self.moved,
            was_rebuilt: self.rebuilt,
        }
    }

    fn planned(
        &mut self,
        now: Instant,
        before: Before,
        registry: Option<Update>,
        settings: Option<Settings>,
        planned: Planned,
    ) -> Plan<'_> {
        let back = Back {
            before,
            registry,
            settings,
            aside: planned.aside,
            needs: planned.needs,
        };
        Plan {
            now,
            ops: self.ops.split_off(back.before.ops),
            fits: planned.fits,
            work: planned.work,
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
        let Some(aside) = back.aside else {
            return;
        };
        let aside = *aside;
        for id in &aside.made {
            self.policies.remove(id);
        }
        self.policies.extend(aside.policies);
        self.hosts = aside.hosts;
        for (id, policy) in aside.moved {
            if let Some((_, held)) = self.workloads.get_mut(&id) {
                *held = policy;
            }
        }
        self.next_id = aside.next_id;
        self.moved = aside.was_moved;
        self.rebuilt = aside.was_rebuilt;
    }
}
