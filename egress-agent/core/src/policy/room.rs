//! How many entries all tables together have room for.

use thiserror::Error;

/// The kinds of entries, in the order of [`Room`].
const KINDS: [&str; 2] = ["single addresses", "networks"];

/// The most single addresses and the most networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(pub [usize; 2]);

/// More entries than the tables have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{needed} entries of {kind}, there is room for {limit}")]
pub struct TooMany {
    kind: &'static str,
    needed: usize,
    limit: usize,
}

impl Room {
    /// Whether there is room for these numbers of single addresses and networks.
    ///
    /// # Errors
    /// The kind of entry of which there are too many.
    pub fn holds(self, needed: [usize; 2]) -> Result<(), TooMany> {
        for ((kind, needed), limit) in KINDS.into_iter().zip(needed).zip(self.0) {
            if needed > limit {
                return Err(TooMany {
                    kind,
                    needed,
                    limit,
                });
            }
        }
        Ok(())
    }
}
