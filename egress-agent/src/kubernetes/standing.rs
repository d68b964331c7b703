//! How each followed kind stands: whether its objects are complete, and since when the API server does not answer.
//! Kept by the followers, read by `status`.

use super::problem::Problem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time after which a problem that has not changed is logged again.
const REPEAT_INTERVAL: Duration = Duration::from_mins(10);

/// All followed kinds. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Vec<Standing>>>);

/// One followed kind. Clones share the state.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: String,
    /// Not every server serves it.
    optional: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    synced: bool,
    objects: usize,
    away: Option<Away>,
    heard: Option<Instant>,
    failures: u64,
    refused: u64,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    problem: String,
    logged: Instant,
}

/// The state of a followed kind, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The plural name of the kind.
    pub kind: String,
    /// Whether all objects were read since the start.
    pub synced: bool,
    /// Known objects.
    pub objects: usize,
    /// For how long they may be out of date, and why.
    pub away: Option<(Duration, String)>,
    /// Time since the server last sent anything about the kind.
    pub heard: Option<Duration>,
    /// Requests that failed, each of which is followed by another one.
    pub failures: u64,
    /// Objects that were received and cannot be used.
    pub refused: u64,
}

impl Standings {
    /// Adds a kind.
    pub fn add(&self, kind: &str) -> Standing {
        self.added(kind, false)
    }

    /// Adds a kind that not every server serves. Where it is not served, it has no objects, which is no problem.
    pub fn add_optional(&self, kind: &str) -> Standing {
        self.added(kind, true)
    }

    fn added(&self, kind: &str, optional: bool) -> Standing {
        let standing = Standing(Arc::new(Inner {
            kind: kind.to_owned(),
            optional,
            state: Mutex::default(),
        }));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(standing.clone());
        standing
    }

    /// The kinds in the order in which they were added.
    pub fn shown(&self) -> Vec<Shown> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(Standing::shown).collect()
    }
}

impl Standing {
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for `status`.
    pub fn shown(&self) -> Shown {
        let state = self.state();
        let away = state.away.as_ref();
        Shown {
            kind: self.0.kind.clone(),
            synced: state.synced,
            objects: state.objects,
            away: away.map(|away| (away.since.elapsed(), away.problem.clone())),
            heard: state.heard.map(|at| at.elapsed()),
            failures: state.failures,
            refused: state.refused,
        }
    }

    /// The API server sent something: a page, an event, a bookmark.
    pub(super) fn heard(&self) {
        self.state().heard = Some(Instant::now());
    }

    /// An object cannot be used.
    pub fn refused(&self) {
        self.state().refused += 1;
    }

    /// All objects are known.
    pub(super) fn synced(&self, objects: usize) {
        let mut state = self.state();
        if !state.synced {
            tracing::info!(
                kind = self.0.kind,
                objects,
                "read all objects from the Kubernetes API"
            );
        }
        state.synced = true;
        state.objects = objects;
        drop(state);
        self.answered();
    }

    /// Another number of objects is known.
    pub(super) fn holds(&self, objects: usize) {
        self.state().objects = objects;
    }

    /// The API server answered, and known objects are up to date.
    pub(super) fn answered(&self) {
        let away = self.state().away.take();
        if let Some(away) = away {
            let seconds = away.since.elapsed().as_secs();
            tracing::info!(
                kind = self.0.kind,
                seconds,
                "the Kubernetes API answers again"
            );
        }
    }

    /// The server does not serve the kind.
    pub(super) fn not_served(&self) {
        if !self.0.optional {
            return self.failed(&Problem::NotServed.to_string());
        }
        let mut state = self.state();
        state.synced = true;
        state.objects = 0;
        state.away = None;
        state.heard = Some(Instant::now());
    }

    /// A request failed.
    pub(super) fn failed(&self, problem: &str) {
        let now = Instant::now();
        let mut state = self.state();
        state.failures += 1;
        let synced = state.synced;
        let away = state.away.get_or_insert_with(|| Away {
            since: now,
            problem: String::new(),
            logged: now,
        });
        if away.problem == problem && now.duration_since(away.logged) < REPEAT_INTERVAL {
            return;
        }
        problem.clone_into(&mut away.problem);
        away.logged = now;
        let seconds = away.since.elapsed().as_secs();
        let effect = if synced {
            "known objects stay in force"
        } else {
            "no object is known yet"
        };
        tracing::warn!(
            kind = self.0.kind,
            problem,
            seconds,
            effect,
            "cannot follow the Kubernetes API; trying again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::captured;

    #[test]
    fn a_problem_is_logged_once_and_so_is_its_end() {
        let standings = Standings::default();
        let pods = standings.add("pods");
        let lines = captured::lines(|| {
            pods.failed("refused");
            pods.failed("refused");
            pods.failed("silent");
            pods.synced(3);
            pods.answered();
        });
        let said: Vec<_> = lines
            .iter()
            .map(|l| (l["level"].as_str(), l["problem"].as_str()))
            .collect();
        let expected = [
            (Some("WARN"), Some("refused")),
            (Some("WARN"), Some("silent")),
            (Some("INFO"), None),
            (Some("INFO"), None),
        ];
        assert_eq!(said, expected, "{lines:?}");
        let shown = standings.shown();
        assert_eq!(
            (shown[0].synced, shown[0].objects, &shown[0].away),
            (true, 3, &None)
        );
        assert_eq!(shown[0].failures, 3, "each counts");
    }
}
