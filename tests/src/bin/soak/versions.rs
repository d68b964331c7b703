//! The versions of the rules that may be in force, as the harness says.
//!
//! `begin 7` comes before the harness writes version 7, and `done 7` after the agent has applied it. Both are
//! acknowledged.

use serde_json::json;
use std::io::{BufRead as _, Write as _};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Versions(Arc<[AtomicU64; 2]>);

impl Versions {
    /// Follows standard input in a thread.
    pub(crate) fn follow(&self) {
        let versions = self.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let Some((word, number)) = line.split_once(' ') else {
                    continue;
                };
                let at = usize::from(word == "begin");
                let number = number.parse().unwrap_or_default();
                versions.0[at].store(number, Ordering::SeqCst);
                println!("{}", json!({ word: number }));
                let _ = std::io::stdout().flush();
            }
        });
    }

    /// The oldest version that may be in force.
    pub(crate) fn oldest(&self) -> u64 {
        self.0[0].load(Ordering::SeqCst)
    }

    /// Those that may have been in force since `oldest` was asked for.
    pub(crate) fn since(&self, oldest: u64) -> RangeInclusive<u64> {
        oldest..=self.0[1].load(Ordering::SeqCst)
    }
}
