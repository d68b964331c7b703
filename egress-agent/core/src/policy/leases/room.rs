//! Which address a full name loses for a new one: the one that was not in an answer and not in use for longest.

use super::in_force::Lives;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// No address may go: all are of the newest answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The room for the addresses of one answer.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    /// Addresses that were seen later are of the newest answers, or in use.
    recent: Option<Instant>,
    /// Addresses that may go, in this order; `None` until one has to.
    candidates: Option<VecDeque<IpAddr>>,
}

impl Room {
    /// Room for `most` addresses. Those that were seen within `recent` stay.
    pub(super) fn new(most: usize, now: Instant, recent: Duration) -> Self {
        Self {
            most,
            recent: now.checked_sub(recent),
            candidates: None,
        }
    }

    /// Makes room for one more address: the address that has to go, if any.
    pub(super) fn make(
        &mut self,
        lives: &Lives,
        newest: &[IpAddr],
    ) -> Result<Option<IpAddr>, Full> {
        if lives.len() < self.most {
            return Ok(None);
        }
        let recent = self.recent;
        let candidates = self.candidates.get_or_insert_with(|| {
            let old = lives.iter().filter(|(ip, life)| {
                recent.is_some_and(|recent| life.seen <= recent) && !newest.contains(ip)
            });
            let mut old: Vec<_> = old.map(|(ip, life)| (life.seen, *ip)).collect();
            old.sort_unstable();
            old.into_iter().map(|(_, ip)| ip).collect()
        });
        // One that the same answer repeats further on was seen since.
        while let Some(ip) = candidates.pop_front() {
            let old = |life: &super::in_force::Life| recent.is_some_and(|r| life.seen <= r);
            if lives.get(&ip).is_some_and(old) {
                return Ok(Some(ip));
            }
        }
        Err(Full)
    }
}
