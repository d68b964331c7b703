//! Durations of repeated work, counted in buckets: what is measured, and the buckets of each. Prometheus calls this a
//! histogram. Keeps no single duration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most buckets of one histogram.
const MAX_BUCKETS: usize = 14;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// From the moment a change of the rules was noticed until it is in force.
    RulesInForce,
    /// A DNS question of the agent, both families and all servers that were asked.
    DnsQuestion,
    /// A request or connection through the proxy.
    ProxyRequest,
}

/// A histogram's name and its buckets.
#[derive(Debug)]
pub struct TimingFamily {
    /// What it measures.
    pub timing: Timing,
    /// Its name as a metric.
    pub name: &'static str,
    /// Its meaning in a sentence.
    pub help: &'static str,
    /// Upper bounds of the buckets, ascending. Longer durations are in the last bucket, which has no bound.
    pub bounds: &'static [Duration],
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// All of them, in the order of [`Timing`].
pub const TIMINGS: [TimingFamily; 3] = [
    TimingFamily {
        timing: Timing::RulesInForce,
        name: "egress_rules_enforcement_duration_seconds",
        help: "Time from the moment a change of the rules was noticed until it is in force. First DNS answers for new names come later.",
        bounds: &[
            ms(10),
            ms(25),
            ms(50),
            ms(100),
            ms(250),
            ms(500),
            ms(1000),
            ms(2500),
            ms(5000),
            ms(10_000),
            ms(30_000),
            ms(60_000),
        ],
    },
    TimingFamily {
        timing: Timing::DnsQuestion,
        name: "egress_dns_question_duration_seconds",
        help: "Time of a DNS question of the agent for a listed name: both families, and all name servers that were asked. Questions wait while 64 others are under way; that time counts.",
        bounds: &[
            ms(1),
            ms(2),
            ms(5),
            ms(10),
            ms(25),
            ms(50),
            ms(100),
            ms(250),
            ms(500),
            ms(1000),
            ms(2500),
            ms(5000),
            ms(10_000),
        ],
    },
    TimingFamily {
        timing: Timing::ProxyRequest,
        name: "egress_proxy_request_duration_seconds",
        help: "Time of a request through the proxy, from its head to the end of its response. A TLS or TCP connection counts as one request.",
        bounds: &[
            ms(1),
            ms(5),
            ms(10),
            ms(25),
            ms(50),
            ms(100),
            ms(250),
            ms(500),
            ms(1000),
            ms(2500),
            ms(5000),
            ms(10_000),
            ms(30_000),
            ms(60_000),
        ],
    },
];

/// The buckets of one [`Timing`].
#[derive(Debug, Default)]
struct Histogram {
    /// Not cumulative. One more than the bounds.
    buckets: [AtomicU64; MAX_BUCKETS + 1],
    sum_nanoseconds: AtomicU64,
}

/// The content of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// For each bound, how many durations were at most that long.
    pub at_most: Vec<(Duration, u64)>,
    /// How many there were in all.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

/// All histograms, empty at the agent's start.
#[derive(Debug, Default)]
pub struct Timings([Histogram; TIMINGS.len()]);

impl Timings {
    /// Counts one duration.
    pub fn observe(&self, timing: Timing, took: Duration) {
        let (family, histogram) = (&TIMINGS[timing as usize], &self.0[timing as usize]);
        let bucket = family.bounds.partition_point(|bound| *bound < took);
        histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        histogram
            .sum_nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Reads one histogram.
    pub fn measured(&self, timing: Timing) -> Measured {
        let (family, histogram) = (&TIMINGS[timing as usize], &self.0[timing as usize]);
        let mut count = 0;
        let mut at_most = Vec::with_capacity(family.bounds.len());
        let read = |bucket: usize| histogram.buckets[bucket].load(Ordering::Relaxed);
        for (bucket, bound) in family.bounds.iter().enumerate() {
            count += read(bucket);
            at_most.push((*bound, count));
        }
        Measured {
            at_most,
            count: count + read(family.bounds.len()),
            sum: Duration::from_nanos(histogram.sum_nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_histogram_is_at_its_place_and_its_bounds_ascend() {
        for (number, family) in TIMINGS.iter().enumerate() {
            assert_eq!(family.timing as usize, number, "{}", family.name);
            assert!(family.bounds.is_sorted() && family.bounds.len() <= MAX_BUCKETS);
        }
    }

    #[test]
    fn a_duration_counts_in_its_bucket_and_in_all_longer_ones() {
        let timings = Timings::default();
        for took in [ms(10), ms(11), ms(60_000), ms(61_000)] {
            timings.observe(Timing::RulesInForce, took);
        }
        let measured = timings.measured(Timing::RulesInForce);
        assert_eq!(measured.at_most[0], (ms(10), 1), "a bound is inclusive");
        assert_eq!(measured.at_most[1], (ms(25), 2));
        assert_eq!(measured.at_most.last(), Some(&(ms(60_000), 3)));
        assert_eq!((measured.count, measured.sum), (4, ms(121_021)));
        assert_eq!(timings.measured(Timing::DnsQuestion).count, 0);
    }
}
