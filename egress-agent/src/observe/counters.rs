//! The agent's own counters, and a reader of these and the kernel's. `families` describes each counter.

use super::families::{FAMILIES, Family, Own, Series, Source};
use crate::kernel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The agent's own counters, zero at its start. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<[AtomicU64; Own::COUNT]>);

impl Counters {
    /// Adds to one.
    pub fn add(&self, which: Own, more: u64) {
        self.0[which as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Reads one.
    pub fn get(&self, which: Own) -> u64 {
        self.0[which as usize].load(Ordering::Relaxed)
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
        let all = FAMILIES
            .iter()
            .flat_map(|family| family.series.iter().map(move |series| (family, series)));
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
