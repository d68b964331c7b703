//! Loads the programs, and creates or adopts the maps. Attaches nothing.

use super::btf;
use super::pins::Pins;
use super::policies::PolicyWriter;
use super::tables::Tables;
use super::{
    ACCEPTED_PROGRAM, AGENT_PROGRAMS, Events, LSM_PROGRAM, Origins, ProgramLog, ROOT_PROGRAMS,
    random,
};
use crate::failure::Failure;
use anyhow::Context as _;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::util::KernelVersion;
use aya::{Btf, Ebpf, EbpfLoader};
use egress_ebpf::abi::{DEFAULT_POLICY, PROOF_POLICY, Policy, policy_flag};
use egress_ebpf::digest::Secret;
use egress_ebpf::ids::{CgroupId, Generation};
use egress_ebpf::layout::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf"));

/// The oldest kernel that has every helper the programs use: `bpf_get_netns_cookie` in sock_ops
/// and `bpf_set_retval` in sock_create.
const MINIMUM: (u8, u8) = (6, 1);

/// From this version on the egress hook runs for a listener's answer over IPv6 too (verified on 6.12; on
/// 6.1 `BPF_CGROUP_RUN_PROG_INET_EGRESS` compares the packet's socket with the listener's).
const ANSWERS_SEEN: (u8, u8) = (6, 12);

/// Programs that are verified at a time. Each takes some megabytes of the kernel's memory meanwhile.
const MOST_THREADS: usize = 4;

/// Maps that outlive the agent.
const PINNED_MAPS: [&str; 16] = [
    "POLICIES",
    "GENERATION",
    "OWNERS",
    "ANCESTORS",
    "TABLES",
    "VACANT",
    "PROXIES",
    "FLOWS",
    "SOCKETS",
    "ORIGINS",
    "EVENTS",
    "COUNTERS",
    "PEERS",
    "DNS_SERVERS",
    "DNS_CLIENTS",
    "LISTENERS",
];

/// The programs, loaded and verified, and the maps they use.
pub struct Kernel {
    ebpf: Ebpf,
    /// The pins.
    pub pins: Pins,
    /// Whether the maps are those of a previous agent.
    pub adopted: bool,
    /// The attached links by their pins. If another process removes a pin, its link stays attached.
    pub(super) held: BTreeMap<PathBuf, OwnedFd>,
    /// Ways out that this kernel leaves open, and what closes them.
    pub gaps: Vec<String>,
    has_lsm: bool,
    answers_seen: bool,
    max_networks: u32,
}

impl Kernel {
    /// Loads the programs for these pins. The tables have room for `max_networks` networks.
    pub fn load(pins: Pins, max_networks: u32) -> anyhow::Result<Self> {
        supported()?;
        pins.prepare()?;
        let maps = pins.maps();
        let adopted = maps.join("POLICIES").exists();
        let mut loader = EbpfLoader::new();
        for name in PINNED_MAPS {
            loader.map_pin_path(name, maps.join(name));
        }
        let secret = random::words::<{ Secret::WORDS }>().context("drawing random numbers")?;
        loader.override_global("SECRET", &secret, true);
        let layout = btf::layout();
        let places = *layout.as_ref().unwrap_or(&Layout::UNKNOWN);
        loader.override_global("LAYOUT", &places, true);
        let mut ebpf = loader.load(OBJECT).map_err(explain_load)?;
        load_programs(&mut ebpf)?;
        let lsm = load_lsm(&mut ebpf);
        Ok(Self {
            ebpf,
            pins,
            adopted,
            held: BTreeMap::new(),
            has_lsm: lsm.is_ok(),
            answers_seen: at_least(ANSWERS_SEEN)?,
            gaps: lsm.err().into_iter().chain(layout.err()).collect(),
            max_networks,
        })
    }

    /// Programs for an enforced root, in the order of attachment.
    pub(super) fn root_programs(&self) -> Vec<&'static str> {
        let accepted = (!self.answers_seen).then_some(ACCEPTED_PROGRAM);
        let lsm = self.has_lsm.then_some(LSM_PROGRAM);
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
        let owners = MapData::from_pin(self.pins.maps().join("OWNERS"))?;
        Ok(Map::HashMap(owners).try_into()?)
    }

    /// Takes the rule tables. Succeeds once.
    pub fn tables(&mut self) -> anyhow::Result<Tables> {
        Tables::take(&mut self.ebpf, self.max_networks)
    }

    /// Takes the origins of accepted flows. Succeeds once.
    pub fn origins(&mut self) -> anyhow::Result<Origins> {
        Origins::take(&mut self.ebpf, &self.pins)
    }

    /// Takes the events of denials. Succeeds once.
    pub fn events(&mut self) -> anyhow::Result<Events> {
        Events::take(&mut self.ebpf)
    }

    /// Takes the programs' own log lines. Succeeds once.
    pub fn program_log(&mut self) -> anyhow::Result<ProgramLog> {
        ProgramLog::take(&mut self.ebpf)
    }

    /// A program by name, to attach it.
    pub(super) fn program(&mut self, name: &str) -> anyhow::Result<&mut Program> {
        self.ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name} in the object"))
    }

    /// A loaded program's descriptor.
    pub(super) fn program_fd(&self, name: &str) -> anyhow::Result<&ProgramFd> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name} in the object"))?;
        Ok(program.fd()?)
    }
}

