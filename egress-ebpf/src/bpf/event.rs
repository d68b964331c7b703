//! Denials: how an auditing policy treats them, and the event of each.
//!
//! The same denial has one event a second, with the number of those between; a CPU has a bounded
//! number of events a second. A denial without an event is counted.

use crate::bpf::judge::Applied;
use crate::bpf::maps::{DENIES, EVENTS, RATE, count};
use crate::bpf::sock::Sock;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use egress_ebpf::abi::{
    DenyEvent, DenyKey, DenySeen, EVENTS_PER_WINDOW, NO_POLICY, REPEAT_NS, counter, policy_flag,
};
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// Records a denial and returns the verdict on the flow: the denial itself, or under an auditing
/// policy [`Verdict::Allow`].
#[inline(always)]
pub fn deny(
    sock: Option<Sock<'_>>,
    applied: Option<&Applied>,
    to: &Destination,
    reason: Reason,
    hook: Hook,
) -> Verdict {
    let audit = applied.is_some_and(|a| a.policy.flags & policy_flag::AUDIT != 0);
    count(if audit {
        counter::WOULD_DENY
    } else {
        counter::DENIED
    });
    emit(
        sock,
        applied.map_or(NO_POLICY, |a| a.id),
        to,
        reason,
        hook,
        audit,
    );
    if audit {
        Verdict::Allow
    } else {
        Verdict::Deny(reason)
    }
}

#[inline(always)]
fn emit(
    sock: Option<Sock<'_>>,
    policy: PolicyId,
    to: &Destination,
    reason: Reason,
    hook: Hook,
    audit: bool,
) {
    // SAFETY: takes no argument and only reads a clock.
    let at = unsafe { bpf_ktime_get_ns() };
    let key = DenyKey {
        cgroup: sock.map_or(CgroupId(0), Sock::cgroup),
        addr: to.addr,
        port: to.port,
        proto: to.proto,
        reason: reason as u8,
        reserved: 0,
    };
    let Some(repeated) = first_in_window(&key, at) else {
        count(counter::REPEATED);
        return;
    };
    if !within_rate(at) {
        count(counter::EVENTS_LOST);
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<DenyEvent>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let mut event = DenyEvent {
        at,
        cgroup: key.cgroup,
        addr: to.addr,
        port: to.port,
        proto: to.proto,
        reason: reason as u8,
        hook: hook as u8,
        audit: u8::from(audit),
        policy,
        repeated: repeated as u32,
        ..DenyEvent::default()
    };
    if let Some(sock) = sock {
        event.netns = sock.netns();
        event.pid = sock.pid();
        event.comm = sock.comm();
    }
    slot.write(event);
    slot.submit(0);
}

/// `None` for a denial that had its event a moment before; else how many had none since the last.
#[inline(always)]
fn first_in_window(key: &DenyKey, at: u64) -> Option<u64> {
    let mut repeated = 0;
    if let Some(seen) = DENIES.get_ptr_mut(key) {
        // SAFETY: the slot stays mapped for this run. Two CPUs may both count or both emit: the
        // number is for a reader, and an event too many is bounded by the rate.
        unsafe {
            if at - (*seen).at < REPEAT_NS {
                (*seen).repeated += 1;
                return None;
            }
            repeated = (*seen).repeated;
            (*seen).at = at;
            (*seen).repeated = 0;
        }
        return Some(repeated);
    }
    // Without room in the map every denial is a first one; the rate bounds them.
    let _ = DENIES.insert(key, &DenySeen { at, repeated: 0 }, 0);
    Some(repeated)
}

#[inline(always)]
fn within_rate(at: u64) -> bool {
    let Some(window) = RATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a per-CPU slot that only this CPU writes.
    unsafe {
        if at - (*window).at >= REPEAT_NS {
            (*window).at = at;
            (*window).repeated = 0;
        }
        (*window).repeated += 1;
        (*window).repeated <= EVENTS_PER_WINDOW
    }
}
