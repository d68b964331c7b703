//! When leases end. A name's first end is noted, not that of each address, so that a longer lease costs nothing.

use super::{LeaseSettings, Leases, Moved, Name};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

impl Name {
    /// The addresses whose leases end, and when. It walks through all of them.
    fn ending(&self) -> impl Iterator<Item = (IpAddr, Instant)> {
        let newest: BTreeSet<IpAddr> = self.newest.iter().copied().collect();
        let lives = self.lives.iter().map(|(ip, life)| (*ip, life.until));
        lives.filter(move |(ip, _)| !newest.contains(ip))
    }
}

impl Leases {
    /// Sets the settings. Addresses that they do not accept lose their leases: returns their names. If they accept other
    /// addresses than before, names of which some are or were left out are asked for at once.
    pub fn set(&mut self, now: Instant, settings: LeaseSettings) -> Moved {
        let as_before = settings.accepts_as(&self.settings);
        self.settings = settings;
        let mut moved = Moved::new();
        if as_before {
            return moved;
        }
        let names: Vec<Arc<str>> = self.names.keys().cloned().collect();
        for name in names {
            let Some(mut state) = self.names.remove(&name) else {
                continue;
            };
            let held = state.lives.keys().copied();
            let refused: BTreeSet<IpAddr> = held
                .filter(|ip| self.settings.leaves_out(&name, *ip))
                .collect();
            if !refused.is_empty() {
                self.refuse(&name, &mut state, &refused);
            }
            let some_left_out = self.addresses.has_left_out(&name);
            if let Some(at) = state.ask_at.filter(|_| some_left_out) {
                self.ask.remove(&(at, Arc::clone(&name)));
                self.ask.insert((now, Arc::clone(&name)));
                state.ask_at = Some(now);
            }
            self.names.insert(Arc::clone(&name), state);
            if !refused.is_empty() {
                moved.insert(name, refused);
            }
        }
        moved
    }

    /// Ends the leases of addresses that the settings do not accept.
    fn refuse(&mut self, name: &Arc<str>, state: &mut Name, refused: &BTreeSet<IpAddr>) {
        for ip in refused {
            state.lives.remove(ip);
            self.addresses.release(*ip, name);
        }
        state.newest.retain(|ip| !refused.contains(ip));
        let refused: Vec<IpAddr> = refused.iter().copied().collect();
        self.addresses.leave_out(name, &refused);
        self.in_force.set(name, &state.lives);
        if state.lives.is_empty() {
            self.addressless.insert(Arc::clone(name));
        } else if !state.newest.is_empty() || !self.learned.has(name) {
            self.in_force.set_newest(name, &state.newest);
        }
        self.ends_next(name, state);
    }

    /// Removes expired addresses. Call [`Self::sweep`] when that is carried out.
    pub fn handle_timeout(&mut self, now: Instant) -> Moved {
        let mut moved = Moved::new();
        while self.expire.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.expire.pop_first() else {
                break;
            };
            let Some((name, mut state)) = self.names.remove_entry(&name) else {
                continue;
            };
            state.ends = None;
            let over = state.ending().filter(|(_, until)| *until <= now);
            let over: BTreeSet<IpAddr> = over.map(|(ip, _)| ip).collect();
            for ip in &over {
                state.lives.remove(ip);
                self.addresses.release(*ip, &name);
            }
            self.ends_next(&name, &mut state);
            if !over.is_empty() {
                self.in_force.set(&name, &state.lives);
                moved.insert(Arc::clone(&name), over);
            }
            self.names.insert(name, state);
        }
        moved
    }

    /// Forgets those of these names that were learned and have no address any more.
    pub fn sweep(&mut self, names: &Moved) {
        for name in names.keys() {
            let over = self
                .names
                .get(name)
                .is_some_and(|state| state.lives.is_empty());
            if over && self.learned.has(name) {
                self.forget(name);
            }
        }
    }

    /// Sets the time of a name's next end anew.
    pub(super) fn ends_next(&mut self, name: &Arc<str>, state: &mut Name) {
        let first = state.ending().map(|(_, until)| until).min();
        self.ends_at(name, state, first);
    }

    pub(super) fn ends_at(&mut self, name: &Arc<str>, state: &mut Name, ends: Option<Instant>) {
        if state.ends == ends {
            return;
        }
        if let Some(at) = state.ends {
            self.expire.remove(&(at, Arc::clone(name)));
        }
        if let Some(at) = ends {
            self.expire.insert((at, Arc::clone(name)));
        }
        state.ends = ends;
    }
}
