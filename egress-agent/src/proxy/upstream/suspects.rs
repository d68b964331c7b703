//! Endpoints of a cluster that did not connect a short while ago: other flows prefer the rest, so that a dead address
//! costs one attempt and not one of each flow.
//!
//! It is a preference only. A flow whose endpoints are all suspects dials them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an endpoint is a suspect. After it, one flow tries the endpoint, and the others prefer the rest for twice
/// the time.
const FIRST: Duration = Duration::from_secs(10);
/// The longest such time.
const MAX_TIME: Duration = Duration::from_mins(5);
/// The most suspects of one cluster and workload.
const MAX_SUSPECTS: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// There may be some. Most clusters have none, and their flows take no lock.
    any: AtomicBool,
    known: Mutex<BTreeMap<SocketAddr, Suspect>>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    until: Instant,
    hold: Duration,
}

impl Suspects {
    fn known(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Suspect>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An endpoint did not connect, or not soon.
    pub(super) fn add(&self, endpoint: SocketAddr, now: Instant) {
        let mut known = self.known();
        if known.len() >= MAX_SUSPECTS && !known.contains_key(&endpoint) {
            let soonest = known.iter().min_by_key(|(_, suspect)| suspect.until);
            let soonest = soonest.map(|(endpoint, _)| *endpoint);
            soonest.and_then(|endpoint| known.remove(&endpoint));
        }
        let hold = FIRST;
        let fresh = || Suspect {
            until: now + hold,
            hold,
        };
        let suspect = known.entry(endpoint).or_insert_with(fresh);
        suspect.until = suspect.until.max(now + suspect.hold);
        self.any.store(true, Ordering::Release);
    }

    /// An endpoint connected, or answered.
    pub(super) fn clear(&self, endpoint: SocketAddr) {
        if self.any.load(Ordering::Acquire) {
            let mut known = self.known();
            known.remove(&endpoint);
            self.any.store(!known.is_empty(), Ordering::Release);
        }
    }

    /// Moves suspects behind the others. If the time of the first one is over, it stays: this flow tries it.
    pub(super) fn put_last(&self, order: &mut [SocketAddr], now: Instant) {
        if order.len() < 2 || !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known();
        let is_suspect = |of: &SocketAddr| known.get(of).is_some_and(|s| s.until > now);
        order.sort_by_cached_key(is_suspect);
        if let Some(tried) = known.get_mut(&order[0])
            && tried.until <= now
        {
            tried.hold = (tried.hold * 2).min(MAX_TIME);
            tried.until = now + tried.hold;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, MAX_SUSPECTS, Suspects};
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::time::Instant;

    fn at(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    fn order(suspects: &Suspects, now: Instant) -> Vec<u16> {
        let mut order = [at(1), at(2), at(3)];
        suspects.put_last(&mut order, now);
        order.map(|address| address.port()).to_vec()
    }

    #[test]
    fn a_suspect_comes_last_until_one_flow_tries_it() {
        let (suspects, mut now) = (Suspects::default(), Instant::now());
        assert_eq!(order(&suspects, now), [1, 2, 3]);
        suspects.add(at(1), now);
        assert_eq!(order(&suspects, now), [2, 3, 1]);
        now += FIRST;
        assert_eq!(order(&suspects, now), [1, 2, 3], "one flow tries it");
        assert_eq!(order(&suspects, now), [2, 3, 1], "the others do not");
        now += FIRST + Duration::from_secs(1);
        assert_eq!(order(&suspects, now), [2, 3, 1], "for twice the time");
        suspects.clear(at(1));
        assert_eq!(order(&suspects, now), [1, 2, 3]);
    }

    #[test]
    fn the_order_of_all_suspects_is_the_order_of_none_and_their_number_is_bounded() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        for number in 1..4 {
            suspects.add(at(number), now);
        }
        assert_eq!(order(&suspects, now), [1, 2, 3]);
        for number in 0..3 * MAX_SUSPECTS {
            suspects.add(at(number as u16), now);
        }
        assert_eq!(suspects.known().len(), MAX_SUSPECTS);
    }
}
