//! Refusals as events. A full ring loses the event, never the refusal, and the loss is counted.

use crate::bpf::maps::{EVENTS, count};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use egress_ebpf::abi::{DenyEvent, NO_POLICY, OWNER_DEPTH, SocketState, counter};
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason};

/// Records one refusal.
#[inline(always)]
pub fn denied(
    state: Option<&SocketState>,
    policy: Option<u32>,
    to: &Destination,
    reason: Reason,
    hook: Hook,
) {
    count(counter::DENIED);
    let Some(mut slot) = EVENTS.reserve::<DenyEvent>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let mut event = DenyEvent {
        // SAFETY: takes no argument and only reads a clock.
        at: unsafe { bpf_ktime_get_ns() },
        addr: to.addr,
        port: to.port,
        proto: to.proto,
        reason: reason as u8,
        hook: hook as u8,
        policy: policy.unwrap_or(NO_POLICY),
        ..DenyEvent::default()
    };
    if let Some(state) = state {
        event.cgroup = state.owner[OWNER_DEPTH - 1];
        event.netns = state.netns;
        event.pid = state.pid;
        event.comm = state.comm;
    }
    slot.write(event);
    slot.submit(0);
}
