//! The wait for the first DNS answers, which readiness shows.

use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::Trouble;
use egress_core::policy::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the first answers before the tables are written without the missing ones. Names
/// that are answered later are added then.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same if no rule is in force yet: long enough for a near resolver, so that its answers are part of
/// the first write.
const PATIENCE_ALONE: Duration = Duration::from_millis(100);
/// Number of awaited names that readiness shows.
const NAMES_SHOWN: usize = 5;

/// See the module.
pub(super) struct FirstAnswers {
    board: Board,
    /// End of the wait; `None` once all answers are there.
    until: Option<Instant>,
}

impl FirstAnswers {
    /// Does not wait yet.
    pub(super) fn new(board: Board) -> Self {
        Self { board, until: None }
    }

    /// Starts the wait. Returns how long the agent's start may wait.
    pub(super) fn begin(&mut self, state: &State) -> Duration {
        self.until = Some(Instant::now() + TIMEOUT);
        self.look(state);
        if state.lists_nothing() {
            PATIENCE_ALONE
        } else {
            TIMEOUT
        }
    }

    /// When [`Self::give_up`] is due; `None` if no answer is awaited.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }

    /// Whether [`Self::give_up`] is due by the clock. A timer alone may never get its turn while answers
    /// come without a pause.
    pub(super) fn are_late(&self) -> bool {
        self.until.is_some_and(|at| at <= Instant::now())
    }

    /// Updates which names are still awaited.
    pub(super) fn look(&mut self, state: &State) {
        if self.until.is_none() {
            return;
        }
        let names = state.unresolved();
        if names.is_empty() {
            self.until = None;
        }
        let why = (!names.is_empty()).then(|| Trouble::Answers {
            count: names.len(),
            first: names
                .iter()
                .take(NAMES_SHOWN)
                .map(ToString::to_string)
                .collect(),
        });
        self.board.set(Part::Answers, why);
    }

    /// Stops waiting for the missing answers.
    pub(super) fn give_up(&mut self, state: &State) {
        self.until = None;
        self.board.set(Part::Answers, None);
        let names = state.addressless();
        if !names.is_empty() {
            tracing::warn!(
                names = names.len(),
                denied = first(names),
                "some names have no DNS answer yet; they are denied until they have one"
            );
        }
    }
}

/// The first names, for the log.
fn first(names: &BTreeSet<Arc<str>>) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect();
    shown.join(", ")
}
