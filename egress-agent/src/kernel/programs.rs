//! The programs: loads them, or takes those that an earlier agent of the same build left pinned, which saves
//! their verification. Knows which hook each is for.

use super::explain::{explain_load, explain_program, innermost};
use super::pins::{Pins, private_dir, remove_tree};
use super::sys::{self, link};
use super::{ACCEPTED_PROGRAM, AGENT_PROGRAMS, LSM_PROGRAM, ROOT_PROGRAMS, btf, random};
use anyhow::Context as _;
use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use egress_ebpf::digest::Secret;
use egress_ebpf::layout::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf"));

/// A digest of [`OBJECT`]. It names the folder of the programs that were loaded from it.
const OBJECT_DIGEST: &str = env!("EGRESS_BPF_DIGEST");

/// Two agents with the same value load the same programs and are of the same version.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("EGRESS_BPF_DIGEST"));

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

/// Of these, the maps that no program reads or writes.
const AGENT_MAPS: [&str; 2] = ["GENERATION", "VACANT"];

/// Reads the log lines that the programs write.
pub type Logger = EbpfLogger<&'static dyn log::Log>;

/// The programs in the kernel.
pub struct Programs {
    by_name: BTreeMap<&'static str, OwnedFd>,
    /// Until it is taken.
    pub(super) log: Option<Logger>,
    /// Ways out that this kernel leaves open, and what closes them.
    pub(super) gaps: Vec<String>,
    /// Whether an earlier agent loaded them.
    pub(super) taken: bool,
}

impl Programs {
    /// The pinned programs of this build, or new ones.
    pub fn of(pins: &Pins) -> anyhow::Result<Self> {
        Self::standing(pins).map_or_else(|| Self::load(pins), Ok)
    }

    /// The pinned programs of this build. `None` if one is missing, if they use other maps than those that are
    /// pinned, or if this process may not open their log (`CAP_SYS_ADMIN`).
    fn standing(pins: &Pins) -> Option<Self> {
        let (has_lsm, folder) = [true, false]
            .map(|has_lsm| (has_lsm, folder(pins, has_lsm)))
            .into_iter()
            .find(|(_, folder)| folder.exists())?;
        let (mut by_name, mut used, mut ids) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for name in required().chain(has_lsm.then_some(LSM_PROGRAM)) {
            let pin = folder.join(name);
            let info = ProgramInfo::from_pin(&pin).ok()?;
            used.extend(info.map_ids().ok()??);
            ids.push(info.id());
            by_name.insert(name, sys::obj_get(&pin).ok()?);
        }
        // If the pin of a map was removed, a new map may be in its place: one that these programs do not see.
        for name in PINNED_MAPS {
            let map = pins.map_data(name).ok()?.info().ok()?;
            if !used.contains(&map.id()) && !AGENT_MAPS.contains(&name) {
                return None;
            }
        }
        // Only programs that write log lines use the log.
        let mut logs = ids.iter().map(|id| EbpfLogger::init_from_id(*id));
        Some(Self {
            by_name,
            log: Some(logs.find_map(Result::ok)?),
            gaps: if has_lsm {
                Vec::new()
            } else {
                vec![without_lsm("it did not load when the gate was closed")]
            },
            taken: true,
        })
    }

    fn load(pins: &Pins) -> anyhow::Result<Self> {
        let (mut ebpf, gaps) = verified(Some(pins))?;
        let log = EbpfLogger::init(&mut ebpf).context("opening the programs' log ring")?;
        let mut by_name = BTreeMap::new();
        let has_lsm = is_loaded(&ebpf, LSM_PROGRAM);
        for name in required().chain(has_lsm.then_some(LSM_PROGRAM)) {
            let program = ebpf.program(name).with_context(|| missing(name))?;
            by_name.insert(name, program.fd()?.as_fd().try_clone_to_owned()?);
        }
        let all_last = gaps.iter().all(|gap| gap.lasts);
        let programs = Self {
            by_name,
            log: Some(log),
            gaps: gaps.into_iter().map(|gap| gap.what).collect(),
            taken: false,
        };
        remove_tree(&pins.programs())?;
        if all_last {
            programs.pin(pins).context("pinning the programs")?;
        }
        Ok(programs)
    }

    fn pin(&self, pins: &Pins) -> anyhow::Result<()> {
        let folder = folder(pins, self.has(LSM_PROGRAM));
        private_dir(&folder)?;
        for (name, program) in &self.by_name {
            sys::obj_pin(program.as_fd(), &folder.join(name))?;
        }
        Ok(())
    }

    /// Whether this kernel has the program.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A program's descriptor.
    pub fn get(&self, name: &str) -> anyhow::Result<BorrowedFd<'_>> {
        let program = self.by_name.get(name).with_context(|| missing(name))?;
        Ok(program.as_fd())
    }

    /// Attaches a program to a cgroup. The program is attached as long as the link is open or pinned.
    pub fn attach(&self, name: &str, cgroup: BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
        let hook = hook(name).with_context(|| missing(name))?;
        Ok(link::create(self.get(name)?, cgroup, hook)?)
    }
}

