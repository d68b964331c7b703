//! Whether this process may close and open the gate, asked before anything is touched.

use crate::failure::Failure;
use rustix::thread::{CapabilitySet, capabilities};

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
