//! The gate in the kernel as one value: the programs, the maps that they use, and the links that this process
//! made or adopted. Attaches nothing.

use super::pins::Pins;
use super::policies::PolicyWriter;
use super::programs::Programs;
use super::tables::Tables;
use super::{ACCEPTED_PROGRAM, Events, LSM_PROGRAM, Origins, ProgramLog, ROOT_PROGRAMS, version};
use anyhow::Context as _;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{DEFAULT_POLICY, PROOF_POLICY, Policy, policy_flag};
use egress_ebpf::ids::{CgroupId, Generation};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The programs, loaded and verified, and the pins of the maps that they use.
pub struct Kernel {
    pub(super) programs: Programs,
    /// The pins.
    pub pins: Pins,
    /// Whether the maps are those of a previous agent.
    pub adopted: bool,
    /// The attached links by their pins. If another process removes a pin, its link stays attached.
    pub(super) held: BTreeMap<PathBuf, OwnedFd>,
    answers_seen: bool,
    max_networks: u32,
}

impl Kernel {
    /// Loads the programs for these pins, or takes those that are pinned there. The tables have room for
    /// `max_networks` networks.
    pub fn load(pins: Pins, max_networks: u32) -> anyhow::Result<Self> {
        version::supported()?;
        pins.prepare()?;
        let adopted = pins.maps().join("POLICIES").exists();
        Ok(Self {
            programs: Programs::of(&pins)?,
            pins,
            adopted,
            held: BTreeMap::new(),
            answers_seen: version::sees_answers()?,
            max_networks,
        })
    }

    /// Programs for an enforced root, in the order of attachment.
    pub(super) fn root_programs(&self) -> Vec<&'static str> {
        let accepted = (!self.answers_seen).then_some(ACCEPTED_PROGRAM);
        let lsm = self.programs.has(LSM_PROGRAM).then_some(LSM_PROGRAM);
        let optional = accepted.into_iter().chain(lsm);
        ROOT_PROGRAMS.into_iter().chain(optional).collect()
    }

    /// Writes a default policy if the kernel has none, so that a root is closed from the moment that a
    /// program is attached to it. The policy denies everything except loopback; with `audits`, it records
    /// and denies nothing. Rules of a previous agent stay.
    pub fn deny_without_rules(&self, audits: bool) -> anyhow::Result<()> {
        let mut policies = PolicyWriter::open(&self.pins)?;
        if policies.read().get(DEFAULT_POLICY).generation == Generation::NEVER {
            let without_rules = Policy {
                generation: policies.highest().next(),
                flags: if audits { policy_flag::AUDIT } else { 0 },
                ..Policy::default()
            };
            policies.set(DEFAULT_POLICY, &without_rules)?;
        }
        Ok(())
    }

    /// Writes [`PROOF_POLICY`] and returns the map of the policies of cgroups, so that the agent can put
    /// its canaries under that policy.
    pub fn proof(&self) -> anyhow::Result<HashMap<MapData, CgroupId, u64>> {
        let mut policies = PolicyWriter::open(&self.pins)?;
        let proof = Policy {
            generation: Generation(1),
            flags: policy_flag::PROOF,
            ..Policy::default()
        };
        policies.set(PROOF_POLICY, &proof)?;
        Ok(self.pins.map("OWNERS")?.try_into()?)
    }

    /// The rule tables, to write.
    pub fn tables(&self) -> anyhow::Result<Tables> {
        Tables::open(&self.pins, self.max_networks)
    }

    /// The origins of accepted flows.
    pub fn origins(&self) -> anyhow::Result<Origins> {
        Origins::open(&self.pins)
    }

    /// The events of denials. A process reads them in one place.
    pub fn events(&self) -> anyhow::Result<Events> {
        Events::open(&self.pins)
    }

    /// Takes the programs' own log lines. Succeeds once.
    pub fn program_log(&mut self) -> anyhow::Result<ProgramLog> {
        let log = self.programs.log.take();
        ProgramLog::of(log.context("the programs' log has a reader")?)
    }

    /// Whether the programs are those that an earlier agent of the same build loaded.
    pub fn took_programs(&self) -> bool {
        self.programs.taken
    }

    /// Ways out that this kernel leaves open, and what closes them.
    pub fn gaps(&self) -> &[String] {
        &self.programs.gaps
    }
}
