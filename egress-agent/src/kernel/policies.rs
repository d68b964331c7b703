//! The kernel's policies, each one word that a program reads at once, the highest generation that any policy has had, and
//! whether sockets may hold verdicts of a policy that their cgroup has left.

use super::mapped::Mapped;
use super::pins::Pins;
use anyhow::Context as _;
use aya::maps::{Array, Map, MapData};
use egress_ebpf::abi::{MAX_POLICIES, Policy};
use egress_ebpf::ids::{Generation, PolicyId};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// The map `POLICIES` in this process's memory.
#[derive(Debug)]
pub struct Policies(Mapped<AtomicU64>);

impl Policies {
    /// Maps the pinned map into memory.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Self::of(&pins.map("POLICIES")?)
    }

    fn of(map: &Map) -> anyhow::Result<Self> {
        let Map::Array(map) = map else {
            anyhow::bail!("POLICIES is a map of another kind");
        };
        let mapped = Mapped::of(map.fd().as_fd(), MAX_POLICIES as usize);
        Ok(Self(mapped.context("mapping POLICIES")?))
    }

    /// A policy; if the id has none, a policy without a generation.
    pub fn get(&self, id: PolicyId) -> Policy {
        let word = self.0.values().get(id.0 as usize);
        word.map_or_else(Policy::default, |word| {
            Policy::of_word(word.load(Ordering::Acquire))
        })
    }

    /// Every existing policy.
    pub fn standing(&self) -> BTreeMap<PolicyId, Policy> {
        (0..MAX_POLICIES)
            .map(PolicyId)
            .map(|id| (id, self.get(id)))
            .filter(|(_, policy)| policy.generation != Generation::NEVER)
            .collect()
    }

    /// Puts a policy in force. Programs that see it also see all earlier writes.
    fn set(&self, id: PolicyId, policy: Policy) {
        if let Some(word) = self.0.values().get(id.0 as usize) {
            word.store(policy.word(), Ordering::Release);
        }
    }
}

/// Beside the highest generation: a cgroup has left its policy, and sockets may still hold verdicts of it that nobody judges
/// again. Survives an agent that ends in between.
const UNSETTLED: u64 = 1 << 32;

/// Writes policies.
pub struct PolicyWriter {
    policies: Policies,
    highest: Array<MapData, u64>,
    /// The content of `highest`.
    known: u64,
}

impl PolicyWriter {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Self::of(&pins.map("POLICIES")?, pins.map("GENERATION")?)
    }

    /// Uses the maps `POLICIES` and `GENERATION`.
    pub fn of(policies: &Map, highest: Map) -> anyhow::Result<Self> {
        let highest: Array<MapData, u64> = highest.try_into()?;
        Ok(Self {
            policies: Policies::of(policies)?,
            known: highest.get(&0, 0)?,
            highest,
        })
    }

    /// The policies, to read.
    pub fn read(&self) -> &Policies {
        &self.policies
    }

    /// The highest generation that a policy has had. No socket remembers a higher one.
    pub fn highest(&self) -> Generation {
        Generation((self.known & !UNSETTLED).try_into().unwrap_or(u32::MAX))
    }

    /// Notes that a cgroup is about to leave its policy.
    pub fn unsettle(&mut self) -> anyhow::Result<()> {
        self.know(self.known | UNSETTLED)
    }

    /// Notes that no socket holds a verdict of a policy that its cgroup has left.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        self.know(self.known & !UNSETTLED)
    }

    /// Whether the agent that wrote last ended in between. Reads again what it wrote.
    pub fn were_unsettled(&mut self) -> anyhow::Result<bool> {
        self.known = self.highest.get(&0, 0)?;
        Ok(self.known & UNSETTLED != 0)
    }

    fn know(&mut self, word: u64) -> anyhow::Result<()> {
        if self.known != word {
            self.highest.set(0, word, 0)?;
            self.known = word;
        }
        Ok(())
    }

    /// Puts a policy in force, in one write.
    pub fn set(&mut self, id: PolicyId, policy: &Policy) -> anyhow::Result<()> {
        // The generation is stored first, so that no later agent uses it again.
        let highest = self.highest().max(policy.generation);
        self.know(self.known & UNSETTLED | u64::from(highest.0))?;
        self.policies.set(id, *policy);
        Ok(())
    }

    /// Removes a policy. Cgroups that still have it are denied everything.
    pub fn remove(&self, id: PolicyId) {
        self.policies.set(id, Policy::default());
    }
}
