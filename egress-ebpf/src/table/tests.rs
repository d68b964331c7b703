//! A table against a list of its entries, while it is filled, changed and read.

use super::{
    Entry, Full, Key, Lengths, Line, MAX_LENGTHS, PROBES, Put, SEED_WORDS, WHAT, begin, bucket,
    buckets_for, delete, entries, find, hash, holds, lines_for, put, put_all, room, slots,
};
use crate::abi::{action, proto};
use crate::addr::Addr;
use crate::decide::{Destination, NO_NETWORK};
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::vec::Vec;

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u32) -> u32 {
        ((self.next() >> 40) as u32) % n
    }

    fn seed(&mut self) -> [u64; SEED_WORDS] {
        core::array::from_fn(|_| self.next())
    }

    /// Entries of few addresses, so that networks and addresses overlap.
    fn addr(&mut self) -> Addr {
        let (net, host) = (self.below(4), self.below(6));
        if self.below(2) == 0 {
            Addr::from_v4_be(((10 << 24) | (net << 14) | host).to_be())
        } else {
            let high = 0x2001_0db8_u32.to_be();
            Addr::from_v6_be([high, (net << 30).to_be(), 0, host.to_be()])
        }
    }

    fn entry(&mut self) -> Entry {
        let (addr, bits) = (self.addr(), self.below(7));
        let bits: u32 = match (addr.is_v4(), bits) {
            (_, 0..=2) => 128,
            (true, 3) => 96,
            (true, 4) => 96 + 8,
            (true, 5) => 96 + 24,
            (true, _) => 96 + 30,
            (false, 3) => 1,
            (false, 4) => 33,
            (false, 5) => 64,
            (false, _) => 127,
        };
        let bits = if self.below(50) == 0 { 0 } else { bits };
        let port = [0, 53, 53, 443][self.below(4) as usize];
        let transport = [proto::TCP, proto::UDP][self.below(2) as usize];
        Entry {
            key: network(addr, port, transport, bits),
            action: 1 + self.below(2),
        }
    }
}

fn network(addr: Addr, port: u16, transport: u8, bits: u32) -> Key {
    Key::new(addr, port, transport, 0).of_bits(bits).masked()
}

fn memory(buckets: usize) -> Vec<Line> {
    (0..lines_for(buckets)).map(|_| Line::default()).collect()
}

/// Creates a table for this many entries.
fn begun(used: usize, seed: &[u64; SEED_WORDS], lengths: &Lengths) -> Vec<Line> {
    let buckets = buckets_for(used);
    let lines = memory(buckets);
    begin(&lines, buckets, seed, lengths);
    lines
}

fn number(key: &Key) -> u128 {
    (u128::from(u64::from_be(key.high)) << 64) | u128::from(u64::from_be(key.low))
}

/// The result of a look-up, by a search of all entries.
fn model(all: &BTreeMap<Key, u32>, shortest: u32, to: &Destination) -> Option<u32> {
    let value = number(&Key::new(to.addr, 0, 0, 0));
    let covers = |key: &Key, port: u16| {
        let bits = key.kind >> 24;
        let family = !to.addr.is_v4() || bits == 0 || bits >= 96;
        let kind = u32::from(port) | (u32::from(to.proto) << 16);
        key.kind & 0x00ff_ffff == kind
            && family
            && (value ^ number(key)).checked_shr(128 - bits).unwrap_or(0) == 0
    };
    let narrowest = |port: u16, from: u32| {
        let found = all.iter();
        let found = found.filter(|(key, _)| key.kind >> 24 >= from && covers(key, port));
        found.max_by_key(|(key, _)| key.kind >> 24).map(|(_, a)| *a)
    };
    let on_port = if to.port == 0 {
        None
    } else {
        narrowest(to.port, 128)
    };
    let by_network = || narrowest(to.port, shortest).or_else(|| narrowest(0, shortest));
    on_port.or_else(by_network)
}

fn lengths_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Lengths {
    let mut lengths = Lengths::default();
    for entry in entries {
        assert!(entry.key.is_exact() || lengths.add(&entry.key));
    }
    lengths
}

