//! The reasons why the agent is not ready, by part. Each part writes its own, and `status` reads them.
//! Judges nothing.

use super::trouble::Trouble;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// A part of readiness, in the order in which `status` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The kernel denies unlisted destinations below every existing root.
    Gate,
    /// Every root exists.
    Roots,
    /// The roots contain the workloads.
    Workloads,
    /// The pins outlive the agent.
    Pins,
    /// A redirected flow reaches this agent.
    Redirect,
    /// Each kind of rules of the Kubernetes API has been listed since the start, or those of a previous agent are in
    /// force.
    Rules,
    /// The names of the first rules have answers, or the wait for them is over.
    Answers,
    /// The process has free descriptors.
    Descriptors,
    /// The agent listens on its admin socket.
    Admin,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Gate,
        Self::Roots,
        Self::Workloads,
        Self::Pins,
        Self::Redirect,
        Self::Rules,
        Self::Answers,
        Self::Descriptors,
        Self::Admin,
    ];

    /// Its spelling as a label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Roots => "roots",
            Self::Workloads => "workloads",
            Self::Pins => "pins",
            Self::Redirect => "redirect",
            Self::Rules => "kubernetes-rules",
            Self::Answers => "dns-answers",
            Self::Descriptors => "descriptors",
            Self::Admin => "admin-socket",
        }
    }
}

/// See the module. Clones share the board.
#[derive(Clone, Debug, Default)]
pub struct Board {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
}

/// The content of the board.
#[derive(Debug, Default)]
pub struct Known {
    /// When the canaries last passed.
    pub proven: Option<Instant>,
    /// What is wrong, by part.
    troubles: BTreeMap<Part, Trouble>,
}

impl Known {
    /// The reasons why the agent is not ready; empty if there are none.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.values().map(Trouble::to_string).collect()
    }

    /// The same with the parts.
    pub fn by_part(&self) -> BTreeMap<Part, Trouble> {
        self.troubles.clone()
    }

    /// Whether the gate was proven closed around every root.
    pub fn closed(&self) -> bool {
        let open = |part: &Part| matches!(part, Part::Gate | Part::Roots);
        self.proven.is_some() && !self.troubles.keys().any(open)
    }

    /// Whether the gate was proven closed and nothing is wrong.
    pub fn ready(&self) -> bool {
        self.proven.is_some() && self.troubles.is_empty()
    }
}

impl Board {
    /// Locks the board for reading and writing.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what is wrong with a part; `None` if nothing is.
    pub fn set(&self, part: Part, trouble: Option<Trouble>) {
        let changed = {
            let troubles = &mut self.known().troubles;
            let before = troubles.remove(&part);
            troubles.extend(trouble.map(|why| (part, why)));
            before.as_ref() != troubles.get(&part)
        };
        if changed {
            self.changed.notify_one();
        }
    }

    /// Whether something is wrong with a part.
    pub fn troubled(&self, part: Part) -> bool {
        self.known().troubles.contains_key(&part)
    }

    /// Wakes [`Self::changed`], so that the parts are checked again.
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_proven_and_without_trouble() {
        let board = Board::default();
        assert!(!board.known().ready());
        board.known().proven = Some(Instant::now());
        assert!(board.known().ready());
        board.set(Part::Admin, Some(Trouble::Admin("b".into())));
        board.set(Part::Gate, Some(Trouble::Gate("a".into())));
        assert_eq!(
            board.known().troubles(),
            ["a", "cannot listen on the admin socket: b"]
        );
        assert!(!board.known().ready());
        board.set(Part::Gate, None);
        board.set(Part::Admin, None);
        assert!(board.known().ready());
    }
}
