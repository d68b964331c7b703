//! The addresses of each name: takes DNS answers and keeps leases with an expiry.
//!
//! Owns when a name is asked for again and how long an address stays. Does not know which rules list a name:
//! `state` says which names it needs and turns changes into table entries.

mod among;
mod answer;
mod clients;
mod ends;
mod in_force;
mod learned;
mod refresh;
mod room;
mod settings;
pub mod store;

pub use among::Among;
pub use answer::{Answer, Failure, Lease, Moved, Outcome};
pub use in_force::InForce;
pub use learned::Bounds;
pub use settings::{LeaseSettings, PrivateAnswers};

use super::naming::addresses::Addresses;
use answer::Moves;
use in_force::Lives;
use learned::Learned;
use refresh::{Heard, Refresh};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
struct Name {
    /// The life of each address. Those in `newest` stay longer.
    lives: Lives,
    /// The last good answer, in its order.
    newest: Vec<IpAddr>,
    /// Its time in [`Leases::expire`]: no lease ends before it.
    ends: Option<Instant>,
    /// When to ask; `None` while a question is under way.
    ask_at: Option<Instant>,
    failures: u32,
    /// The last question had an answer, so the name's questions have times of their own.
    in_turn: bool,
    last_failure: Option<Failure>,
    moves: Moves,
}

/// All names and their leases.
#[derive(Clone, Debug)]
pub struct Leases {
    settings: LeaseSettings,
    names: BTreeMap<Arc<str>, Name>,
    /// The names of each address, for people: the union over all leases.
    addresses: Addresses,
    ask: BTreeSet<(Instant, Arc<str>)>,
    expire: BTreeSet<(Instant, Arc<str>)>,
    /// Names without a result of a question and without addresses of the previous agent.
    unheard: BTreeSet<Arc<str>>,
    /// Names without an address.
    addressless: BTreeSet<Arc<str>>,
    /// Names whose last question failed.
    failing: BTreeSet<Arc<str>>,
    refresh: Refresh,
    /// Names that workloads asked for and that no rule makes the agent ask for.
    learned: Learned,
    /// The lives of all names, for snapshots.
    in_force: InForce,
    lost: Lost,
}

/// Addresses of answers that have no lease because there was no room, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// They lost their lease before its time, to newer addresses of a full name.
    pub evicted: u64,
    /// They lost their lease before its time, because a policy or all policies had too many learned names.
    pub of_names: u64,
    /// They got none: the name was full, and no address could go.
    pub left_out: u64,
}

impl Leases {
    /// No names.
    pub fn new(settings: LeaseSettings) -> Self {
        Self {
            refresh: Refresh::new(settings.seed),
            settings,
            names: BTreeMap::new(),
            addresses: Addresses::default(),
            ask: BTreeSet::new(),
            expire: BTreeSet::new(),
            unheard: BTreeSet::new(),
            addressless: BTreeSet::new(),
            failing: BTreeSet::new(),
            learned: Learned::default(),
            in_force: InForce::default(),
            lost: Lost::default(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &LeaseSettings {
        &self.settings
    }

    #[cfg(test)]
    /// Sets which names are wanted. New ones are asked for at once; those that are gone lose
    /// their leases.
    pub fn want(&mut self, now: Instant, wanted: &BTreeSet<Arc<str>>) {
        let gone: Vec<_> = self
            .names
            .keys()
            .filter(|n| !wanted.contains(*n))
            .cloned()
            .collect();
        for name in gone {
            self.forget(&name);
        }
        for name in wanted {
            self.add(now, name);
        }
    }

    /// A name is wanted, if it was not before. Returns whether workloads had asked for it: it keeps its addresses, and
    /// what they open and where the proxy dials must be computed anew.
    pub fn add(&mut self, now: Instant, name: &Arc<str>) -> bool {
        if self.learned.forget(name) {
            // Its addresses stay; from now on the agent asks for it too.
            if let Some(state) = self.names.get_mut(name) {
                state.ask_at = Some(now);
                state.newest = state.lives.keys().copied().collect();
                self.in_force.set_newest(name, &state.newest);
            }
            self.ask.insert((now, Arc::clone(name)));
            return true;
        }
        if !self.names.contains_key(name) {
            let fresh = Name {
                ask_at: Some(now),
                ..Name::default()
            };
            self.names.insert(Arc::clone(name), fresh);
            self.ask.insert((now, Arc::clone(name)));
            self.unheard.insert(Arc::clone(name));
            self.addressless.insert(Arc::clone(name));
        }
        false
    }

    /// A name is not wanted any more.
    pub fn forget(&mut self, name: &Arc<str>) {
        let Some(state) = self.names.remove(name) else {
            return;
        };
        if let Some(at) = state.ask_at {
            self.ask.remove(&(at, Arc::clone(name)));
        }
        if let Some(at) = state.ends {
            self.expire.remove(&(at, Arc::clone(name)));
        }
        for ip in state.lives.keys() {
            self.addresses.release(*ip, name);
        }
        self.addresses.forget(name);
        self.in_force.forget(name);
        self.learned.forget(name);
        self.unheard.remove(name);
        self.addressless.remove(name);
        self.failing.remove(name);
    }

    /// The next name to ask for at `now`, if one is due. It is not handed out again until
    /// [`Self::handle_answer`] was called for it.
    pub fn poll_query(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.ask.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, name) = self.ask.pop_first()?;
        if let Some(state) = self.names.get_mut(&name) {
            state.ask_at = None;
        }
        Some(name)
    }

    /// When a question or an expiry is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ask = self.ask.first().map(|(at, _)| *at);
        let expire = self.expire.first().map(|(at, _)| *at);
        ask.into_iter().chain(expire).min()
    }

    /// Takes the result of a question. An answer for a name that is not wanted is dropped.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        name: &str,
        result: Result<Answer, Failure>,
    ) -> Outcome {
        if self.learned.has(name) {
            return Outcome::default();
        }
        let Some((name, mut state)) = self.names.remove_entry(name) else {
            return Outcome::default();
        };
        if let Some(at) = state.ask_at.take() {
            self.ask.remove(&(at, Arc::clone(&name)));
        }
        self.unheard.remove(&name);
        let mut outcome = Outcome::default();
        let answered = result.is_ok();
        let usable = self.usable(&name, result, &mut outcome);
        if answered && !self.addresses.leave_out(&name, &outcome.not_public) {
            outcome.not_public.clear();
        }
        let heard = match usable {
            Ok((addresses, ttl)) => {
                self.take(now, &name, &mut state, addresses, ttl, &mut outcome);
                if !state.lives.is_empty() {
                    self.addressless.remove(&name);
                }
                state.failures = 0;
                state.last_failure = None;
                outcome.recovered = self.failing.remove(&name);
                if std::mem::replace(&mut state.in_turn, true) {
                    Heard::Again(ttl)
                } else {
                    Heard::First(ttl)
                }
            }
            Err(failure) => {
                if state.last_failure.as_ref() != Some(&failure) {
                    outcome.failed = Some(failure.clone());
                }
                state.last_failure = Some(failure);
                self.failing.insert(Arc::clone(&name));
                state.in_turn = false;
                let before = state.failures;
                state.failures = before.saturating_add(1);
                Heard::Failure(before)
            }
        };
        let pause = self.refresh.pause(heard, &self.settings);
        // A time that the clock cannot represent means never.
        state.ask_at = now.checked_add(pause);
        if let Some(at) = state.ask_at {
            self.ask.insert((at, Arc::clone(&name)));
        }
        self.ends_next(&name, &mut state);
        self.names.insert(name, state);
        outcome
    }

