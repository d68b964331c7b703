//! Denials: what an auditing policy does with them, and their events.
//!
//! The same denial has one event in a second, which has the number of repeats. The number of events of a cgroup and of
//! a CPU in a second is limited too. Denials without an event are counted.

use crate::bpf::judge::Applied;
use crate::bpf::maps::{DENIES, EVENT_SHARES, EVENTS, RATE, count};
use crate::bpf::share::within_share;
use crate::bpf::sock::Sock;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use egress_ebpf::abi::{
    DenyEvent, DenyKey, DenySeen, EVENTS_PER_CGROUP, EVENTS_PER_WINDOW, NO_POLICY, REPEAT_NS,
    counter, policy_flag,
};
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// Records a denial. Returns the verdict on the flow: the denial, or [`Verdict::Allow`] under an auditing policy.
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
    let within = within_share(&EVENT_SHARES, EVENTS_PER_CGROUP, key.cgroup, at) && within_rate(at);
    let slot = if within {
        EVENTS.reserve::<DenyEvent>(0)
    } else {
        None
    };
    let Some(mut slot) = slot else {
        count(counter::EVENTS_LOST);
        next_is_first(&key, repeated);
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

/// `None` if the same denial had an event within [`REPEAT_NS`]. Otherwise the number of denials without an event
/// since then.
#[inline(always)]
fn first_in_window(key: &DenyKey, at: u64) -> Option<u64> {
    let mut repeated = 0;
    if let Some(seen) = DENIES.get_ptr_mut(key) {
        // SAFETY: the slot stays mapped while the program runs. Two CPUs may both count or both emit: the number
        // is for people only, and the rate limits the events.
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
    // Without room in the map every denial counts as the first one. The rate limits their events.
    let _ = DENIES.insert(key, &DenySeen { at, repeated: 0 }, 0);
    Some(repeated)
}

/// A denial had no event, so the next one with its key has one, if there is room by then.
#[inline(always)]
fn next_is_first(key: &DenyKey, repeated: u64) {
    if let Some(seen) = DENIES.get_ptr_mut(key) {
        // SAFETY: as in `first_in_window`.
        unsafe {
            (*seen).at = 0;
            (*seen).repeated = repeated + 1;
        }
    }
}

#[inline(always)]
fn within_rate(at: u64) -> bool {
    let Some(window) = RATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: only this CPU writes the per-CPU slot.
    unsafe {
        if at - (*window).at >= REPEAT_NS {
            (*window).at = at;
            (*window).repeated = 0;
        }
        (*window).repeated += 1;
        (*window).repeated <= EVENTS_PER_WINDOW
    }
}
