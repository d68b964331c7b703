//! Finds the latest possible arrival time of a datagram that is read. A peer may be answered for some time
//! after it wrote. Programs see when a datagram is read, but not whether it stays in the queue (`MSG_PEEK`)
//! or how long it waited.
//!
//! Programs see the queue at each read. Datagrams leave it in order, so the ones that wait at some moment are
//! the next ones that are read. Does not know sockets.

/// The datagrams that wait at a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Memory address of the first one.
    pub first: u64,
    /// Their number.
    pub count: u32,
}

/// What a socket remembers: how many datagrams waited at one moment and may still wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// That moment.
    pub at: u64,
    /// Their number, and in the upper half a part of the memory address of the first one at the last read.
    pub word: u64,
}

impl Heard {
    /// A datagram is read while `waiting` wait; it is one of them if it stays. Returns the time by which the
    /// datagram had arrived, and what to remember.
    ///
    /// All datagrams that wait at one moment get the time of that moment. The next moment begins when all of
    /// them are gone. So a datagram gets a time no later than its own first read. If nothing waits after the
    /// read, the datagram gets the present time, because it may have come after others that were read without
    /// a call of this (`recv` without an address).
    #[must_use]
    #[inline(always)]
    pub const fn read(self, waiting: Waiting, now: u64) -> (u64, Self) {
        if waiting.count == 0 {
            return (now, Self { at: now, word: 0 });
        }
        let (first_before, older) = (self.word >> 32, self.word & 0xffff_ffff);
        let first = (waiting.first >> 6) & 0xffff_ffff;
        let at = if older == 0 { now } else { self.at };
        // The first one has changed, so at least one is gone, and the oldest go first.
        let gone = (first != first_before) as u64;
        let older = older.saturating_sub(gone);
        let count = waiting.count as u64;
        let older = if older < count { older } else { count };
        let after = if older == 0 {
            Self {
                at: now,
                word: (first << 32) | count,
            }
        } else {
            Self {
                at: self.at,
                word: (first << 32) | older,
            }
        };
        (at, after)
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, Waiting};
    use std::collections::{BTreeSet, VecDeque};

    /// A socket whose datagrams are named by where they lie and when they came.
    #[derive(Default)]
    struct Socket {
        queue: VecDeque<(u64, u64)>,
        heard: Heard,
        made: u64,
    }

    impl Socket {
        fn comes(&mut self, now: u64) {
            self.made += 1;
            self.queue.push_back((self.made * 256, now));
        }

        /// The time by which what is read had arrived, with the time at which it did.
        fn read(&mut self, now: u64, peek: bool) -> Option<(u64, u64)> {
            let (_, came) = *self.queue.front()?;
            if !peek {
                self.queue.pop_front();
            }
            let waiting = Waiting {
                first: self.queue.front().map_or(0, |d| d.0),
                count: u32::try_from(self.queue.len()).unwrap(),
            };
            let (at, after) = self.heard.read(waiting, now);
            self.heard = after;
            Some((at, came))
        }
    }

    #[test]
    fn reading_the_same_datagram_again_renews_nothing() {
        let mut socket = Socket::default();
        socket.comes(5);
        for now in [10, 20, 300, 4000] {
            assert_eq!(socket.read(now, true), Some((10, 5)));
        }
        // One that came later is known from its first read on.
        socket.comes(4001);
        assert_eq!(socket.read(4002, false).unwrap().0, 10);
        assert_eq!(socket.read(4003, true).unwrap(), (4002, 4001));
        assert_eq!(socket.read(4999, true).unwrap(), (4002, 4001));
    }

    #[test]
    fn a_server_that_waits_and_answers_hears_each_peer_now() {
        let mut socket = Socket::default();
        for now in (0..10_000).step_by(100) {
            socket.comes(now);
            assert_eq!(socket.read(now + 1, false).unwrap().0, now + 1);
        }
    }

    #[test]
    fn datagrams_that_waited_at_a_read_are_no_younger_than_it() {
        let mut socket = Socket::default();
        for _ in 0..200 {
            socket.comes(1);
        }
        for n in 0..199 {
            assert_eq!(socket.read(10 + n * 100, false).unwrap().0, 10);
        }
        // Nothing is behind the last one.
        assert_eq!(socket.read(50_000, false).unwrap().0, 50_000);
    }

    /// In any order of arrivals, reads, peeks and reads that are not seen: once nothing comes any more,
    /// what waits is given the time of at most one more read, until the last of it leaves.
    #[test]
    fn what_waits_is_renewed_once_at_most() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..5000 {
            let mut socket = Socket::default();
            let mut renewed = BTreeSet::new();
            for now in 1..300 {
                match next(8) {
                    0..4 if now < 100 => socket.comes(now),
                    4 => {
                        socket.queue.pop_front();
                    }
                    n => {
                        let read = socket.read(now, n < 7);
                        if now >= 100 && !socket.queue.is_empty() {
                            renewed.extend(read.map(|(at, _)| at).filter(|at| *at >= 100));
                        }
                    }
                }
            }
            assert!(renewed.len() <= 1, "{renewed:?}");
        }
    }
}
