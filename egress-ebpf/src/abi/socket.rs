//! The state that the programs keep for a socket, and who may read and write each part of it when.

use super::{Comm, action};
use crate::addr::Addr;
use crate::ids::{CgroupId, Generation, NetnsCookie, PolicyId};
use core::mem::size_of;

/// The state of one socket, in its `sk_storage`. Only the programs write it. Several of them may run on one
/// socket at the same time.
///
/// The socket's lock serialises some of them:
///
/// - `connect` runs under the lock for both protocols: `tcp_v4_connect` keeps it from the hook until the
///   SYN has left (`inet_stream_connect`), `udp_pre_connect` holds it for the hook only. `sendmsg`,
///   `recvmsg`, `bind` (`BPF_CGROUP_RUN_SA_PROG_LOCK`) and `getpeername` (`inet_getname`) run under it too.
/// - Packets of a TCP connection leave under the lock, whether a call, a softirq or a timer sends them
///   (`bh_lock_sock`; a timer that finds the lock held leaves the packet to the holder, `tcp_release_cb`).
/// - Datagrams leave without the lock (`udp_sendmsg` without corking), from any number of threads.
/// - A listener answers handshakes without the lock, on every CPU (`tcp_conn_request`), and so does a socket
///   whose resets carry it (`ip_send_unicast_reply`, since Linux 6.13).
/// - `sock_create` runs before anybody else has the socket. An accepted socket starts with a copy of its
///   listener's state (`bpf_sk_storage_clone`), which nobody else sees until the handshake ends.
///
/// | field | written by | read by | what keeps it consistent |
/// |---|---|---|---|
/// | `cgroup`, `netns`, `proto` | `sock_create`; the first hook for sockets older than the gate | every hook | one word each, whose value does not change |
/// | `passed` | `connect`, `sendmsg`, egress of datagrams | the same | one word, which represents the whole verdict |
/// | `judged` | `connect`, `sendmsg`, egress | every hook | one word: policy and generation. A stale pair is judged again |
/// | `mode` | `connect`, egress of streams, under the lock | egress of streams, `getpeername`, the agent | the lock. It is also one word, because a listener's answer reads it without the lock |
/// | `answered` | a listener's answer, on any CPU | egress of streams | one word, which is valid only together with the `mode` that it was written for. Each `connect` changes the mode, so a late write has no effect |
/// | `dialled`, `port` | `connect` and egress of streams, under the lock | egress of streams under the lock, `getpeername` under the lock, the agent's dump | the lock. The agent may read a mixture and end the connection or not. The egress hook judges the packets in any case |
/// | `heard_at`, `heard` | `recvmsg`, under the lock | the same | the lock |
/// | `broadcasts` | `setsockopt`, without the lock | `sendmsg`, egress of datagrams | one byte that is set and never cleared, before the kernel allows the first broadcast |
/// | `pid`, `comm` | `connect`, `sendmsg`, under the lock | events, the origin of a redirected flow (under the lock) | an event of a datagram may show halves of two names; no verdict depends on them |
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketState {
    /// The cgroup of the task that created the socket.
    pub cgroup: CgroupId,
    /// Its network namespace.
    pub netns: NetnsCookie,
    /// Datagrams: [`crate::digest::passed`] of the destination that was last allowed; 0 = none.
    pub passed: u64,
    /// Policy id and generation of the last verdict: [`Self::pair`].
    pub judged: u64,
    /// Streams: [`Mode`].
    pub mode: u64,
    /// Streams: [`Mode::answers`] of the mode in which the socket last answered a handshake.
    pub answered: u64,
    /// Datagrams: when the `heard` datagrams waited ([`crate::heard`]), `bpf_ktime_get_ns`.
    pub heard_at: u64,
    /// Datagrams: [`crate::heard::Heard::word`].
    pub heard: u64,
    /// Streams: the address as dialled (not canonical), which getpeername must show and the proxy must dial.
    pub dialled: Addr,
    /// Streams: port of that, host byte order.
    pub port: u16,
    /// IANA protocol number of the socket.
    pub proto: u8,
    /// Not 0 if the socket may send to broadcast addresses (`SO_BROADCAST`).
    pub broadcasts: u8,
    /// Thread group id of the task that last dialled or sent to an address; 0 before that.
    pub pid: u32,
    /// Name of that task. For a datagram socket, the name at the process's first use of the socket or at its
    /// last denial.
    pub comm: Comm,
}

