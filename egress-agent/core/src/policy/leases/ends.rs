//! When leases end. A name's first end is noted, not that of each address, so that a longer lease costs nothing.

use super::{Leases, Moved, Name};
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