/// Loads the programs with maps of their own, which end with them, and pins nothing. A gate is not touched.
///
/// # Errors
/// This kernel does not take a program that the gate needs.
pub fn try_programs() -> anyhow::Result<()> {
    verified(None).map(drop)
}

/// Loads the object and the programs, and names the ways out that stay open. The maps that outlive the agent are the
/// pinned ones, if `pins` are given.
fn verified(pins: Option<&Pins>) -> anyhow::Result<(Ebpf, Vec<Gap>)> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for name in PINNED_MAPS {
            loader.map_pin_path(name, pins.maps().join(name));
        }
    }
    let secret = random::words::<{ Secret::WORDS }>().context("drawing random numbers")?;
    loader.override_global("SECRET", &secret, true);
    // The next agent may find it, so it loads the programs anew.
    let layout = btf::layout().map_err(|what| Gap { what, lasts: false });
    let places = *layout.as_ref().unwrap_or(&Layout::UNKNOWN);
    loader.override_global("LAYOUT", &places, true);
    let mut ebpf = loader.load(OBJECT).map_err(explain_load)?;
    load_required(&mut ebpf)?;
    let lsm = load_lsm(&mut ebpf);
    let gaps = lsm.err().into_iter().chain(layout.err());
    Ok((ebpf, gaps.collect()))
}

/// Whether the kernel took a program.
fn is_loaded(ebpf: &Ebpf, name: &str) -> bool {
    ebpf.program(name)
        .is_some_and(|program| program.fd().is_ok())
}

/// Where the programs of this build are pinned. Those of a kernel without the LSM program are in a folder of their
/// own, so that a lost pin of it is not taken for such a kernel.
fn folder(pins: &Pins, has_lsm: bool) -> PathBuf {
    let without = if has_lsm { "" } else { "-no-lsm" };
    pins.programs().join(format!("{OBJECT_DIGEST}{without}"))
}

/// The programs that every supported kernel can load. If one does not load, the agent does not start.
fn required() -> impl Iterator<Item = &'static str> {
    let programs = ROOT_PROGRAMS.into_iter().chain(AGENT_PROGRAMS);
    programs.chain([ACCEPTED_PROGRAM])
}

/// The attach type of a program (`enum bpf_attach_type` of include/uapi/linux/bpf.h).
fn hook(name: &str) -> Option<u32> {
    Some(match name {
        "egress" | "agent_egress" => link::CGROUP_INET_EGRESS,
        "sock_create" => 2,
        "agent_ops" | "workload_ops" => 3,
        "bind4" => 8,
        "bind6" => 9,
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        "setsockopt" => 22,
        "getpeername4" => 29,
        "getpeername6" => 30,
        "socket_create" => 43,
        _ => return None,
    })
}

fn missing(name: &str) -> String {
    format!("no program {name} in the object")
}

/// Loads several programs at a time: most of the time of a start is the kernel's verification of them.
fn load_required(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = required().collect();
    let programs = ebpf.programs_mut();
    let found: Vec<_> = programs.filter(|(name, _)| wanted.contains(name)).collect();
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

/// A way out that stays open.
struct Gap {
    what: String,
    /// Whether it stays open as long as this kernel runs.
    lasts: bool,
}

/// Loads the LSM program.
fn load_lsm(ebpf: &mut Ebpf) -> Result<(), Gap> {
    let gap = |why: String, lasts| Gap {
        what: without_lsm(&why),
        lasts,
    };
    let Some(Program::LsmCgroup(program)) = ebpf.program_mut(LSM_PROGRAM) else {
        return Err(gap("this build has none".to_owned(), true));
    };
    let btf = Btf::from_sys_fs();
    let btf = btf.map_err(|e| gap(format!("the kernel has no BTF ({e})"), true))?;
    program.load(LSM_PROGRAM, &btf).map_err(|e| {
        let why = format!("it does not load here ({})", innermost(&e));
        gap(why, !is_passing(&e))
    })
}

/// Whether the kernel may take the program another time.
fn is_passing(error: &ProgramError) -> bool {
    let ProgramError::LoadError { io_error, .. } = error else {
        return true;
    };
    let passing = [libc::ENOMEM, libc::EAGAIN, libc::EINTR];
    io_error.raw_os_error().is_none_or(|e| passing.contains(&e))
}

fn without_lsm(why: &str) -> String {
    format!(
        "socket families beyond IP (AF_PACKET, AF_VSOCK, AF_XDP and others), which lsm_cgroup/{LSM_PROGRAM} denies: {why}; drop CAP_NET_RAW and CAP_NET_ADMIN from the workloads"
    )
}
