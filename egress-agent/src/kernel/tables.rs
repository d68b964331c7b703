//! Writes the rule tables: applies the operations of the pure crate in their order.

use super::grace::Grace;
use super::outer::{Outer, View};
use super::pins::Pins;
use super::policies::PolicyWriter;
use super::rules::{NoRoom, Rules};
use crate::in_use::InUse;
use anyhow::Context as _;
use aya::maps::{HashMap, Map, MapData, MapError, SkStorage};
use egress_core::policy::diff::TableOp;
use egress_core::policy::room::Room;
use egress_ebpf::abi::{Owner, Policy, ProxyPort};
use egress_ebpf::ids::{CgroupId, Generation, NetnsCookie, PolicyId, TableId};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;

/// The maps that the agent writes.
pub struct Tables {
    policies: PolicyWriter,
    owners: HashMap<MapData, CgroupId, u64>,
    rules: Rules,
    proxies: HashMap<MapData, NetnsCookie, ProxyPort>,
    listeners: SkStorage<MapData, u32>,
    grace: Grace,
    /// Programs that run may have read a policy's former table, or a cgroup's former policy.
    switched: bool,
}

/// The kind of an operation. Neighbours of one kind are carried out together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Put,
    Delete,
    Other,
}

fn step(op: &TableOp) -> Step {
    match op {
        TableOp::Put(..) => Step::Put,
        TableOp::Delete(..) => Step::Delete,
        TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) | TableOp::DropTable(_) => Step::Other,
    }
}

impl Tables {
    /// Opens the pinned maps that the agent writes. The tables have room for `max_networks` networks.
    pub fn open(pins: &Pins, max_networks: u32) -> anyhow::Result<Self> {
        Self::of(|name| pins.map(name), max_networks)
    }

    /// The same with maps that `map` returns by name.
    pub fn of(
        mut map: impl FnMut(&str) -> anyhow::Result<Map>,
        max_networks: u32,
    ) -> anyhow::Result<Self> {
        let outer = Outer::of(&map("TABLES")?, &map("VACANT")?)?;
        Ok(Self {
            grace: outer
                .grace()
                .context("duplicating the descriptors of the tables")?,
            switched: false,
            policies: PolicyWriter::of(&map("POLICIES")?, map("GENERATION")?)?,
            owners: map("OWNERS")?.try_into()?,
            rules: Rules::of(outer, max_networks),
            proxies: map("PROXIES")?.try_into()?,
            listeners: map("LISTENERS")?.try_into()?,
        })
    }

    /// The policies that the previous agent left in the kernel, and their tables. Removes the unused tables
    /// that it finds in time; the others are overwritten when their id is used again.
    pub fn standing(&mut self) -> anyhow::Result<(BTreeMap<PolicyId, Policy>, BTreeSet<TableId>)> {
        let policies = self.policies.read().standing();
        let used: BTreeSet<TableId> = policies.values().map(|p| p.table).collect();
        if !used.is_empty() {
            for id in self.rules.outer().ids()?.difference(&used) {
                self.rules.drop_table(*id);
            }
            self.rules.settle()?;
        }
        Ok((policies, used))
    }

    /// The rule tables, for lookups from any thread.
    pub fn view(&self) -> View {
        self.rules.outer().view()
    }

    /// How full the tables are: single addresses, and networks. Does not count the tables of a previous
    /// agent.
    pub fn in_use(&self) -> [InUse; 2] {
        self.rules.in_use()
    }

    /// What all tables together have room for.
    pub fn room(&self) -> Room {
        self.rules.room()
    }

    /// Whether the tables have room for the entries that they have once all operations are carried out.
    /// The engine asks before the first write, so that it does not start a change that does not fit.
    pub fn fits(&self, ops: &[TableOp]) -> Result<(), NoRoom> {
        self.rules.fits(ops)
    }

    /// Notes the operations that are about to be applied, in one or more parts. Entries that they delete may
    /// exceed the limit until then.
    pub fn expect(&mut self, ops: &[TableOp]) {
        self.rules.expect(ops);
    }

