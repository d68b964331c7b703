//! The decision about a single packet, for tests that compare the kernel's decision with the host's.

use crate::bpf::judge::{judge, policy};
use crate::bpf::skb::Skb;
use aya_ebpf::programs::SkBuffContext;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::NetnsCookie;
use egress_ebpf::packet::destination;
use egress_ebpf::verdict::Verdict;

/// The network namespace of the packets of a test.
const PROBE_NETNS: NetnsCookie = NetnsCookie(1);

/// The verdict on a packet under the default policy, as [`Verdict::number`].
#[inline(always)]
pub fn probe(ctx: &SkBuffContext) -> i64 {
    let verdict = match destination(&Skb(ctx)) {
        Ok(to) => judge(&policy(DEFAULT_POLICY), PROBE_NETNS, &to),
        Err(reason) => Verdict::Deny(reason),
    };
    i64::from(verdict.number())
}
