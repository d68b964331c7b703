//! Writes the rule tables: applies the pure crate's operations, in their order.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, SkStorage};
use egress_core::policy::diff::TableOp;
use egress_ebpf::abi::{FlowKey, FlowOrigin, Policy, PrefixData, ProxyPort, Rule, RuleKey};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;

/// The maps that the agent writes.
pub struct Tables {
    policies: Array<MapData, Policy>,
    rules: HashMap<MapData, RuleKey, Rule>,
    prefixes: LpmTrie<MapData, PrefixData, Rule>,
    proxies: HashMap<MapData, u64, ProxyPort>,
    flows: HashMap<MapData, FlowKey, FlowOrigin>,
    listeners: SkStorage<MapData, u32>,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name} in the object"))
        };
        Ok(Self {
            policies: map("POLICIES")?.try_into()?,
            rules: map("RULES")?.try_into()?,
            prefixes: map("PREFIXES")?.try_into()?,
            proxies: map("PROXIES")?.try_into()?,
            flows: map("FLOWS")?.try_into()?,
            listeners: map("LISTENERS")?.try_into()?,
        })
    }

    /// The policies that stand in the kernel, and every table id that has an entry: what an agent
    /// before this one left.
    pub fn standing(&self) -> anyhow::Result<(BTreeMap<u32, Policy>, BTreeSet<u32>)> {
        let mut policies = BTreeMap::new();
        for id in 0..self.policies.len() {
            let policy = self.policies.get(&id, 0)?;
            if policy.generation != 0 {
                policies.insert(id, policy);
            }
        }
        let mut tables = BTreeSet::new();
        for key in self.rules.keys() {
            tables.insert(key?.table);
        }
        for key in self.prefixes.keys() {
            tables.insert(key?.data().table);
        }
        Ok((policies, tables))
    }

    /// Applies operations in order. At the first error the rest is not applied, so that no policy
    /// comes to see a table that is not whole.
    pub fn apply(&mut self, ops: &[TableOp]) -> anyhow::Result<()> {
        ops.iter().try_for_each(|op| {
            self.apply_one(op)
                .with_context(|| format!("applying {op:?}"))
        })
    }

    fn apply_one(&mut self, op: &TableOp) -> anyhow::Result<()> {
        match op {
            TableOp::PutExact(key, rule) => self.rules.insert(key, rule, 0).map_err(full)?,
            TableOp::DeleteExact(key) => absent_is_fine(self.rules.remove(key))?,
            TableOp::PutPrefix { bits, data, rule } => {
                self.prefixes
                    .insert(&Key::new(*bits, *data), rule, 0)
                    .map_err(full)?;
            }
            TableOp::DeletePrefix { bits, data } => {
                absent_is_fine(self.prefixes.remove(&Key::new(*bits, *data)))?;
            }
            TableOp::SetPolicy(id, policy) => self.set_policy(*id, policy)?,
            TableOp::DeletePolicy(id) => self.policies.set(*id, Policy::default(), 0)?,
            TableOp::DropTable(id) => self.drop_table(*id)?,
        }
        Ok(())
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
        let exact: Vec<_> = self
            .rules
            .keys()
            .filter(|k| k.as_ref().is_ok_and(|k| k.table == id))
            .collect();
        for key in exact {
            absent_is_fine(self.rules.remove(&key?))?;
        }
        let prefixes: Vec<_> = self
            .prefixes
            .keys()
            .filter(|k| k.as_ref().is_ok_and(|k| k.data().table == id))
            .collect();
        for key in prefixes {
            absent_is_fine(self.prefixes.remove(&key?))?;
        }
        Ok(())
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

/// The kernel says E2BIG (hash) or ENOSPC (trie) for a map at its limit.
fn full(error: MapError) -> anyhow::Error {
    let code = match &error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    };
    let full = matches!(code, Some(libc::E2BIG | libc::ENOSPC));
    let error = anyhow::Error::new(error);
    if full {
        error.context("the table is full; what is not in it is refused")
    } else {
        error
    }
}
