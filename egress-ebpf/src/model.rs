//! Rule tables as a plain map, for tests that compare every lookup with it. It is slow, and simple enough to
//! trust.

use crate::addr::Addr;
use crate::decide::{Destination, Tables};
use crate::ids::TableId;
use crate::table::{Entry, Key};
use std::collections::BTreeMap;

/// Tables by id.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Model {
    entries: BTreeMap<(TableId, Key), u32>,
}

impl Model {
    /// Adds an entry to a table, or changes its action.
    pub fn put(&mut self, table: TableId, entry: Entry) {
        self.entries.insert((table, entry.key), entry.action);
    }

    /// Removes an entry. Returns whether it existed.
    pub fn delete(&mut self, table: TableId, key: Key) -> bool {
        self.entries.remove(&(table, key)).is_some()
    }

    /// Removes a table.
    pub fn drop_table(&mut self, table: TableId) {
        self.entries.retain(|(id, _), _| *id != table);
    }

    /// The entries of a table.
    pub fn entries(&self, table: TableId) -> impl Iterator<Item = Entry> + '_ {
        let of_table = self.entries.iter().filter(move |((id, _), _)| *id == table);
        of_table.map(|((_, key), action)| Entry {
            key: *key,
            action: *action,
        })
    }

    /// Entries of all tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// An address as one number.
#[must_use]
pub fn number(addr: Addr) -> u128 {
    let words = addr.be.iter().map(|w| u128::from(u32::from_be(*w)));
    words.fold(0, |number, word| (number << 32) | word)
}

/// Whether a network contains an address. A network of 1 to 95 bits is an IPv6 network and contains no IPv4
/// address, although the mapped form may be in its range.
fn holds(key: &Key, addr: Addr) -> bool {
    let family = !addr.is_v4() || key.bits() == 0 || key.bits() >= 96;
    let differ = number(key.addr()) ^ number(addr);
    family && differ.checked_shr(128 - key.bits()).unwrap_or(0) == 0
}

impl Tables for Model {
    fn find(&self, table: TableId, shortest: u32, to: &Destination) -> Option<u32> {
        let listed = |port: u16| {
            let entries = self.entries(table);
            entries.filter(move |e| e.key.proto() == to.proto && e.key.port() == port)
        };
        let exact = listed(to.port).find(|e| e.key.is_exact() && e.key.addr() == to.addr);
        let narrowest = |port: u16| {
            let networks = listed(port).filter(|e| !e.key.is_exact());
            let networks = networks.filter(|e| e.key.bits() >= shortest && holds(&e.key, to.addr));
            networks.max_by_key(|e| e.key.bits())
        };
        let found = exact
            .or_else(|| narrowest(to.port))
            .or_else(|| narrowest(0));
        found.map(|e| e.action)
    }
}