/// Fails if this kernel is too old for the gate.
pub fn supported() -> anyhow::Result<()> {
    if at_least(MINIMUM)? {
        return Ok(());
    }
    let (major, minor) = MINIMUM;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Err(Failure::unsupported(format_args!(
        "kernel {release}: the gate needs {major}.{minor} or newer (bpf_get_netns_cookie in sock_ops); nothing was attached"
    ))
    .into())
}

fn at_least((major, minor): (u8, u8)) -> anyhow::Result<bool> {
    Ok(KernelVersion::current()? >= KernelVersion::new(major, minor, 0))
}

/// Loads several programs at a time: most of the time of a start is the kernel's verification of them.
fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let programs = ROOT_PROGRAMS.into_iter().chain(AGENT_PROGRAMS);
    let mut wanted: BTreeSet<&str> = programs.chain([ACCEPTED_PROGRAM]).collect();
    let programs = ebpf.programs_mut();
    let found: Vec<_> = programs.filter(|(name, _)| wanted.remove(name)).collect();
    if let Some(missing) = wanted.first() {
        anyhow::bail!("no program {missing} in the object");
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = Mutex::new(found.into_iter());
    let load = || -> anyhow::Result<()> {
        loop {
            let program = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((name, program)) = program else {
                return Ok(());
            };
            load_program(program).map_err(|e| explain_program(name, e))?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(MOST_THREADS))
            .map(|_| scope.spawn(load))
            .collect();
        let mut result = load();
        for other in others {
            let panicked = |_| anyhow::anyhow!("a thread that loads programs panicked");
            result = result.and(other.join().map_err(panicked).flatten());
        }
        result
    })
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockopt(p) => p.load(),
        Program::SockOps(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Loads the LSM program. The error says which gap stays open without it.
fn load_lsm(ebpf: &mut Ebpf) -> Result<(), String> {
    let gap = |why: String| {
        format!(
            "socket families beyond IP (AF_PACKET, AF_VSOCK, AF_XDP and others): {why}; drop CAP_NET_RAW and CAP_NET_ADMIN from the workloads"
        )
    };
    let Some(Program::LsmCgroup(program)) = ebpf.program_mut(LSM_PROGRAM) else {
        return Err(gap("this build has no lsm_cgroup program".to_owned()));
    };
    let hook = LSM_PROGRAM;
    let btf = Btf::from_sys_fs().map_err(|e| gap(format!("the kernel has no BTF ({e})")))?;
    program.load(hook, &btf).map_err(|e| {
        gap(format!(
            "lsm_cgroup/{hook} does not load here ({})",
            cause(&e)
        ))
    })
}

/// The innermost cause, on one line.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let text = format!("{error:#}");
    if denied(&error) {
        return Failure::privilege(format_args!(
            "loading BPF maps: {text}; run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
        .into();
    }
    anyhow::Error::new(error).context("loading BPF maps")
}

fn explain_program(name: &str, error: ProgramError) -> anyhow::Error {
    if denied(&error) {
        return Failure::privilege(format_args!(
            "loading program {name}: not permitted; run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
        .into();
    }
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = &error
    {
        let log = verifier_log.to_string();
        if log.trim().is_empty() {
            return Failure::usage(format_args!(
                "this kernel has no hook for program {name} ({io_error}): it needs CONFIG_CGROUP_BPF and {}.{} or newer; nothing was attached",
                MINIMUM.0, MINIMUM.1
            ))
            .into();
        }
        return anyhow::anyhow!("the verifier rejected program {name} ({io_error}):\n{log}");
    }
    anyhow::Error::new(error).context(format!("loading program {name}"))
}

/// Whether the system call failed with EPERM. EACCES means that the verifier rejected the program.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return matches!(io.raw_os_error(), Some(libc::EPERM));
        }
        cause = e.source();
    }
    false
}
