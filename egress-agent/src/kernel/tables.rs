//! Writes the rule tables: applies the pure crate's operations, in their order.

use super::bulk::{Bulk, Room};
use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, SkStorage};
use egress_core::policy::diff::TableOp;
use egress_ebpf::abi::{FlowKey, FlowOrigin, Policy, PrefixData, ProxyPort, Rule, RuleKey};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::os::fd::AsRawFd;

/// The maps that the agent writes.
pub struct Tables {
    policies: Array<MapData, Policy>,
    owners: HashMap<MapData, u64, u32>,
    rules: HashMap<MapData, RuleKey, Rule>,
    prefixes: LpmTrie<MapData, PrefixData, Rule>,
    proxies: HashMap<MapData, u64, ProxyPort>,
    flows: HashMap<MapData, FlowKey, FlowOrigin>,
    listeners: SkStorage<MapData, u32>,
    exact: Bulk,
    ranges: Bulk,
}

/// Operations that the maps have no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} entries of {what} at one time, the table has room for {limit}")]
pub struct NoRoom {
    what: &'static str,
    needed: usize,
    limit: usize,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name} in the object"))
        };
        let (rules, prefixes) = (map("RULES")?, map("PREFIXES")?);
        let (Map::HashMap(exact), Map::LpmTrie(ranges)) = (&rules, &prefixes) else {
            anyhow::bail!("the rule tables are maps of another kind");
        };
        let (exact, ranges) = (Bulk::of(exact)?, Bulk::of(ranges)?);
        Ok(Self {
            policies: map("POLICIES")?.try_into()?,
            owners: map("OWNERS")?.try_into()?,
            rules: rules.try_into()?,
            prefixes: prefixes.try_into()?,
            proxies: map("PROXIES")?.try_into()?,
            flows: map("FLOWS")?.try_into()?,
            listeners: map("LISTENERS")?.try_into()?,
            exact,
            ranges,
        })
    }

    /// The policies that stand in the kernel, and every table id that has an entry: what an agent
    /// before this one left.
    pub fn standing(&mut self) -> anyhow::Result<(BTreeMap<u32, Policy>, BTreeSet<u32>)> {
        let mut policies = BTreeMap::new();
        for id in 0..self.policies.len() {
            let policy = self.policies.get(&id, 0)?;
            if policy.generation != 0 {
                policies.insert(id, policy);
            }
        }
        let mut tables = BTreeSet::new();
        let mut used = (0, 0);
        for key in self.rules.keys() {
            tables.insert(key?.table);
            used.0 += 1;
        }
        for key in self.prefixes.keys() {
            tables.insert(key?.data().table);
            used.1 += 1;
        }
        self.exact.recount(used.0);
        self.ranges.recount(used.1);
        Ok((policies, tables))
    }

    /// How full the exact table and the prefix table are.
    pub fn room(&self) -> (Room, Room) {
        (self.exact.room(), self.ranges.room())
    }

    /// Whether there is room for every insertion at its time, old entries beside new ones until
    /// they are deleted. Asked before the first write, so that a table that does not fit is never
    /// begun.
    pub fn fits(&mut self, ops: &[TableOp]) -> Result<(), NoRoom> {
        if self.room_for(ops).is_err() {
            // An overwritten entry was counted twice: only a true count may refuse.
            self.exact.recount(self.rules.keys().count());
            self.ranges.recount(self.prefixes.keys().count());
        }
        self.room_for(ops)
    }

    fn room_for(&self, ops: &[TableOp]) -> Result<(), NoRoom> {
        let (mut exact, mut ranges) = (self.exact.room(), self.ranges.room());
        let (mut most_exact, mut most_ranges) = (exact.used, ranges.used);
        for op in ops {
            match op {
                TableOp::PutExact(..) => exact.used += 1,
                TableOp::DeleteExact(_) => exact.used = exact.used.saturating_sub(1),
                TableOp::PutPrefix { .. } => ranges.used += 1,
                TableOp::DeletePrefix { .. } => ranges.used = ranges.used.saturating_sub(1),
                TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) | TableOp::DropTable(_) => {}
            }
            most_exact = most_exact.max(exact.used);
            most_ranges = most_ranges.max(ranges.used);
        }
        for (what, needed, limit) in [
            ("single addresses", most_exact, exact.limit),
            ("networks", most_ranges, ranges.limit),
        ] {
            if needed > limit {
                return Err(NoRoom {
                    what,
                    needed,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Applies operations in order, and returns how many insertions found no room. At the first
    /// error of another kind the rest is not applied, so that no policy comes to see a table that
    /// is not whole.
    pub fn apply(&mut self, ops: &[TableOp]) -> anyhow::Result<usize> {
        let mut left_out = 0;
        for run in ops.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
            left_out += self
                .apply_run(run)
                .with_context(|| format!("applying {} operations like {:?}", run.len(), run[0]))?;
        }
        Ok(left_out)
    }

    /// Operations of one kind. Each list below takes all of them or none.
    fn apply_run(&mut self, run: &[TableOp]) -> anyhow::Result<usize> {
        let (mut keys, mut rules, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let (mut nets, mut nets_gone) = (Vec::new(), Vec::new());
        for op in run {
            match op {
                TableOp::PutExact(key, rule) => {
                    keys.push(*key);
                    rules.push(*rule);
                }
                TableOp::DeleteExact(key) => gone.push(*key),
                TableOp::PutPrefix { bits, data, rule } => {
                    nets.push(Key::new(*bits, *data));
                    rules.push(*rule);
                }
                TableOp::DeletePrefix { bits, data } => nets_gone.push(Key::new(*bits, *data)),
                TableOp::SetPolicy(id, policy) => self.set_policy(*id, policy)?,
                TableOp::DeletePolicy(id) => self.policies.set(*id, Policy::default(), 0)?,
                TableOp::DropTable(id) => self.drop_table(*id)?,
            }
        }
        let left_out = self.exact.put(&keys, &rules)? + self.ranges.put(&nets, &rules)?;
        self.exact.delete(&gone)?;
        self.ranges.delete(&nets_gone)?;
        Ok(left_out)
    }

    /// In two writes: the table under the old generation, then the generation. A program between
    /// them caches the new verdict under the old generation, which is judged once more; the other
    /// way round it could keep an old verdict for good.
    fn set_policy(&mut self, id: u32, policy: &Policy) -> anyhow::Result<()> {
        let before = self.policies.get(&id, 0)?;
        if before.generation != 0 {
            self.policies.set(
                id,
                Policy {
                    generation: before.generation,
                    ..*policy
                },
                0,
            )?;
        }
        Ok(self.policies.set(id, *policy, 0)?)
    }

    fn drop_table(&mut self, id: u32) -> anyhow::Result<()> {
        let of = |table: u32| table == id;
        let exact: Result<Vec<_>, _> = self
            .rules
            .keys()
            .filter(|k| k.as_ref().map_or(true, |k| of(k.table)))
            .collect();
        self.exact.delete(&exact?)?;
        let nets = self.prefixes.keys();
        let nets: Result<Vec<_>, _> = nets
            .filter(|k| k.as_ref().map_or(true, |k| of(k.data().table)))
            .collect();
        self.ranges.delete(&nets?)
    }

    /// Lets flows be redirected to this listening socket: the kernel redirects to no other, so
    /// that nobody can take the proxy's place on its port.
    pub fn admit(&mut self, listener: &impl AsRawFd) -> anyhow::Result<()> {
        Ok(self.listeners.insert(listener, 1, 0)?)
    }

    /// Says where the proxy listens in a network namespace; `None` takes it back.
    pub fn set_proxy(&mut self, netns: u64, port: Option<u16>) -> anyhow::Result<()> {
        match port {
            Some(port) => self.proxies.insert(
                netns,
                ProxyPort {
                    port,
                    reserved: [0; 6],
                },
                0,
            )?,
            None => absent_is_fine(self.proxies.remove(&netns))?,
        }
        Ok(())
    }

    /// The namespaces (by cookie) for which a proxy's port stands.
    pub fn proxies(&self) -> anyhow::Result<BTreeSet<u64>> {
        Ok(self.proxies.keys().collect::<Result<_, _>>()?)
    }

    /// Puts the sockets of a cgroup, and of those below it, under a policy; `None` leaves them to
    /// the next owner above, and in the end to the default.
    pub fn set_owner(&mut self, cgroup: u64, policy: Option<u32>) -> anyhow::Result<()> {
        match policy {
            Some(policy) => self
                .owners
                .insert(cgroup, policy, 0)
                .context("the table of owners is full, or cannot be written"),
            None => absent_is_fine(self.owners.remove(&cgroup)),
        }
    }

    /// Every cgroup that stands under a policy of its own.
    pub fn owners(&self) -> anyhow::Result<BTreeMap<u64, u32>> {
        Ok(self.owners.iter().collect::<Result<_, _>>()?)
    }

    /// Flows between their SYN and the end of the handshake.
    pub fn open_handshakes(&self) -> usize {
        self.flows.keys().count()
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
