//! What the agent knows of the objects of the Kubernetes API. Talks to no server.

use super::kinds::Kinds;
use super::object::plural;
use crate::kubernetes::{Standing, Standings};
use crate::sources::files::Reading;
use egress_core::istio::{CredentialName, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The objects of the API. Clones share them.
#[derive(Clone, Debug)]
pub struct ApiRules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kinds: Mutex<Kinds>,
    standings: BTreeMap<Kind, Standing>,
    /// Sent after each change of an object, and after the first answer about each kind.
    changed: watch::Sender<()>,
    /// When the first change was received that no reading has yet.
    noticed: Mutex<Option<Instant>>,
    /// The Secrets that rules in force name.
    wanted: watch::Sender<BTreeSet<CredentialName>>,
}

impl ApiRules {
    /// No objects yet. `standings` shows how current each kind is.
    pub fn new(standings: &Standings) -> Self {
        let of_kind = |kind| (kind, standings.add(plural(kind)));
        Self(Arc::new(Inner {
            kinds: Mutex::new(Kinds::new()),
            standings: Kind::ALL.into_iter().map(of_kind).collect(),
            changed: watch::Sender::new(()),
            noticed: Mutex::default(),
            wanted: watch::Sender::default(),
        }))
    }

    /// The objects.
    pub(super) fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the objects to a reading of the rule files. Kinds without a list are failed folders.
    pub(in crate::sources) fn add_to(&self, reading: &mut Reading) {
        // First: an object that changes in between is in this reading, and causes another one.
        let noticed = self.noticed().take();
        reading.noticed.0 = reading.noticed.0.or(noticed.map(Instant::into_std));
        self.kinds().add_to(reading);
    }

    fn noticed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0
            .noticed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An object has changed, which was received at this time.
    pub(super) fn has_changed(&self, at: Instant) {
        self.noticed().get_or_insert(at);
        self.0.changed.send_replace(());
    }

    /// The standing of each kind.
    pub(super) fn standings(&self) -> impl Iterator<Item = (Kind, &Standing)> {
        let standings = self.0.standings.iter();
        standings.map(|(kind, standing)| (*kind, standing))
    }

    /// The Secrets that rules in force name.
    pub(super) fn wanted(&self) -> watch::Receiver<BTreeSet<CredentialName>> {
        self.0.wanted.subscribe()
    }

    /// Notified after each change of an object.
    pub(in crate::sources) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Follows these Secrets and no others.
    pub(in crate::sources) fn want_secrets(&self, names: BTreeSet<CredentialName>) {
        let differ = |wanted: &mut BTreeSet<CredentialName>| {
            let differ = *wanted != names;
            *wanted = names;
            differ
        };
        self.0.wanted.send_if_modified(differ);
    }

    /// Waits until each kind has been listed or cannot be, at most this long. So an agent begins with the present rules
    /// if the server answers, and with the last good ones if it does not.
    pub async fn first_answers(&self, most: Duration) {
        let mut changed = self.changes();
        let end = Instant::now() + most;
        while self.kinds().unanswered().any(|kind| !self.is_away(kind)) {
            let look = end.min(Instant::now() + Duration::from_millis(20));
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(look) => {}
            }
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn is_away(&self, kind: Kind) -> bool {
        let standing = self.0.standings.get(&kind);
        standing.is_some_and(|standing| standing.shown().away.is_some())
    }

    /// The kinds whose lists the start waits for, each with the reason: those that the server has neither listed nor
    /// said not to serve, and all while it serves none.
    pub fn missing(&self) -> Vec<(Kind, Option<String>)> {
        let missing = self.kinds().missing();
        let why = |kind| {
            let shown = self.0.standings.get(&kind)?.shown();
            shown.away.map(|(_, problem)| problem)
        };
        missing.into_iter().map(|kind| (kind, why(kind))).collect()
    }
}
