//! The types in BPF maps: read and written by the kernel programs and the agent.
//!
//! Every type is `#[repr(C)]`, has no implicit padding and an asserted size, because both sides see raw
//! bytes. A change of any type changes [`ABI_VERSION`]. `bpf/maps.rs` documents who writes which map.

mod comm;
mod dns;
mod flow;
mod owner;
#[cfg(feature = "user")]
mod pod;
mod socket;

pub use comm::Comm;
pub use dns::{DNS_CLIENTS_PER_SECOND, DnsClient, DnsClientKey, DnsServers, DnsSlot};
pub use flow::{FlowKey, FlowOrigin};
pub use owner::{Ancestors, MAX_DEPTH, Owner, OwnerOf};
pub use socket::{Mode, SocketState, socket_flag};

use crate::addr::Addr;
use crate::ids::{CgroupId, Generation, NetnsCookie, PolicyId, TableId};
use core::mem::size_of;

/// Raised with every change of a type here or of a map's meaning. An agent does not adopt pinned maps of
/// another version.
pub const ABI_VERSION: u32 = 6;

/// The port of DNS over UDP and TCP (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;

/// How many servers one datagram socket can ask at the same time: one for each port of the agent's DNS server. musl
/// asks up to three (`MAXNS`) from one socket. A further server takes the place of the oldest.
pub const DNS_SLOTS: usize = 4;

/// IANA protocol numbers that the tables know.
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Stands for MPTCP, whose socket number (`IPPROTO_MPTCP`, 262) does not fit into a byte and whose
    /// packets are TCP. RFC 3692 reserves this number for experiments.
    pub const MPTCP: u8 = 254;
}

/// The actions of table entries.
pub mod action {
    /// The flow is allowed.
    pub const ALLOW: u32 = 1;
    /// The flow is redirected to the agent's proxy, which checks the name or applies a route.
    pub const PROXY: u32 = 2;
}

/// Flags of a policy.
pub mod policy_flag {
    /// `outboundTrafficPolicy: ALLOW_ANY`.
    pub const ALLOW_ANY: u32 = 1;
    /// The table has networks, so that an address without an entry of its own must be looked up in them.
    pub const HAS_PREFIXES: u32 = 2;
    /// Nothing is denied. A flow that would be denied is recorded.
    pub const AUDIT: u32 = 4;
    /// TCP that no entry lists goes to the proxy: [`super::PROOF_POLICY`] only.
    pub const PROOF: u32 = 8;
    /// Every query to a DNS server goes to the agent's own: `dns.intercept: auto`.
    pub const DNS: u32 = 16;
}

/// The policy of a set of workloads. Its map has the policy id as the key and [`Self::word`] as the value, so
/// a policy is read and written at once, and one write puts a whole new table in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Table whose entries apply, below [`MAX_TABLES`]. 0 is the table that is always empty.
    pub table: TableId,
    /// Raised with each change after which a stored verdict must be judged again. Never 0 and never used
    /// twice.
    pub generation: Generation,
    /// Bits of [`policy_flag`].
    pub flags: u32,
    /// Errno (positive) that a denied connect or datagram gets; 0 is EPERM.
    pub errno: u32,
}

impl Policy {
    const TABLE: u32 = MAX_TABLES - 1;
    const FLAGS_AT: u32 = MAX_TABLES.trailing_zeros();
    const FLAGS: u32 = 31;
    const ERRNO_AT: u32 = Self::FLAGS_AT + 5;

    /// The policy as stored in the map. Every errno fits: none is above 4 095 (`MAX_ERRNO`).
    #[must_use]
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        let low = (self.table.0 & Self::TABLE)
            | ((self.flags & Self::FLAGS) << Self::FLAGS_AT)
            | (self.errno << Self::ERRNO_AT);
        ((self.generation.0 as u64) << 32) | low as u64
    }

    /// The policy of a word in the map.
    #[must_use]
    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        let low = word as u32;
        Self {
            table: TableId(low & Self::TABLE),
            generation: Generation((word >> 32) as u32),
            flags: (low >> Self::FLAGS_AT) & Self::FLAGS,
            errno: low >> Self::ERRNO_AT,
        }
    }
}

/// Where the agent listens in a network namespace. The key of its map is the namespace's cookie. In a
/// namespace without an entry, a flow that needs the proxy or the DNS server is denied.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProxyPort {
    /// The proxy's port on 127.0.0.1 and `::1`, host byte order.
    pub port: u16,
    /// The ports of the DNS server for datagrams, on the same addresses; 0: it has none.
    pub dns: [u16; DNS_SLOTS],
    /// Zero.
    pub reserved: [u16; 3],
}

/// A denial, as an event in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DenyEvent {
    /// `bpf_ktime_get_ns`: nanoseconds since boot, without suspend.
    pub at: u64,
    /// The socket's owner (leaf).
    pub cgroup: CgroupId,
    /// The socket's network namespace.
    pub netns: NetnsCookie,
    /// Destination as dialled.
    pub addr: Addr,
    /// Port, host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u8,
    /// [`crate::verdict::Hook`] as a number.
    pub hook: u8,
    /// 1 if the policy audits: the flow was only recorded.
    pub audit: u8,
    /// Zero.
    pub reserved: u16,
    /// Policy id that denied, [`NO_POLICY`] if none was found.
    pub policy: PolicyId,
    /// Thread group id.
    pub pid: u32,
    /// Denials with the same [`DenyKey`] since its last event, which had no event themselves.
    pub repeated: u32,
    /// Zero.
    pub reserved2: u32,
    /// Name of the task.
    pub comm: Comm,
}

