//! A redirected flow between the client's socket and the proxy's.

use super::Comm;
use crate::addr::Addr;
use crate::digest;
use crate::ids::{CgroupId, NetnsCookie, PolicyId};
use core::mem::size_of;

/// Key of a flow between its SYN and the end of its handshake.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// The network namespace that both ends are in.
    pub netns: NetnsCookie,
    /// The client's address towards the proxy.
    pub addr: Addr,
    /// The client's port, host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What the proxy must know about a redirected flow: its destination and its owner.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowOrigin {
    /// The socket's owner.
    pub cgroup: CgroupId,
    /// Socket cookie of the client's socket.
    pub cookie: u64,
    /// The client's network namespace.
    pub netns: NetnsCookie,
    /// The destination as dialled.
    pub addr: Addr,
    /// Its port, host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub reserved: u8,
    /// Policy id under which it was redirected.
    pub policy: PolicyId,
    /// Thread group id of the connecting task.
    pub pid: u32,
    /// Zero.
    pub reserved2: u32,
    /// Name of that task.
    pub comm: Comm,
    /// [`Self::sealed`] of the flow's key.
    pub seal: u64,
}

impl FlowOrigin {
    /// Words before the seal.
    const WORDS: usize = 9;

    /// The seal of an origin under a key. While a program copies an entry of the flow table, the kernel may
    /// give the element to another flow (the table is an LRU hash, which uses elements again at once). Such a
    /// copy does not have the seal for the key of the lookup.
    ///
    /// # Safety
    /// `origin` points to a whole, aligned value. Other CPUs may write it at the same time.
    #[must_use]
    #[inline(always)]
    pub unsafe fn sealed(origin: *const Self, key: &FlowKey) -> u64 {
        let [a, b, c, d] = key.addr.be.map(u64::from);
        let mut sum = digest::chain(key.netns.0, a | (b << 32));
        sum = digest::chain(sum, c | (d << 32));
        sum = digest::chain(sum, u64::from(key.port));
        // SAFETY: these words are inside the value, which has no padding. The caller guarantees the rest.
        unsafe { digest::chain_words(sum, origin.cast(), Self::WORDS) }
    }
}

const _: () = {
    assert!(size_of::<FlowKey>() == 32);
    assert!(size_of::<FlowOrigin>() == FlowOrigin::WORDS * 8 + 8);
};

#[cfg(test)]
mod tests {
    use super::{Comm, FlowKey, FlowOrigin};
    use crate::ids::{CgroupId, NetnsCookie, PolicyId};

    #[test]
    fn an_origin_has_the_seal_of_its_own_key_only() {
        let key = FlowKey {
            netns: NetnsCookie(1),
            port: 40_000,
            ..FlowKey::default()
        };
        let origin = FlowOrigin {
            cgroup: CgroupId(7),
            policy: PolicyId(3),
            ..FlowOrigin::default()
        };
        // SAFETY: a value of this function's own.
        let seal = |o: &FlowOrigin, k: &FlowKey| unsafe { FlowOrigin::sealed(o, k) };
        let whole = seal(&origin, &key);
        assert_eq!(seal(&FlowOrigin { seal: 9, ..origin }, &key), whole);
        assert_ne!(
            seal(
                &origin,
                &FlowKey {
                    port: 40_001,
                    ..key
                }
            ),
            whole
        );
        assert_ne!(
            seal(
                &origin,
                &FlowKey {
                    netns: NetnsCookie(2),
                    ..key
                }
            ),
            whole
        );
        for other in [
            FlowOrigin {
                cgroup: CgroupId(8),
                ..origin
            },
            FlowOrigin {
                policy: PolicyId(4),
                ..origin
            },
            FlowOrigin {
                comm: Comm([1; 16]),
                ..origin
            },
        ] {
            assert_ne!(seal(&other, &key), whole);
        }
    }
}
