//! The kernel's policies, each one word that a program reads at once, and the highest generation that any
//! policy has had.

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
        Generation(u32::try_from(self.known).unwrap_or(u32::MAX))
    }

    /// Puts a policy in force, in one write.
    pub fn set(&mut self, id: PolicyId, policy: &Policy) -> anyhow::Result<()> {
        // The generation is stored first, so that no later agent uses it again.
        if u64::from(policy.generation.0) > self.known {
            self.known = policy.generation.0.into();
            self.highest.set(0, self.known, 0)?;
        }
        self.policies.set(id, *policy);
        Ok(())
    }

    /// Removes a policy. Cgroups that still have it are denied everything.
    pub fn remove(&self, id: PolicyId) {
        self.policies.set(id, Policy::default());
    }
}