/// Denials with the same key have one event in [`REPEAT_NS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DenyKey {
    /// [`DenyEvent::cgroup`].
    pub cgroup: CgroupId,
    /// [`DenyEvent::addr`].
    pub addr: Addr,
    /// [`DenyEvent::port`].
    pub port: u16,
    /// [`DenyEvent::proto`].
    pub proto: u8,
    /// [`DenyEvent::reason`].
    pub reason: u8,
    /// Zero.
    pub reserved: u32,
}

/// The time of a [`DenyKey`]'s last event, and the number of denials without an event since.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DenySeen {
    /// `bpf_ktime_get_ns`.
    pub at: u64,
    /// Denials without an event.
    pub repeated: u64,
}

/// Time within which the same denial has one event, in nanoseconds.
pub const REPEAT_NS: u64 = 1_000_000_000;
/// The most events of one CPU in [`REPEAT_NS`]. Further ones are counted as lost.
pub const EVENTS_PER_WINDOW: u64 = 1000;
/// The most events of one cgroup in [`REPEAT_NS`], on all CPUs, so that a workload leaves its neighbours' denials room.
pub const EVENTS_PER_CGROUP: u64 = 250;

/// A peer that wrote to a datagram socket first, and may be answered.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PeerKey {
    /// Socket cookie of the socket that it wrote to.
    pub cookie: u64,
    /// Its address, not in canonical form: a peer with an embedded address gives no right to answer that one.
    pub addr: Addr,
    /// Its port, host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// How long a peer may be answered after its last datagram had arrived, in nanoseconds: the timeout of a UDP
/// stream in netfilter (`nf_conntrack_udp_timeout_stream`).
pub const ANSWER_NS: u64 = 120_000_000_000;

/// New peers that one workload may add to the table in a second: an eighth of the table.
pub const PEERS_PER_SECOND: u64 = 8192;

/// The default policy of the enforced roots, for cgroups without an owner that has a policy.
pub const DEFAULT_POLICY: PolicyId = PolicyId(0);
/// The number of policies in the kernel, with ids from 0 on.
pub const MAX_POLICIES: u32 = 8192;
/// The number of tables in the kernel, with ids from 0 on: for each policy its table and the next one.
pub const MAX_TABLES: u32 = 2 * MAX_POLICIES;
/// Flags of a table's array: the agent maps it into its memory (`BPF_F_MMAPABLE`), and the arrays
/// may differ in length (`BPF_F_INNER_MAP`).
pub const TABLE_FLAGS: u32 = (1 << 10) | (1 << 12);
/// A policy that is never written: cgroups that have it are denied everything, with the reason `state`.
pub const CLOSED_POLICY: PolicyId = PolicyId(MAX_POLICIES - 1);
/// The policy of the agent's own canaries, with [`policy_flag::PROOF`] and the empty table. The proxy answers
/// their connections itself and dials nothing.
pub const PROOF_POLICY: PolicyId = PolicyId(MAX_POLICIES - 2);
/// "No policy" in an event.
pub const NO_POLICY: PolicyId = PolicyId(u32::MAX);

/// Indices of the per-CPU counters.
pub mod counter {
    /// Flows that were allowed without the proxy.
    pub const ALLOWED: u32 = 0;
    /// Flows redirected to the proxy.
    pub const REDIRECTED: u32 = 1;
    /// Denials.
    pub const DENIED: u32 = 2;
    /// Denials whose event exceeded the rate or found the ring buffer full.
    pub const EVENTS_LOST: u32 = 3;
    /// Redirected flows that were denied because the flow table had no room.
    pub const FLOWS_FULL: u32 = 4;
    /// Denials without an event, because the same denial had one within [`super::REPEAT_NS`].
    pub const REPEATED: u32 = 5;
    /// Unlisted flows that an auditing policy let pass.
    pub const WOULD_DENY: u32 = 6;
    /// Datagrams that were allowed as an answer to a peer that wrote first.
    pub const ANSWERED: u32 = 7;
    /// The number of counters.
    pub const COUNT: u32 = 8;
}

const _: () = {
    assert!(size_of::<Addr>() == 16);
    assert!(MAX_TABLES.is_power_of_two());
    assert!(policy_flag::DNS <= Policy::FLAGS && Policy::ERRNO_AT + 12 <= 32);
    assert!(size_of::<ProxyPort>() == 16);
    assert!(size_of::<DenyEvent>() == 24 + 16 + 8 + 16 + 16);
    assert!(size_of::<DenyKey>() == 32);
    assert!(size_of::<DenySeen>() == 16);
    assert!(size_of::<PeerKey>() == 32);
};

#[cfg(test)]
mod tests {
    use super::{MAX_TABLES, Policy};
    use crate::ids::{Generation, TableId};

    #[test]
    fn a_policy_survives_its_word() {
        for (table, generation, flags, errno) in [
            (0, 0, 0, 0),
            (1, 1, 1, 1),
            (MAX_TABLES - 1, u32::MAX, 31, 133),
            (4_095, 1 << 31, 4, 4_095),
        ] {
            let policy = Policy {
                table: TableId(table),
                generation: Generation(generation),
                flags,
                errno,
            };
            assert_eq!(Policy::of_word(policy.word()), policy);
        }
    }
}
