//! Finishes a judged call: counts it, and stores an allowed destination or records a denial.

use crate::bpf::event;
use crate::bpf::judge::{Applied, remember};
use crate::bpf::maps::count;
use crate::bpf::sock::Sock;
use aya_ebpf::helpers::generated::bpf_set_retval;
use egress_ebpf::abi::{counter, proto};
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Verdict};

/// Stores a verdict in the socket's state, counts it, and records a denial. Returns the verdict that the call gets.
#[inline(always)]
pub fn settle(
    sock: Sock<'_>,
    applied: &Applied,
    to: &Destination,
    verdict: Verdict,
    hook: Hook,
) -> Verdict {
    let verdict = match verdict {
        Verdict::Allow => {
            count(counter::ALLOWED);
            verdict
        }
        Verdict::Proxy | Verdict::Dns => {
            count(counter::REDIRECTED);
            verdict
        }
        Verdict::Deny(reason) => {
            if to.proto == proto::TCP {
                sock.set_mode(sock.mode().dialled(0));
            } else {
                sock.note_task();
            }
            let verdict = event::deny(Some(sock), Some(applied), to, reason, hook);
            if verdict != Verdict::Allow && applied.policy.errno != 0 {
                // SAFETY: a plain integer argument. connect and sendmsg may set the errno of the call
                // (kernel/bpf/cgroup.c, cgroup_base_func_proto).
                unsafe { bpf_set_retval(-(applied.policy.errno as i32)) };
            }
            verdict
        }
    };
    remember(sock, applied, to, verdict);
    verdict
}
