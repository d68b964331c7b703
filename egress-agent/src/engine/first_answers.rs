//! The wait for the first answers of the name servers, which readiness shows.

use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::Trouble;
use egress_core::policy::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the first questions may take before the tables are written with what is known. Names
/// that answer later join then.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where no rule is in force yet: a resolver nearby answers all in one write.
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
    /// Waits for none yet.
    pub(super) fn new(board: Board) -> Self {
        Self { board, until: None }
    }

    /// Begins to wait. Returns how long the start may wait.
    pub(super) fn begin(&mut self, state: &State) -> Duration {
        self.until = Some(Instant::now() + PATIENCE);
        self.look(state);
        if state.lists_nothing() {
            PATIENCE_ALONE
        } else {
            PATIENCE
        }
    }

    /// When [`Self::give_up`] is due; none while nothing is waited for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }

    /// Whether it is due: the clock says so, whether or not a timer had its turn among answers that
    /// come without a pause.
    pub(super) fn are_late(&self) -> bool {
        self.until.is_some_and(|at| at <= Instant::now())
    }

    /// Looks which names are still waited for.
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

/// The first of them.
fn first(names: &BTreeSet<Arc<str>>) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect();
    shown.join(", ")
}
