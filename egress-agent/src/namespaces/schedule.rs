//! When to check a cgroup again. The kernel does not report a process that changes its namespace, so a
//! young cgroup is checked often. Later it is checked rarely.

use egress_ebpf::ids::CgroupId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time from the first check to the second. It doubles with each check.
const FIRST: Duration = Duration::from_millis(2);
/// [`Schedule::hurry`] changes nothing if a check is due within this time.
const SOON: Duration = Duration::from_millis(32);
/// Longest time between two checks.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Schedule {
    due: BTreeSet<(Instant, CgroupId)>,
    of: BTreeMap<CgroupId, (Instant, Duration)>,
}

impl Schedule {
    /// Something happened to this cgroup: it is due now, and then as often as a young one.
    pub fn start(&mut self, now: Instant, id: CgroupId) {
        self.put(id, now, FIRST);
    }

    /// As [`Self::start`], for an event that the workload can cause. Does nothing if the cgroup is due
    /// soon, so a workload cannot ask for more than one check in [`SOON`].
    pub fn hurry(&mut self, now: Instant, id: CgroupId) {
        let soon = |(at, _): &(Instant, Duration)| *at <= now + SOON;
        if !self.of.get(&id).is_some_and(soon) {
            self.start(now, id);
        }
    }

    /// The cgroup is gone.
    pub fn forget(&mut self, id: CgroupId) {
        if let Some((at, _)) = self.of.remove(&id) {
            self.due.remove(&(at, id));
        }
    }

    /// When the next cgroup is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// This cgroup has no process, and the first one will be reported.
    pub fn rest(&mut self, now: Instant, id: CgroupId) {
        self.put(id, now + MAX_INTERVAL, MAX_INTERVAL);
    }

    /// Returns cgroups that are due, `most` of them, and sets when each is due again.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<CgroupId> {
        let due: Vec<CgroupId> = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(most)
            .map(|(_, id)| *id)
            .collect();
        for id in &due {
            if let Some((_, wait)) = self.of.get(id).copied() {
                self.put(*id, now + wait, (wait * 2).min(MAX_INTERVAL));
            }
        }
        due
    }

    fn put(&mut self, id: CgroupId, at: Instant, wait: Duration) {
        self.forget(id);
        self.due.insert((at, id));
        self.of.insert(id, (at, wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_cgroup_is_looked_at_often_and_an_old_one_now_and_then() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.start(start, CgroupId(1));
        let mut looks = Vec::new();
        while let Some(at) = schedule
            .next()
            .filter(|at| *at < start + Duration::from_secs(30))
        {
            assert_eq!(schedule.take(at, 9), [CgroupId(1)]);
            looks.push(at - start);
        }
        let within = |limit| {
            looks
                .iter()
                .filter(|at| **at < Duration::from_millis(limit))
                .count()
        };
        assert!(within(20) >= 4 && within(2000) >= 10, "{looks:?}");
        let last = looks.windows(2).last().unwrap();
        assert_eq!(last[1].saturating_sub(last[0]), MAX_INTERVAL);
    }

    #[test]
    fn a_workload_that_asks_for_looks_all_the_time_gets_few_and_each_soon() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.start(start, CgroupId(1));
        schedule.take(start + MAX_INTERVAL, 9);
        let mut looks = Vec::new();
        for micros in (0..1_000_000).step_by(100) {
            let now = start + MAX_INTERVAL * 2 + Duration::from_micros(micros);
            schedule.hurry(now, CgroupId(1));
            looks.extend(schedule.take(now, 9).iter().map(|_| now));
        }
        assert!(looks.len() < 120, "{}", looks.len());
        let waits = looks.windows(2).map(|two| two[1] - two[0]);
        assert!(waits.max() <= Some(SOON + FIRST));
    }

    #[test]
    fn a_cgroup_without_processes_is_looked_at_rarely_until_its_first_one() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.start(start, CgroupId(1));
        assert_eq!(schedule.take(start, 9), [CgroupId(1)]);
        schedule.rest(start, CgroupId(1));
        assert_eq!(schedule.next(), Some(start + MAX_INTERVAL));
        schedule.start(start + FIRST, CgroupId(1));
        assert_eq!(schedule.take(start + FIRST, 9), [CgroupId(1)]);
        assert_eq!(schedule.next(), Some(start + FIRST * 2));
    }

    #[test]
    fn many_cgroups_that_are_due_come_a_few_at_a_time() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        for id in 1..=3 {
            schedule.start(start, CgroupId(id));
        }
        assert_eq!(schedule.take(start, 2), [CgroupId(1), CgroupId(2)]);
        assert_eq!(schedule.take(start, 2), [CgroupId(3)]);
        assert!(schedule.take(start, 2).is_empty());
    }

    #[test]
    fn what_happens_makes_it_young_again_and_what_is_gone_never_comes() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.start(start, CgroupId(1));
        schedule.start(start, CgroupId(2));
        for step in 0..20 {
            schedule.take(start + MAX_INTERVAL * step, 9);
        }
        let later = start + MAX_INTERVAL * 30;
        schedule.take(later, 9);
        schedule.start(later, CgroupId(1));
        assert_eq!(schedule.take(later, 9), [CgroupId(1)]);
        assert_eq!(schedule.next(), Some(later + FIRST));
        schedule.forget(CgroupId(1));
        schedule.forget(CgroupId(2));
        assert_eq!(schedule.next(), None);
    }
}