    fn usable(
        &self,
        name: &str,
        result: Result<Answer, Failure>,
        outcome: &mut Outcome,
    ) -> Result<(Vec<IpAddr>, Duration), Failure> {
        let Answer { addresses, ttl } = result?;
        let (usable, not_public) = self.settings.accepted(name, addresses);
        outcome.not_public = not_public;
        if usable.is_empty() {
            let first = outcome.not_public.first();
            Err(first.map_or(Failure::NoAddress, |ip| Failure::NotPublic(*ip)))
        } else {
            Ok((usable, ttl))
        }
    }

    fn take(
        &mut self,
        now: Instant,
        name: &Arc<str>,
        state: &mut Name,
        mut addresses: Vec<IpAddr>,
        ttl: Duration,
        outcome: &mut Outcome,
    ) {
        let first = state.lives.is_empty();
        let room = self.settings.max_addresses;
        addresses = self.unite(now, name, state, (addresses, ttl), room, outcome);
        let moved = !outcome.moved.is_empty() && !first;
        state.moves.note(moved);
        self.addresses.set_rotating(name, state.moves.rotates());
        // A full name whose whole answer was left out keeps its last good addresses.
        if !addresses.is_empty() && state.newest != addresses {
            self.in_force.set_newest(name, &addresses);
            state.newest = addresses;
            outcome.changed = true;
        }
    }

    /// All addresses of a name that hold a lease, sorted.
    pub fn leased(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.names
            .get(name)
            .into_iter()
            .flat_map(|n| n.lives.keys().copied())
    }

    /// Whether an address of a name holds a lease.
    pub fn has(&self, name: &str, address: IpAddr) -> bool {
        self.names
            .get(name)
            .is_some_and(|n| n.lives.contains_key(&address))
    }

    /// The addresses of the last good answer, in its order: what to dial.
    pub fn newest(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map_or(&[], |n| &n.newest)
    }

    /// The names by which each address is known, for people.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How many leases there are. An address of two names has two.
    pub fn leases(&self) -> usize {
        self.addresses.leases()
    }

    /// Names without an answer or a failure so far, and without addresses of the previous agent.
    pub fn unresolved(&self) -> &BTreeSet<Arc<str>> {
        &self.unheard
    }

    /// Names without an address.
    pub fn addressless(&self) -> &BTreeSet<Arc<str>> {
        &self.addressless
    }

    /// How many names are wanted.
    pub fn count(&self) -> usize {
        self.names.len() - self.learned.len()
    }

    /// How many names were learned from queries of workloads.
    pub fn learned(&self) -> usize {
        self.learned.len()
    }

    /// The leases, as a snapshot.
    pub fn in_force(&self) -> InForce {
        self.in_force.with_grace(self.settings.grace)
    }

    /// Addresses without a lease for want of room.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Names whose last question failed, and why. They may have addresses of an earlier answer.
    pub fn failing(&self) -> impl Iterator<Item = (&Arc<str>, &Failure)> {
        self.failing
            .iter()
            .filter_map(|name| Some((name, self.names.get(name)?.last_failure.as_ref()?)))
    }

    /// How many such names there are.
    pub fn failing_count(&self) -> usize {
        self.failing.len()
    }
}

#[cfg(test)]
mod tests;
