//! Queries to DNS servers that are redirected to the agent: the servers that a socket asks, and the owner of each
//! redirected datagram.

use super::DNS_SLOTS;
use crate::addr::Addr;
use crate::digest;
use crate::ids::{CgroupId, NetnsCookie};
use core::mem::size_of;

/// New client addresses that one workload may add to the table of DNS clients in a second: an eighth of the table.
pub const DNS_CLIENTS_PER_SECOND: u64 = 8192;

/// One server that a socket asks. The port of the agent's DNS server in the rewritten destination identifies it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DnsSlot {
    /// The server as dialled.
    pub server: Addr,
    /// The agent's port that stands for it, host byte order; 0: the slot is empty.
    pub local: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// The servers that a datagram socket asks, in the `sk_storage` of sockets that use DNS.
///
/// `connect` and `sendmsg` write it, `recvmsg` and `getpeername` read it, all under the socket's lock. The egress hook
/// reads it without the lock, so it may publish a mixture of two servers' addresses for a datagram. The agent judges
/// that address like any other that the workload could have asked.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DnsServers {
    /// In the order of the agent's ports.
    pub slots: [DnsSlot; DNS_SLOTS],
    /// The slot that is replaced next.
    pub oldest: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of a redirected datagram's owner: the addresses of the datagram.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DnsClientKey {
    /// The network namespace that both ends are in.
    pub netns: NetnsCookie,
    /// The client's address towards the agent.
    pub addr: Addr,
    /// The client's port, host byte order.
    pub port: u16,
    /// The agent's port, host byte order.
    pub local: u16,
    /// Zero.
    pub reserved: u32,
}

/// The owner of a redirected datagram, and the server that it was sent to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DnsClient {
    /// The socket's owner.
    pub cgroup: CgroupId,
    /// Socket cookie of the client's socket.
    pub cookie: u64,
    /// The server as dialled. Its port is [`DNS_PORT`](super::DNS_PORT).
    pub server: Addr,
    /// Thread group id of the task that last used the socket.
    pub pid: u32,
    /// Which of the sockets that had this address wrote the entry. The datagram carries it as its mark.
    pub mark: u32,
    /// [`Self::sealed`] of the entry's key.
    pub seal: u64,
}

impl DnsClient {
    /// Words before the seal.
    const WORDS: usize = 5;
    /// The marks are `FIRST_MARK..FIRST_MARK + MARKS`: below the bits that kube-proxy, Cilium and Calico use, and not
    /// the 1 of most transparent proxies.
    const FIRST_MARK: u32 = 2;
    const MARKS: u32 = 250;

    /// The mark of the datagrams of the next socket at an address. A datagram that waits in the agent's queue while
    /// its socket is closed and another one takes its address has another mark than the entry, unless
    /// more than `MARKS` sockets had the address meanwhile.
    #[must_use]
    #[inline(always)]
    pub const fn mark_after(mark: u32) -> u32 {
        let next = mark.wrapping_sub(Self::FIRST_MARK).wrapping_add(1);
        Self::FIRST_MARK + next % Self::MARKS
    }

    /// The seal of an entry under a key, as [`FlowOrigin::sealed`](super::FlowOrigin::sealed).
    ///
    /// # Safety
    /// `client` points to a whole, aligned value. Other CPUs may write it at the same time.
    #[must_use]
    #[inline(always)]
    pub unsafe fn sealed(client: *const Self, key: &DnsClientKey) -> u64 {
        let [a, b, c, d] = key.addr.be.map(u64::from);
        let mut sum = digest::chain(key.netns.0, a | (b << 32));
        sum = digest::chain(sum, c | (d << 32));
        sum = digest::chain(sum, u64::from(key.port) | (u64::from(key.local) << 16));
        // SAFETY: these words are inside the value, which has no padding. The caller guarantees the rest.
        unsafe { digest::chain_words(sum, client.cast(), Self::WORDS) }
    }
}

const _: () = {
    assert!(size_of::<DnsSlot>() == 24);
    assert!(size_of::<DnsServers>() == DNS_SLOTS * 24 + 8);
    assert!(size_of::<DnsClientKey>() == 32);
    assert!(size_of::<DnsClient>() == DnsClient::WORDS * 8 + 8);
};

#[cfg(test)]
mod tests {
    use super::{CgroupId, DnsClient, DnsClientKey};
    use std::collections::BTreeSet;

    #[test]
    fn marks_go_round_and_neighbours_differ() {
        let mut mark = DnsClient::mark_after(0xdead_beef);
        let mut seen = BTreeSet::new();
        for _ in 0..DnsClient::MARKS {
            assert!(mark > 1 && mark < 256);
            assert!(seen.insert(mark));
            mark = DnsClient::mark_after(mark);
        }
        assert!(seen.contains(&mark));
    }

    #[test]
    fn a_client_has_the_seal_of_its_own_key_only() {
        let key = DnsClientKey {
            port: 40_000,
            local: 15_053,
            ..DnsClientKey::default()
        };
        let client = DnsClient {
            cgroup: CgroupId(7),
            ..DnsClient::default()
        };
        // SAFETY: a value of this function's own.
        let seal = |c: &DnsClient, k: &DnsClientKey| unsafe { DnsClient::sealed(c, k) };
        let whole = seal(&client, &key);
        assert_eq!(seal(&DnsClient { seal: 9, ..client }, &key), whole);
        let other_key = DnsClientKey {
            local: 15_054,
            ..key
        };
        assert_ne!(seal(&client, &other_key), whole);
        for other in [
            DnsClient {
                cgroup: CgroupId(8),
                ..client
            },
            DnsClient { mark: 3, ..client },
        ] {
            assert_ne!(seal(&other, &key), whole);
        }
    }
}