impl SocketState {
    /// A policy and its generation as one word. It is never 0, because no generation is 0.
    #[must_use]
    #[inline(always)]
    pub const fn pair(policy: PolicyId, generation: Generation) -> u64 {
        ((generation.0 as u64) << 32) | policy.0 as u64
    }

    /// Policy and generation of [`Self::pair`].
    #[must_use]
    #[inline(always)]
    pub const fn of_pair(pair: u64) -> (PolicyId, Generation) {
        (PolicyId(pair as u32), Generation((pair >> 32) as u32))
    }
}

/// The mode of a stream's socket: action, flags, and how often it was dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u64);

impl Mode {
    const FLAGS_AT: u32 = 8;
    const DIALS_AT: u32 = 32;

    /// [`action`] of the last verdict; 0 = none.
    #[must_use]
    #[inline(always)]
    pub const fn action(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Whether any of these [`socket_flag`]s is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(self, flags: u8) -> bool {
        (self.0 >> Self::FLAGS_AT) as u8 & flags != 0
    }

    /// The same with these flags set.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, flags: u8) -> Self {
        Self(self.0 | ((flags as u64) << Self::FLAGS_AT))
    }

    /// Whether its flow was redirected to the proxy.
    #[must_use]
    #[inline(always)]
    pub const fn is_redirected(self) -> bool {
        self.action() == action::PROXY
    }

    /// The mode after another dial: it has this action, and is neither published nor accepted.
    #[must_use]
    #[inline(always)]
    pub const fn dialled(self, action: u32) -> Self {
        let owned = self.0 & ((socket_flag::OWNED as u64) << Self::FLAGS_AT);
        let dials = (self.0 >> Self::DIALS_AT) as u32;
        Self(action as u64 | owned | ((dials.wrapping_add(1) as u64) << Self::DIALS_AT))
    }

    /// The value of `answered` that a listener in this mode writes when it answers a handshake; never 0.
    #[must_use]
    #[inline(always)]
    pub const fn answers(self) -> u64 {
        (self.0 >> Self::DIALS_AT) + 1
    }

    /// Whether the socket is a listener or was accepted by one, not considering the state of its connection:
    /// the listener answered a handshake in this mode, or it is older than the gate.
    #[must_use]
    #[inline(always)]
    pub const fn is_inbound(self, answered: u64) -> bool {
        self.has(socket_flag::INBOUND) || answered == self.answers()
    }
}

/// Bits of [`Mode`].
pub mod socket_flag {
    /// The origin of a redirected flow is in the flow table, so its SYN may leave.
    pub const PUBLISHED: u8 = 1;
    /// Accepted by a listener older than the gate: its answers may leave.
    pub const INBOUND: u8 = 2;
    /// Created below an enforced root while the gate was attached, or accepted by such a listener.
    pub const OWNED: u8 = 4;
}

const _: () = assert!(size_of::<SocketState>() == 8 * 8 + 16 + 8 + 16);

#[cfg(test)]
mod tests {
    use super::{Mode, SocketState, socket_flag};
    use crate::abi::action;
    use crate::ids::{Generation, PolicyId};

    #[test]
    fn a_pair_survives_its_word() {
        for (policy, generation) in [(0, 1), (8191, u32::MAX), (7, 1 << 31)] {
            let (policy, generation) = (PolicyId(policy), Generation(generation));
            let word = SocketState::pair(policy, generation);
            assert_eq!(SocketState::of_pair(word), (policy, generation));
        }
    }

    #[test]
    fn dialling_ends_what_the_socket_was_and_counts() {
        let made = Mode(0).with(socket_flag::OWNED);
        let dialled = made.dialled(action::PROXY).with(socket_flag::PUBLISHED);
        assert!(dialled.is_redirected() && dialled.has(socket_flag::PUBLISHED));
        let again = dialled.with(socket_flag::INBOUND).dialled(action::ALLOW);
        assert_eq!(again.action(), action::ALLOW);
        assert!(!again.has(socket_flag::PUBLISHED | socket_flag::INBOUND));
        assert!(again.has(socket_flag::OWNED));
        // The count goes round.
        let last = Mode(made.0 | (0xffff_ffff << 32));
        assert_eq!(last.dialled(0), made);
    }

    #[test]
    fn an_answer_says_nothing_after_the_next_connect() {
        for made in [
            Mode(0),
            Mode(0).with(socket_flag::OWNED).dialled(action::ALLOW),
        ] {
            let answered = made.answers();
            assert!(!made.is_inbound(0));
            assert!(made.is_inbound(answered));
            for action in [0, action::ALLOW, action::PROXY] {
                assert!(!made.dialled(action).is_inbound(answered));
            }
        }
    }
}
