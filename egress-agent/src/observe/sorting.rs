//! Delays denied connects of datagram sockets for a moment. `getaddrinfo` connects a datagram socket to each
//! address of a name, to sort them by the source address that the kernel would choose (RFC 6724). Then the
//! program dials one of them with a stream, which is denied too, and one line covers both.
//!
//! Decides which of the kernel's denials belong together. Writes no line.

use egress_ebpf::abi::{DenyEvent, proto};
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::CgroupId;
use egress_ebpf::verdict::Hook;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a denial is delayed. The kernel reports the same denial once a second, so the event of the dial
/// may come that much later.
const MOMENT: Duration = Duration::from_secs(1);
/// The most denials that are delayed, and the most dialled destinations that are remembered. If there is no
/// room, a denial is logged at once.
const ROOM: usize = 64;

/// A cgroup, and the destination that its socket dialled.
type Dialled = (CgroupId, Addr, u16);

/// See the module.
#[derive(Debug, Default)]
pub struct Sorting {
    held: VecDeque<(Instant, DenyEvent)>,
    dialled: VecDeque<(Instant, Dialled)>,
}

fn dialled(event: &DenyEvent) -> Dialled {
    (event.cgroup, event.addr, event.port)
}

fn is_connect(event: &DenyEvent) -> bool {
    event.hook == Hook::Connect4 as u8 || event.hook == Hook::Connect6 as u8
}

impl Sorting {
    /// Whether a denial is to be logged now. If not, [`Self::ripe`] returns it later, unless a
    /// stream to the same place is denied within a moment before or after it.
    pub fn tells(&mut self, event: &DenyEvent, now: Instant) -> bool {
        if !is_connect(event) {
            return true;
        }
        let fresh = |at: Instant| now.saturating_duration_since(at) <= MOMENT;
        self.dialled.retain(|(at, _)| fresh(*at));
        if event.proto == proto::TCP {
            self.held
                .retain(|(_, held)| dialled(held) != dialled(event));
            if self.dialled.len() == ROOM {
                self.dialled.pop_front();
            }
            self.dialled.push_back((now, dialled(event)));
            return true;
        }
        if event.proto != proto::UDP || self.held.len() == ROOM {
            return true;
        }
        if !self.dialled.iter().any(|(_, to)| *to == dialled(event)) {
            self.held.push_back((now, *event));
        }
        false
    }

    /// When the next delayed denial is due.
    pub fn due(&self) -> Option<Instant> {
        self.held.front().map(|(at, _)| *at + MOMENT)
    }

    /// The next delayed denial that is due: no stream to the same place was denied.
    pub fn ripe(&mut self, now: Instant) -> Option<DenyEvent> {
        self.due().filter(|due| *due <= now)?;
        self.held.pop_front().map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::{MOMENT, ROOM, Sorting};
    use egress_ebpf::abi::{DenyEvent, proto};
    use egress_ebpf::ids::CgroupId;
    use egress_ebpf::verdict::Hook;
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    fn denial(last: u8, proto: u8, hook: Hook) -> DenyEvent {
        DenyEvent {
            cgroup: CgroupId(7),
            addr: Ipv4Addr::new(203, 0, 113, last).into(),
            port: 443,
            proto,
            hook: hook as u8,
            ..DenyEvent::default()
        }
    }

    #[test]
    fn a_denied_lookup_and_dial_are_told_once() {
        let (mut sorting, start) = (Sorting::default(), Instant::now());
        for last in [1, 2] {
            let probe = denial(last, proto::UDP, Hook::Connect4);
            assert!(!sorting.tells(&probe, start));
        }
        for last in [1, 2] {
            let dial = denial(last, proto::TCP, Hook::Connect4);
            assert!(sorting.tells(&dial, start + Duration::from_millis(3)));
        }
        // Once more, where the kernel has no event for the dial a second time.
        let probe = denial(1, proto::UDP, Hook::Connect4);
        assert!(!sorting.tells(&probe, start + MOMENT));
        assert_eq!(sorting.due(), None);
        assert_eq!(sorting.ripe(start + 3 * MOMENT), None);
    }

    #[test]
    fn a_datagram_client_is_told_of_after_a_moment() {
        let (mut sorting, start) = (Sorting::default(), Instant::now());
        let client = denial(1, proto::UDP, Hook::Connect6);
        assert!(!sorting.tells(&client, start));
        // Another place, another workload: nothing to do with it.
        assert!(sorting.tells(&denial(2, proto::TCP, Hook::Connect4), start));
        let other = DenyEvent {
            cgroup: CgroupId(8),
            ..denial(1, proto::TCP, Hook::Connect4)
        };
        assert!(sorting.tells(&other, start));
        assert_eq!(sorting.ripe(start), None);
        let due = sorting.due().unwrap();
        assert_eq!(due, start + MOMENT);
        assert_eq!(sorting.ripe(due), Some(client));
        assert_eq!(sorting.ripe(due), None);
    }

    #[test]
    fn what_is_sent_is_told_at_once_and_so_is_what_has_no_room() {
        let (mut sorting, now) = (Sorting::default(), Instant::now());
        for hook in [Hook::Sendmsg4, Hook::Egress, Hook::Setsockopt] {
            assert!(sorting.tells(&denial(1, proto::UDP, hook), now));
        }
        for last in 0..ROOM as u8 {
            assert!(!sorting.tells(&denial(last, proto::UDP, Hook::Connect4), now));
        }
        assert!(sorting.tells(&denial(200, proto::UDP, Hook::Connect4), now));
    }
}
