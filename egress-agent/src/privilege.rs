//! Checks, before anything is changed, that this process may close and open the gate. Drops
//! capabilities afterwards.

use crate::failure::Failure;
use crate::observe::trouble::Trouble;
use crate::proxy::Limits;
use anyhow::Context as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use tokio::runtime::{Builder, Runtime};

/// Fails with exit code 77 unless programs can be loaded and attached. `CAP_SYS_ADMIN` implies
/// `CAP_BPF` and `CAP_PERFMON` (`bpf_capable`, `perfmon_capable` in include/linux).
pub fn require() -> Result<(), Failure> {
    let effective = capabilities(None)
        .map_err(|e| Failure::privilege(format_args!("capabilities: {e}")))?
        .effective;
    match missing(effective) {
        None => Ok(()),
        Some(names) => Err(Failure::privilege(format_args!(
            "not enough privilege: run as root (missing: {names})"
        ))),
    }
}

/// Raises this process's limit of open files to its hard limit. The usual soft limit is 1024, for
/// programs that use `select(2)`.
pub fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files (RLIMIT_NOFILE); keeping the present one");
    }
}

/// Open descriptors of this process, and how many it may have.
pub fn descriptors() -> (usize, usize) {
    // The size of the folder is their number since Linux 6.2 (`proc_fd_getattr` in fs/proc/fd.c), before that it is 0.
    let counted = std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    let open = match usize::try_from(counted) {
        Ok(counted) if counted > 0 => counted,
        Ok(_) | Err(_) => std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
    };
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    (open, limit)
}

/// Descriptors that the proxy does not get: for the rules, `status`, DNS and namespaces.
fn reserve(limit: usize) -> usize {
    (limit / 8).clamp(48, 1024)
}

/// The proxy's share of the remaining descriptors, once everything else is open.
pub fn proxy_limits() -> Limits {
    raise_descriptors();
    let (open, limit) = descriptors();
    Limits::within(limit.saturating_sub(open).saturating_sub(reserve(limit)))
}

/// The trouble to report if this process runs out of descriptors.
pub fn descriptor_trouble() -> Option<Trouble> {
    let (open, limit) = descriptors();
    let few = limit.saturating_sub(open) < reserve(limit) / 4;
    few.then_some(Trouble::Descriptors { open, limit })
}

/// The capabilities that the running agent needs beyond those of every agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Cgroups that belong to another user, in which the canary runs.
    pub foreign_cgroups: bool,
    /// Sockets in other network namespaces (`setns`).
    pub namespaces: bool,
}

/// The capabilities that a thread keeps once the gate is closed; `docs/privileges.md` has the
/// reasons.
pub fn kept(needs: Needs) -> CapabilitySet {
    let mut kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    if needs.foreign_cgroups {
        kept |= CapabilitySet::DAC_OVERRIDE;
    }
    if needs.namespaces {
        kept |= CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
    }
    kept
}

/// Drops every capability except these for good, in the calling thread and those that it starts. Adds
/// none. A program that such a thread executes cannot get the others either, whatever its file
/// capabilities or its user.
pub fn give_up(kept: CapabilitySet) -> Result<(), Failure> {
    let failed = |e| Failure::privilege(format_args!("dropping capabilities: {e}"));
    let have = capabilities(None).map_err(failed)?;
    // `PR_CAPBSET_DROP` needs it; without it, `no_new_privs` is the only protection.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for dropped in (CapabilitySet::all() - kept).iter() {
            match remove_capability_from_bounding_set(dropped) {
                // A capability that this kernel does not have.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
    let permitted = have.permitted & kept;
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)
}

/// Starts a runtime whose threads have only the capabilities `kept`. The calling thread keeps more until it has loaded
/// and attached the programs.
pub fn runtime(kept: CapabilitySet) -> anyhow::Result<Runtime> {
    let less = move || {
        if let Err(error) = give_up(kept) {
            tracing::error!(%error, "a thread could not drop capabilities that it does not need");
        }
    };
    Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(less)
        .build()
        .context("starting the runtime")
}

/// Runs `work` in a thread with the capabilities `kept`; threads that it starts (a file watcher's)
/// inherit them.
pub fn with_less<T: Send>(
    kept: CapabilitySet,
    work: impl FnOnce() -> T + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_up(kept)?;
            anyhow::Ok(work())
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the start panicked"))?
    })
}

/// Sets `no_new_privs`: a program that the calling thread or a thread that it starts executes gets no
/// more privileges than the thread has.
pub fn no_new_privileges() -> Result<(), Failure> {
    set_no_new_privs(true).map_err(|e| Failure::privilege(format_args!("no_new_privs: {e}")))
}

fn missing(have: CapabilitySet) -> Option<String> {
    let admin = have.contains(CapabilitySet::SYS_ADMIN);
    let names: Vec<_> = [
        (have.contains(CapabilitySet::NET_ADMIN), "CAP_NET_ADMIN"),
        (admin || have.contains(CapabilitySet::BPF), "CAP_BPF"),
        (
            admin || have.contains(CapabilitySet::PERFMON),
            "CAP_PERFMON",
        ),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let net = CapabilitySet::NET_ADMIN;
        for (have, want) in [
            (net | CapabilitySet::SYS_ADMIN, None),
            (net | CapabilitySet::BPF | CapabilitySet::PERFMON, None),
            (net | CapabilitySet::BPF, Some("CAP_PERFMON")),
            (CapabilitySet::SYS_ADMIN, Some("CAP_NET_ADMIN")),
            (
                CapabilitySet::empty(),
                Some("CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON"),
            ),
        ] {
            assert_eq!(missing(have).as_deref(), want);
        }
    }
}