    /// Applies operations in order. Returns how many insertions found no room. Stops at the first other
    /// error, so that no policy uses an incomplete table.
    pub fn apply(&mut self, ops: &[TableOp]) -> anyhow::Result<usize> {
        let mut left_out = 0;
        for run in ops.chunk_by(|a, b| step(a) == step(b)) {
            match step(&run[0]) {
                Step::Put => {
                    left_out += self.rules.put(run);
                    self.rules.settle()
                }
                Step::Delete => self.wait_for_readers().map(|()| self.rules.delete(run)),
                Step::Other => run.iter().try_for_each(|op| self.apply_other(op)),
            }
            .with_context(|| format!("applying {} operations like {:?}", run.len(), run[0]))?;
        }
        self.rules.put_left_out();
        self.rules.settle()?;
        Ok(left_out)
    }

    fn apply_other(&mut self, op: &TableOp) -> anyhow::Result<()> {
        match op {
            TableOp::SetPolicy(id, policy) => {
                let before = self.policies.read().get(*id);
                let differs = (before.table, before.flags) != (policy.table, policy.flags);
                self.switched |= differs && before.generation != Generation::NEVER;
                self.policies.set(*id, policy)?;
            }
            TableOp::DeletePolicy(id) => {
                self.wait_for_readers()?;
                self.policies.remove(*id);
            }
            TableOp::DropTable(id) => {
                self.wait_for_readers()?;
                self.rules.drop_table(*id);
            }
            TableOp::Put(..) | TableOp::Delete(..) => {}
        }
        Ok(())
    }

    /// Waits for the programs that may still use what no policy and no cgroup refers to any more. Without that, one of
    /// them could deny what the former and the present rules list.
    fn wait_for_readers(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.switched) {
            self.grace.wait()?;
        }
        Ok(())
    }

    /// The highest generation that a policy has had.
    pub fn highest_generation(&self) -> Generation {
        self.policies.highest()
    }

    /// For waits until running programs have ended.
    pub fn grace(&self) -> anyhow::Result<Grace> {
        let grace = self.rules.outer().grace();
        grace.context("duplicating the descriptors of the tables")
    }

    /// Allows the programs to redirect flows to this listening socket. They redirect to no other, so that no
    /// other process can take the proxy's place on its port.
    pub fn admit(&mut self, listener: &impl AsRawFd) -> anyhow::Result<()> {
        Ok(self.listeners.insert(listener, 1, 0)?)
    }

    /// Sets the agent's ports in a network namespace; `None` removes them.
    pub fn set_proxy(&mut self, netns: NetnsCookie, port: Option<ProxyPort>) -> anyhow::Result<()> {
        match port {
            Some(port) => self.proxies.insert(netns, port, 0)?,
            None => absent_is_fine(self.proxies.remove(&netns))?,
        }
        Ok(())
    }

    /// The agent's ports in a network namespace, or those of a previous agent.
    pub fn ports(&self, netns: NetnsCookie) -> Option<ProxyPort> {
        self.proxies.get(&netns, 0).ok()
    }

    /// The namespaces that have a proxy port.
    pub fn proxies(&self) -> anyhow::Result<BTreeSet<NetnsCookie>> {
        Ok(self.proxies.keys().collect::<Result<_, _>>()?)
    }

    /// Sets the policy of a cgroup and of those below it. With `None` they have the policy of the next owner
    /// above, or the default policy.
    pub fn set_owner(&mut self, cgroup: CgroupId, policy: Option<PolicyId>) -> anyhow::Result<()> {
        self.policies.unsettle()?;
        self.switched = true;
        match policy {
            Some(policy) => self
                .owners
                .insert(cgroup, Owner::entry(cgroup, policy), 0)
                .context("the table of owners is full, or cannot be written"),
            None => absent_is_fine(self.owners.remove(&cgroup)),
        }
    }

    /// Verdicts that sockets stored under policies that their cgroups left are judged again from here on.
    pub fn settle_owners(&mut self) -> anyhow::Result<()> {
        self.policies.settle()
    }

    /// The policies of which sockets may hold such verdicts because the agent that set an owner ended too early: all that
    /// stand.
    pub fn unsettled(&mut self) -> anyhow::Result<BTreeSet<PolicyId>> {
        if self.policies.were_unsettled()? {
            return Ok(self.policies.read().standing().into_keys().collect());
        }
        Ok(BTreeSet::new())
    }

    /// Every cgroup that has a policy of its own.
    pub fn owners(&self) -> anyhow::Result<BTreeMap<CgroupId, PolicyId>> {
        let entries = self.owners.iter();
        let policy = |(cgroup, entry)| (cgroup, Owner::policy(cgroup, entry));
        Ok(entries
            .map(|entry| entry.map(policy))
            .collect::<Result<_, _>>()?)
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
