//! Denials by reason and by the Kubernetes namespace of the workload, with a bound on their number.

use super::event::By;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most combinations that are counted apart.
const MAX_ENTRIES: usize = 1000;
/// A combination without a denial for so long gives its place to another one.
const UNUSED: Duration = Duration::from_hours(1);
/// The namespace of workloads that no entry and no API object names.
pub const UNKNOWN: &str = "unknown";
/// The namespace of all denials that find no place of their own.
pub const OTHER: &str = "other";

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denied {
    /// What denied.
    pub by: By,
    /// The policy audits: the flow passed.
    pub audit: bool,
    /// The code of the reason.
    pub reason: &'static str,
    /// The workload's namespace, [`UNKNOWN`] or [`OTHER`].
    pub namespace: Arc<str>,
}

#[derive(Debug)]
struct Counted {
    count: u64,
    last: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<Denied, Counted>>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Denied, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `more` denials.
    pub fn add(&self, mut which: Denied, more: u64, now: Instant) {
        let mut all = self.lock();
        if !all.contains_key(&which) && all.len() >= MAX_ENTRIES {
            let used = |last: Instant| now.saturating_duration_since(last) < UNUSED;
            all.retain(|_, counted| used(counted.last));
            if all.len() >= MAX_ENTRIES {
                which.namespace = OTHER.into();
            }
        }
        let counted = all.entry(which).or_insert(Counted {
            count: 0,
            last: now,
        });
        counted.count += more;
        counted.last = now;
    }

    /// Everything counted so far.
    pub fn counts(&self) -> Vec<(Denied, u64)> {
        let all = self.lock();
        all.iter()
            .map(|(which, counted)| (which.clone(), counted.count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(namespace: &str) -> Denied {
        Denied {
            by: By::Kernel,
            audit: false,
            reason: "not-listed",
            namespace: namespace.into(),
        }
    }

    #[test]
    fn equal_denials_count_together() {
        let (tally, now) = (Tally::default(), Instant::now());
        tally.add(denied("shop"), 1, now);
        tally.add(denied("shop"), 4, now);
        tally.add(denied("blog"), 1, now);
        assert_eq!(tally.counts(), [(denied("blog"), 1), (denied("shop"), 5)]);
    }

    #[test]
    fn their_number_is_bounded_and_unused_ones_make_room() {
        let (tally, start) = (Tally::default(), Instant::now());
        for n in 0..MAX_ENTRIES + 50 {
            tally.add(denied(&format!("ns-{n}")), 1, start);
        }
        let counts = tally.counts();
        assert_eq!(counts.len(), MAX_ENTRIES + 1, "and one for the others");
        assert!(counts.contains(&(denied(OTHER), 50)));
        let later = start + UNUSED;
        tally.add(denied("new"), 1, later);
        assert_eq!(tally.counts(), [(denied("new"), 1)]);
    }
}
