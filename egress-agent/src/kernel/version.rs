//! Which kernels the gate runs on, and what differs between them.

use crate::failure::Failure;
use aya::util::KernelVersion;

/// The oldest kernel that has every helper the programs use: `bpf_get_netns_cookie` in sock_ops
/// and `bpf_set_retval` in sock_create.
pub const MINIMUM: (u8, u8) = (6, 1);

/// From this version on the egress hook runs for a listener's answer over IPv6 too (verified on 6.12; on
/// 6.1 `BPF_CGROUP_RUN_PROG_INET_EGRESS` compares the packet's socket with the listener's).
const ANSWERS_SEEN: (u8, u8) = (6, 12);

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

/// Whether the egress hook runs for a listener's answers over IPv6.
pub(super) fn sees_answers() -> anyhow::Result<bool> {
    at_least(ANSWERS_SEEN)
}

fn at_least((major, minor): (u8, u8)) -> anyhow::Result<bool> {
    Ok(KernelVersion::current()? >= KernelVersion::new(major, minor, 0))
}