#[test]
fn a_table_answers_as_a_list_of_its_entries_would_while_it_changes() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut found, mut missed) = (0, 0);
    for _ in 0..40 {
        let some: Vec<Entry> = (0..random.below(120)).map(|_| random.entry()).collect();
        let more: Vec<Entry> = (0..120).map(|_| random.entry()).collect();
        let lengths = lengths_of(some.iter().chain(&more));
        let lines = begun(some.len() + more.len(), &random.seed(), &lengths);
        let mut all = BTreeMap::new();
        let filled = put_all(&lines, &some).unwrap();
        all.extend(some.iter().map(|e| (e.key, e.action)));
        assert_eq!(filled.slots, all.len());
        assert_eq!(filled.exact, all.keys().filter(|k| k.is_exact()).count());
        for (n, entry) in more.iter().enumerate() {
            let was = all.insert(entry.key, entry.action);
            let placed = put(&lines, entry);
            assert_eq!(placed == Put::Changed, was.is_some());
            assert_ne!(placed, Put::NoPlace);
            if n % 2 == 0 {
                let gone = if n % 4 == 0 { entry } else { &more[n / 2] };
                assert_eq!(delete(&lines, &gone.key), all.remove(&gone.key).is_some());
            }
            let to = Destination {
                addr: random.addr(),
                port: [0, 53, 443, 80][random.below(4) as usize],
                proto: [proto::TCP, proto::UDP][random.below(2) as usize],
            };
            for shortest in [NO_NETWORK, 0, 8, 100, 128] {
                let got = find(&lines[..], shortest, &to);
                assert_eq!(got, model(&all, shortest, &to), "{to:?}");
                if got.is_some() {
                    found += 1;
                } else {
                    missed += 1;
                }
            }
        }
        let held: BTreeMap<Key, u32> = entries(&lines).map(|e| (e.key, e.action)).collect();
        assert_eq!(held, all);
    }
    assert!(found > 1000 && missed > 1000, "{found} {missed}");
}

fn exact(n: u32) -> Entry {
    Entry {
        key: Key::new(Addr::from_v4_be(n.to_be()), 443, proto::TCP, 128),
        action: action::ALLOW,
    }
}

#[test]
fn what_was_deleted_comes_back_to_its_slot_and_leaves_the_others_findable() {
    let lines = begun(1000, &Random(7).seed(), &Lengths::default());
    let all: Vec<Entry> = (0..1000).map(exact).collect();
    assert_eq!(put_all(&lines, &all).unwrap().slots, 1000);
    for entry in all.iter().step_by(2) {
        assert!(delete(&lines, &entry.key));
        assert!(!delete(&lines, &entry.key), "twice");
    }
    for (n, entry) in all.iter().enumerate() {
        assert_eq!(holds(&lines, &entry.key), n % 2 == 1);
    }
    for entry in all.iter().step_by(2) {
        assert_eq!(put(&lines, entry), Put::Restored);
        assert_eq!(put(&lines, entry), Put::Changed);
    }
    assert_eq!(entries(&lines).count(), 1000);
}

#[test]
fn a_million_addresses_in_a_row_find_their_places_by_nearly_every_seed() {
    let mut random = Random(99);
    let all: Vec<Entry> = (0..1 << 20).map(exact).collect();
    let lines = memory(1 << 20);
    assert_eq!(buckets_for(all.len()), 1 << 20);
    let mut failed = 0;
    for _ in 0..5 {
        begin(&lines, 1 << 20, &random.seed(), &Lengths::default());
        failed += usize::from(put_all(&lines, &all).is_err());
    }
    assert!(failed <= 1, "{failed} of 5 seeds");
}

#[test]
fn tables_as_full_as_is_planned_find_their_places_by_most_seeds() {
    let mut random = Random(7);
    for buckets in [1 << 5, 1 << 8, 1 << 12, 1 << 13, 1 << 16] {
        let lines = memory(buckets);
        begin(&lines, buckets, &random.seed(), &Lengths::default());
        let used = u32::try_from(room(&lines)).unwrap();
        assert_eq!(buckets_for(used as usize), buckets);
        assert_ne!(buckets_for(used as usize + 1), buckets);
        let in_a_row: Vec<Entry> = (0..used).map(exact).collect();
        let anywhere: Vec<Entry> = (0..used).map(|_| exact(random.next() as u32)).collect();
        for all in [in_a_row, anywhere] {
            let mut failed = 0;
            for _ in 0..40 {
                begin(&lines, buckets, &random.seed(), &Lengths::default());
                failed += usize::from(put_all(&lines, &all).is_err());
            }
            assert!(failed <= 10, "{failed} of 40 seeds, {buckets} buckets");
        }
    }
}

