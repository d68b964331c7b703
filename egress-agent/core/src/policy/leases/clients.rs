//! The addresses that workloads got in answers, beside those of the agent's own answers.
//!
//! Owns how the two are united, and that an address in use stays. `learned` bounds the names, `room` the addresses.

use super::in_force::Life;
use super::room::{self, Room};
use super::store::Stored;
use super::{Lease, Leases, Moved, Name, Outcome};
use egress_ebpf::addr::Addr;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Leases {
    /// Adds the addresses of an answer to those of a name. Returns those that have a lease now, which are all if there
    /// is room for them.
    pub(super) fn unite(
        &mut self,
        now: Instant,
        name: &Arc<str>,
        state: &mut Name,
        (mut addresses, ttl): (Vec<IpAddr>, Duration),
        room: usize,
        outcome: &mut Outcome,
    ) -> Vec<IpAddr> {
        let lease = ttl
            .max(self.settings.min_ttl)
            .saturating_add(self.settings.grace);
        let life = Life {
            until: now.checked_add(lease).unwrap_or(now),
            seen: now,
        };
        let mut room = Room::new(room, now, self.settings.min_ttl);
        addresses.retain(|ip| {
            if let Some(known) = state.lives.get_mut(ip) {
                known.until = known.until.max(life.until);
                known.seen = now;
                return true;
            }
            match room.make(&state.lives, &state.newest) {
                Ok(None) => {}
                Ok(Some(oldest)) => {
                    state.lives.remove(&oldest);
                    self.addresses.release(oldest, name);
                    self.lost.evicted += 1;
                    outcome.evicted += 1;
                    outcome.moved.push(oldest);
                }
                Err(room::Full) => {
                    outcome.left_out += 1;
                    return false;
                }
            }
            state.lives.insert(*ip, life);
            outcome.moved.push(*ip);
            outcome.changed = true;
            self.addresses.lease(*ip, name);
            true
        });
        self.lost.left_out += outcome.left_out as u64;
        self.in_force.set(name, &state.lives);
        addresses
    }

    /// Takes the addresses of an answer that a workload gets. Those of a name that the agent asks for are united with
    /// its own; another name is learned, and ends with its last address. Returns the effect, and the names that have
    /// other addresses now: this one, and learned ones that ended to make room.
    pub fn handle_lease(&mut self, now: Instant, lease: &Lease) -> (Outcome, Moved) {
        let mut outcome = Outcome::default();
        let asked = self.names.contains_key(&*lease.name) && !self.learned.has(&lease.name);
        let addresses = lease.answer.addresses.clone();
        let (usable, not_public) = self.settings.accepted(&lease.name, addresses);
        outcome.not_public = not_public;
        if usable.is_empty() || lease.hosts.is_empty() {
            return (outcome, Moved::new());
        }
        let mut moved = Moved::new();
        let room = if asked {
            self.settings.max_addresses
        } else {
            for name in self.learned.note(now, lease, &self.settings.learned) {
                let over: BTreeSet<IpAddr> = self.leased(&name).collect();
                self.lost.of_names += over.len() as u64;
                self.forget(&name);
                moved.insert(name, over);
            }
            self.settings.learned.addresses
        };
        let known = self.names.remove_entry(&*lease.name);
        let (name, mut state) = known.unwrap_or_else(|| (Arc::clone(&lease.name), Name::default()));
        let answer = (usable, lease.answer.ttl);
        let leased = self.unite(now, &name, &mut state, answer, room, &mut outcome);
        if asked && state.newest.is_empty() {
            self.in_force.set_newest(&name, &leased);
            state.newest = leased;
            self.unheard.remove(&name);
            self.addressless.remove(&name);
        }
        let new = outcome.moved.iter().filter_map(|ip| state.lives.get(ip));
        let first = new.map(|life| life.until).chain(state.ends).min();
        self.ends_at(&name, &mut state, first);
        if outcome.changed {
            moved.insert(Arc::clone(&name), outcome.moved.iter().copied().collect());
        }
        self.names.insert(name, state);
        (outcome, moved)
    }

    /// Restores a name that was learned, as far as its leases have not ended. `lease` says who lists it. Returns whether
    /// it has addresses now.
    pub fn restore_learned(
        &mut self,
        now: Instant,
        clock: Duration,
        stored: &Stored,
        lease: &Lease,
    ) -> bool {
        let name = &lease.name;
        let valid = stored.valid(name, clock);
        let valid = valid.filter(|(ip, _)| !self.settings.leaves_out(name, *ip));
        let valid: Vec<_> = valid.take(self.settings.learned.addresses).collect();
        if valid.is_empty() || self.names.contains_key(name) {
            return false;
        }
        for name in self.learned.note(now, lease, &self.settings.learned) {
            self.forget(&name);
        }
        let mut state = Name::default();
        for (ip, left) in valid {
            let until = now.checked_add(left).unwrap_or(now);
            if state.lives.insert(ip, Life { until, seen: now }).is_none() {
                self.addresses.lease(ip, name);
            }
        }
        self.ends_next(name, &mut state);
        self.in_force.set(name, &state.lives);
        self.names.insert(Arc::clone(name), state);
        true
    }

    /// Running connections use these addresses: their leases last for the grace from now on, and at least until the
    /// next call, which is not later than `next`.
    pub fn handle_in_use(&mut self, now: Instant, used: &BTreeSet<IpAddr>, next: Duration) {
        let until = now
            .checked_add(self.settings.grace.max(next))
            .unwrap_or(now);
        for ip in used {
            let ip = IpAddr::from(Addr::from(*ip).canonical());
            let names: Vec<_> = self.addresses.names_of(ip.into()).cloned().collect();
            for name in names {
                let Some(state) = self.names.get_mut(&name) else {
                    continue;
                };
                if let Some(life) = state.lives.get_mut(&ip) {
                    life.until = life.until.max(until);
                    life.seen = life.seen.max(now);
                }
                self.in_force.set(&name, &state.lives);
            }
        }
    }
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
