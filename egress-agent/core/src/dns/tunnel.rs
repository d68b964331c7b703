//! Bounds how many names below one wildcard a workload asks for: whoever serves the wildcard's domain reads them, so
//! each new name is a message to it.
//!
//! Owns the count. A name that was asked for lately costs nothing. Memory is bounded for each workload, and a workload
//! gains nothing by filling it.

use super::settings::Below;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Names that one workload asked for lately and that are remembered.
const REMEMBERED: usize = 1024;
/// Wildcards of one workload that are counted at a time. Below further ones nothing is allowed until a count is full
/// again.
const WILDCARDS: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Tunnel {
    workloads: BTreeMap<CgroupId, Counts>,
}

/// Of one workload.
#[derive(Debug, Default)]
struct Counts {
    wildcards: BTreeMap<Arc<str>, Count>,
    names: Remembered,
}

#[derive(Debug)]
struct Count {
    /// Names that may be asked for, in thousandths.
    tokens: u64,
    /// When they were counted.
    at: Instant,
}

/// The last names, by when they were asked for.
#[derive(Debug, Default)]
struct Remembered {
    when: BTreeMap<Arc<str>, u64>,
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
}

impl Remembered {
    /// Whether a name is remembered; then it is the latest.
    fn renew(&mut self, name: &str) -> bool {
        let Some((name, at)) = self.when.remove_entry(name) else {
            return false;
        };
        self.order.remove(&at);
        self.put(name);
        true
    }

    fn put(&mut self, name: Arc<str>) {
        self.order.insert(self.next, Arc::clone(&name));
        self.when.insert(name, self.next);
        self.next += 1;
        if self.when.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.when.remove(&oldest);
        }
    }
}

/// One name, in the unit of [`Count::tokens`].
const ONE: u64 = 1000;

impl Tunnel {
    /// Whether a workload may ask for this name below the wildcard. The workload is the cgroup that owns the policy, so
    /// that its children have one count.
    pub fn allows(
        &mut self,
        now: Instant,
        workload: CgroupId,
        wildcard: &Arc<str>,
        name: &Arc<str>,
        bounds: Below,
    ) -> bool {
        let counts = self.workloads.entry(workload).or_default();
        if counts.names.renew(name) {
            return true;
        }
        let most = u64::from(bounds.burst) * ONE;
        if counts.wildcards.len() >= WILDCARDS && !counts.wildcards.contains_key(wildcard) {
            // A full count can be forgotten: it would be made again as it is.
            let full = |count: &mut Count| count.renew(now, bounds) < most;
            counts.wildcards.retain(|_, count| full(count));
            if counts.wildcards.len() >= WILDCARDS {
                return false;
            }
        }
        let count = counts.wildcards.entry(Arc::clone(wildcard));
        let count = count.or_insert(Count {
            tokens: most,
            at: now,
        });
        let Some(left) = count.renew(now, bounds).checked_sub(ONE) else {
            return false;
        };
        count.tokens = left;
        counts.names.put(Arc::clone(name));
        true
    }

    /// A workload is gone.
    pub fn forget(&mut self, workload: CgroupId) {
        self.workloads.remove(&workload);
    }
}

impl Count {
    /// The tokens at this time.
    fn renew(&mut self, now: Instant, bounds: Below) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let earned = passed * u128::from(bounds.per_minute) * u128::from(ONE) / 60_000;
        // A time that earns nothing yet is not lost.
        if earned > 0 {
            self.at = now;
        }
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        let most = u64::from(bounds.burst) * ONE;
        self.tokens = self.tokens.saturating_add(earned).min(most);
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::{Below, REMEMBERED, Tunnel, WILDCARDS};
    use egress_ebpf::ids::CgroupId;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn ask(tunnel: &mut Tunnel, now: Instant, who: u64, number: usize) -> bool {
        let name = Arc::from(format!("n{number}.example.com"));
        tunnel.allows(
            now,
            CgroupId(who),
            &"*.example.com".into(),
            &name,
            Below::default(),
        )
    }

    #[test]
    fn new_names_are_bounded_and_known_ones_are_free() {
        let (mut tunnel, now) = (Tunnel::default(), Instant::now());
        let allowed = (0..10_000).filter(|n| ask(&mut tunnel, now, 1, *n)).count();
        assert_eq!(allowed, 256);
        assert!((0..256).all(|n| ask(&mut tunnel, now, 1, n)));
        assert!(ask(&mut tunnel, now, 2, 0), "a neighbour has its own");
        let later = now + Duration::from_mins(1);
        let allowed = (10_000..20_000).filter(|n| ask(&mut tunnel, later, 1, *n));
        assert_eq!(allowed.count(), 60);
    }

    #[test]
    fn many_queries_earn_no_more_than_the_time_they_take() {
        let (mut tunnel, start) = (Tunnel::default(), Instant::now());
        let mut allowed = 0;
        for n in 0..60_000 {
            let now = start + Duration::from_millis(n);
            allowed += usize::from(ask(&mut tunnel, now, 1, n as usize));
        }
        assert!((256..=256 + 60).contains(&allowed), "{allowed}");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut tunnel, mut now) = (Tunnel::default(), Instant::now());
        for n in 0..3 * REMEMBERED {
            now += Duration::from_secs(1);
            ask(&mut tunnel, now, 1, n);
        }
        assert_eq!(tunnel.workloads[&CgroupId(1)].names.when.len(), REMEMBERED);
        let mut allowed = 0;
        for n in 0..20 * WILDCARDS {
            let wildcard = Arc::from(format!("*.{}.example", n % (2 * WILDCARDS)));
            let name = Arc::from(format!("a.{n}.example"));
            let bounds = Below {
                burst: 2,
                per_minute: 1,
                ..Below::default()
            };
            allowed += usize::from(tunnel.allows(now, CgroupId(1), &wildcard, &name, bounds));
        }
        let counts = &tunnel.workloads[&CgroupId(1)];
        assert_eq!(counts.wildcards.len(), WILDCARDS);
        assert_eq!(allowed, 2 * WILDCARDS, "filling the memory earns nothing");
    }
}