#[test]
fn a_key_without_a_place_is_refused_and_nothing_else_is_lost() {
    // All keys begin at the first bucket.
    let lines = begun(256, &[0; SEED_WORDS], &Lengths::default());
    let all: Vec<Entry> = (0..=PROBES * 2).map(exact).collect();
    assert_eq!(put_all(&lines, &all), Err(Full));
    assert_eq!(put(&lines, &all[PROBES as usize * 2]), Put::NoPlace);
    assert_eq!(
        put_all(&lines, &all[..PROBES as usize * 2]).unwrap().slots,
        0
    );
    assert!(
        all[..PROBES as usize * 2]
            .iter()
            .all(|e| holds(&lines, &e.key))
    );
    let to = |n: u32| Destination {
        addr: Addr::from_v4_be(n.to_be()),
        port: 443,
        proto: proto::TCP,
    };
    assert!(find(&lines[..], NO_NETWORK, &to(PROBES * 2 - 1)).is_some());
    assert!(find(&lines[..], NO_NETWORK, &to(PROBES * 2)).is_none());
}

#[test]
fn a_slot_that_is_only_half_seen_is_no_entry() {
    let lines = begun(4, &Random(3).seed(), &Lengths::default());
    let (seen, meant) = (exact(1).key, exact(2).key);
    // As if a reader saw the address of one key with the hash and the kind of another.
    let other = hash(&lines[0], &meant);
    let line = &lines[bucket(&lines[0], hash(&lines[0], &seen), 0) as usize];
    let store =
        |index: usize, word| line.words[index].store(word, core::sync::atomic::Ordering::Relaxed);
    store(0, seen.high);
    store(1, seen.low);
    store(3, other);
    store(WHAT, u64::from(seen.kind) | (1 << 32));
    let to = Destination {
        addr: Addr::from_v4_be(1_u32.to_be()),
        port: 443,
        proto: proto::TCP,
    };
    assert_eq!(find(&lines[..], NO_NETWORK, &to), None);
    store(3, hash(&lines[0], &seen));
    assert!(find(&lines[..], NO_NETWORK, &to).is_some());
}

#[test]
fn a_line_of_zeroes_and_no_lines_are_an_empty_table() {
    let to = Destination {
        addr: "203.0.113.1".parse::<IpAddr>().unwrap().into(),
        port: 443,
        proto: proto::TCP,
    };
    for lines in [&[][..], &[Line::default()][..]] {
        assert_eq!(find(lines, 0, &to), None);
        assert!(!holds(lines, &exact(1).key));
    }
}

#[test]
fn a_list_has_room_for_every_length_of_ipv4_and_is_refused_beyond_its_room() {
    let v4: Addr = "10.0.0.0".parse::<IpAddr>().unwrap().into();
    let v6: Addr = "2001:db8::".parse::<IpAddr>().unwrap().into();
    let mut lengths = Lengths::default();
    for bits in 96..=128 {
        assert!(lengths.add(&network(v4, 0, proto::TCP, bits)));
    }
    assert!(lengths.add(&network(v4, 0, proto::TCP, 0)), "both families");
    let room = MAX_LENGTHS as u32 - 1;
    for bits in 1..=room {
        assert!(lengths.add(&network(v6, 0, proto::UDP, bits)), "{bits}");
    }
    let before = lengths;
    let beyond = network(v6, 0, proto::TCP, room + 1);
    assert!(!lengths.has(&beyond) && !lengths.add(&beyond));
    assert_eq!(lengths, before);
    assert!(
        lengths.add(&network(v6, 80, proto::TCP, room + 1)),
        "of its own"
    );
}

#[test]
fn no_more_slots_are_planned_for_than_should_be_used() {
    for used in [0, 1, 4, 5, 1000, 1 << 20] {
        let lines = begun(used, &[0; SEED_WORDS], &Lengths::default());
        assert!(buckets_for(used).is_power_of_two());
        assert_eq!(slots(&lines), 2 * buckets_for(used));
        assert!(room(&lines) >= used, "{used}");
    }
    assert_eq!(slots(&[]), 0);
    assert_eq!(slots(&[Line::default()]), 0, "what stands for no table");
}
