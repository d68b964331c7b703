//! Round robin: each list of destinations counts its own draws.
//!
//! Lists do not share a count: a flow that advances a shared count twice would reach only every second entry of a list.
//! The snapshot keeps the count of a split. The proxy keeps the count of a cluster's endpoints, which outlives
//! snapshots.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a list is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The next draw of the list, which counts.
    Next,
    /// The draw of this number, which does not advance the count: to see what a flow would get.
    At(usize),
}

impl From<usize> for Turn {
    fn from(number: usize) -> Self {
        Self::At(number)
    }
}

/// The draws from one list.
pub struct Turns(AtomicUsize);

impl Turns {
    /// The number of the next draw.
    pub fn draw(&self) -> usize {
        self.number(Turn::Next)
    }

    /// The number of a draw.
    pub(super) fn number(&self, turn: Turn) -> usize {
        match turn {
            Turn::Next => self.0.fetch_add(1, Ordering::Relaxed),
            Turn::At(number) => number,
        }
    }
}

impl Default for Turns {
    /// Lists start at different places. Otherwise lists that are rebuilt with every DNS answer, or once for each
    /// policy, would all send their first flow to the first entry.
    fn default() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed) as u64;
        // SplitMix64's finalizer: neighbours get unrelated starts.
        let mixed = (made ^ (made >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(AtomicUsize::new((mixed ^ (mixed >> 31)) as usize))
    }
}

/// The same text for every list, in line with [`PartialEq`].
impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}

impl Clone for Turns {
    fn clone(&self) -> Self {
        Self(AtomicUsize::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Draws do not make two snapshots unequal.
impl PartialEq for Turns {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The place of a draw among weights. Even a few draws in a row follow the weights closely.
pub(super) fn weighted(weights: impl Iterator<Item = u32> + Clone, turn: usize) -> usize {
    let total: u64 = weights.clone().map(u64::from).sum();
    // Multiples of the golden ratio, taken modulo 1, spread evenly over the interval.
    let point = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut at = (u128::from(point) * u128::from(total)) >> 64;
    let mut weights = weights.map(u128::from);
    let place = weights.position(|weight| {
        let here = at < weight;
        at = at.saturating_sub(weight);
        here
    });
    place.unwrap_or(0)
}
