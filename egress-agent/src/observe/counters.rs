//! Everything that the agent counts and measures about itself, and a reader of the counters and the kernel's.
//! `families` describes each counter, `histogram` each histogram.

use super::families::{FAMILIES, Family, Own, Series, Source};
use super::finished::Finished;
use super::histogram::Timings;
use super::tally::Tally;
use crate::kernel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The agent's own counters, zero at its start. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    own: [AtomicU64; Own::COUNT],
    timings: Timings,
    denied: Tally,
    finished: Finished,
}

impl Counters {
    /// Adds to one.
    pub fn add(&self, which: Own, more: u64) {
        self.0.own[which as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Reads one.
    pub fn get(&self, which: Own) -> u64 {
        self.0.own[which as usize].load(Ordering::Relaxed)
    }

    /// The histograms.
    pub fn timings(&self) -> &Timings {
        &self.0.timings
    }

    /// Denials by reason and namespace.
    pub fn denied(&self) -> &Tally {
        &self.0.denied
    }

    /// Finished requests and connections of the proxy.
    pub fn finished(&self) -> &Finished {
        &self.0.finished
    }
}

/// A value of a family.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it counts.
    pub family: &'static Family,
    /// Which of its values this is.
    pub series: &'static Series,
    /// The value.
    pub value: u64,
}

/// Reads every counter.
#[derive(Clone)]
pub struct Registry {
    /// The agent's.
    pub own: Counters,
    /// The programs'.
    pub kernel: Arc<kernel::Counters>,
}

impl Registry {
    /// The programs' counters, and the agent's at zero.
    pub fn new(kernel: kernel::Counters) -> Self {
        Self {
            own: Counters::default(),
            kernel: Arc::new(kernel),
        }
    }

    /// All values, in the order of [`FAMILIES`].
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples_of_all(FAMILIES.iter())
    }

    /// The values of one family.
    pub fn samples_of(&self, name: &str) -> impl Iterator<Item = Sample> {
        self.samples_of_all(FAMILIES.iter().filter(move |family| family.name == name))
    }

    fn samples_of_all(
        &self,
        families: impl Iterator<Item = &'static Family>,
    ) -> impl Iterator<Item = Sample> {
        let all =
            families.flat_map(|family| family.series.iter().map(move |series| (family, series)));
        all.map(|(family, series)| Sample {
            family,
            series,
            value: match series.source {
                Source::Kernel(index) => self.kernel.get(index),
                Source::Agent(own) => self.own.get(own),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_count_together() {
        let counters = Counters::default();
        let copy = counters.clone();
        copy.add(Own::ProxyDenied, 2);
        counters.add(Own::ProxyDenied, 1);
        counters.add(Own::LeftOut, 7);
        assert_eq!(copy.get(Own::ProxyDenied), 3);
        assert_eq!(copy.get(Own::LeftOut), 7);
        assert_eq!(copy.get(Own::Events), 0);
    }
}
