//! The owner of a socket: the cgroup ids above a cgroup, and the policy of a cgroup.
//!
//! Both are in hash maps. The kernel uses an element again as soon as it is deleted, so a program that still
//! reads it may see the value of another key, or half of it. Each value therefore has a seal over itself and
//! its key. `bpf/maps.rs` documents who writes these maps.

use super::{CLOSED_POLICY, MAX_POLICIES};
use crate::digest::chain;
use crate::ids::{CgroupId, PolicyId};
use core::mem::size_of;
use core::ptr;

/// Levels of cgroups below the root of the hierarchy that the programs judge. The kernel allows any number
/// (`cgroup.max.depth`). Cgroups that are nested deeper are denied everything (`cgroup-depth`).
pub const MAX_DEPTH: usize = 32;

/// The ancestors of a cgroup: the value of a map whose key is the cgroup's id. It never changes: a cgroup
/// cannot move to another parent (`cgroup_rename` in kernel/cgroup/cgroup.c), and the kernel does not use an id
/// twice (`kernfs_new_node`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ancestors {
    /// Ids by level, from level 1 to the cgroup itself. Deeper levels are 0.
    pub ids: [u64; MAX_DEPTH],
    /// In the low byte the cgroup's level, or a mark that it is too deep. Above that, a digest of the level, the
    /// cgroup and the ids, by which [`Self::lookup`] recognises a whole value.
    pub seal: u64,
}

/// The result of a lookup of a cgroup's owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerOf {
    /// The policy of the deepest cgroup that has one.
    Policy(PolicyId),
    /// None of them has one.
    Nobody,
    /// The cgroup is deeper than [`MAX_DEPTH`].
    TooDeep,
    /// The value belongs to another cgroup, or another CPU is writing it.
    Torn,
}

/// Runs a block for each level, the deepest first. The loop is unrolled, because the compiler may build a loop
/// that is entered by falling into its head, which the verifier rejects before Linux 6.2.
macro_rules! levels {
    ($level:ident $block:block) => {
        levels!($level $block 31 30 29 28 27 26 25 24 23 22 21 20 19 18 17 16);
        levels!($level $block 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0);
    };
    ($level:ident $block:block $($value:literal)+) => {
        $( { let $level: usize = $value; $block } )*
    };
}

impl Ancestors {
    /// The byte of a seal that has the level.
    const LEVEL: u64 = 0xff;
    /// Stands for the level of a cgroup that is deeper than [`MAX_DEPTH`].
    const DEEP: u64 = 0xff;

    /// The seal of a cgroup with a level and the sum of cgroup and ids.
    #[inline(always)]
    const fn sealed(sum: u64, level: u64) -> u64 {
        (chain(sum, level) & !Self::LEVEL) | level
    }

    /// A value that was never written.
    pub const NONE: Self = Self {
        ids: [0; MAX_DEPTH],
        seal: 0,
    };

    /// Writes the ancestors of a cgroup. `at` returns the id at a level, or 0 for a level below the cgroup
    /// itself.
    ///
    /// # Safety
    /// `value` points to memory for a value that nobody else uses.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_wrap,
        reason = "levels are at most MAX_DEPTH + 1"
    )]
    pub unsafe fn write(value: *mut Self, cgroup: CgroupId, at: impl Fn(i32) -> u64) {
        let mut sum = cgroup.0;
        let mut depth = 0;
        levels!(level {
            let id = at(level as i32 + 1);
            // The write is volatile, because the compiler would otherwise keep every word twice on the stack,
            // which has no room for that.
            // SAFETY: a word of the value.
            unsafe { ptr::write_volatile(&raw mut (*value).ids[level], id) };
            if id != 0 {
                sum = chain(sum, id);
                depth += 1;
            }
        });
        let seal = if at(MAX_DEPTH as i32 + 1) == 0 {
            Self::sealed(sum, depth)
        } else {
            Self::sealed(cgroup.0, Self::DEEP)
        };
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*value).seal, seal) };
    }

    /// Finds the deepest owner in a value that other CPUs may be writing. Each word is read once, and the
    /// result counts only if the words that were read have the seal. `own` returns a cgroup's own policy.
    ///
    /// # Safety
    /// `value` points to a whole, aligned value.
    #[inline(always)]
    pub unsafe fn lookup(
        value: *const Self,
        cgroup: CgroupId,
        own: impl Fn(CgroupId) -> Option<PolicyId>,
    ) -> OwnerOf {
        // SAFETY: a word of the value.
        let seal = unsafe { ptr::read_volatile(&raw const (*value).seal) };
        let depth = seal & Self::LEVEL;
        if depth > MAX_DEPTH as u64 {
            return if seal == Self::sealed(cgroup.0, Self::DEEP) {
                OwnerOf::TooDeep
            } else {
                OwnerOf::Torn
            };
        }
        let mut sum = cgroup.0;
        let mut found = None;
        // Reads only the levels down to the cgroup, which are few for most cgroups.
        levels!(level {
            if (level as u64) < depth {
                // SAFETY: a word of the value.
                let id = unsafe { ptr::read_volatile(&raw const (*value).ids[level]) };
                sum = chain(sum, id);
                if found.is_none() {
                    found = own(CgroupId(id));
                }
            }
        });
        if seal == Self::sealed(sum, depth) {
            found.map_or(OwnerOf::Nobody, OwnerOf::Policy)
        } else {
            OwnerOf::Torn
        }
    }

    /// The ids from the cgroup itself upwards. None if the value is not whole or the cgroup is too deep.
    pub fn deepest_first(&self, cgroup: CgroupId) -> impl Iterator<Item = CgroupId> + '_ {
        // SAFETY: `self` is a whole value, which nobody writes.
        let found = unsafe { Self::lookup(self, cgroup, |_| None) };
        let depth = if found == OwnerOf::Nobody {
            (self.seal & Self::LEVEL) as usize
        } else {
            0
        };
        let ids = self.ids.iter().take(depth).rev();
        ids.map(|id| CgroupId(*id))
    }
}

/// The value of the map of owners: one word with a cgroup's own policy, sealed with the cgroup's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner;

impl Owner {
    const POLICY: u64 = MAX_POLICIES as u64 - 1;

    /// The value that gives a cgroup a policy.
    #[must_use]
    #[inline(always)]
    pub const fn entry(cgroup: CgroupId, policy: PolicyId) -> u64 {
        let policy = policy.0 as u64 & Self::POLICY;
        (chain(cgroup.0, policy) & !Self::POLICY) | policy
    }

    /// The policy in the value of a cgroup. A value with the seal of another cgroup is read as
    /// [`CLOSED_POLICY`], because the cgroup has an entry whose content is not known.
    #[must_use]
    #[inline(always)]
    pub const fn policy(cgroup: CgroupId, entry: u64) -> PolicyId {
        let policy = PolicyId((entry & Self::POLICY) as u32);
        if Self::entry(cgroup, policy) == entry {
            policy
        } else {
            CLOSED_POLICY
        }
    }
}

const _: () = {
    assert!(size_of::<Ancestors>() == MAX_DEPTH * 8 + 8);
    assert!(MAX_POLICIES.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use super::{Ancestors, MAX_DEPTH, Owner, OwnerOf};
    use crate::abi::CLOSED_POLICY;
    use crate::ids::{CgroupId, PolicyId};
    use std::vec::Vec;

    /// A cgroup at this level whose id is 100 + its level.
    fn at(level: usize) -> (CgroupId, Ancestors) {
        below(100, level)
    }

    /// One whose ids, from the outermost on, follow a number.
    fn below(first: u64, level: usize) -> (CgroupId, Ancestors) {
        let mut value = Ancestors::NONE;
        let cgroup = CgroupId(first + level as u64);
        let id = |at: i32| {
            let at = usize::try_from(at).unwrap();
            if at <= level { first + at as u64 } else { 0 }
        };
        // SAFETY: a value of the test's own.
        unsafe { Ancestors::write(&raw mut value, cgroup, id) };
        (cgroup, value)
    }

    fn lookup(value: &Ancestors, cgroup: CgroupId, owners: &[(u64, u32)]) -> OwnerOf {
        let own = |id: CgroupId| owners.iter().find(|o| o.0 == id.0).map(|o| PolicyId(o.1));
        // SAFETY: a value of the test's own.
        unsafe { Ancestors::lookup(value, cgroup, own) }
    }

    #[test]
    fn the_deepest_owner_counts_at_every_level() {
        for level in 1..=MAX_DEPTH {
            let (cgroup, value) = at(level);
            assert_eq!(lookup(&value, cgroup, &[]), OwnerOf::Nobody, "{level}");
            for named in 1..=level as u64 {
                let owners = [(101, 1), (100 + named, 2)];
                let want = if named == 1 { 1 } else { 2 };
                let found = lookup(&value, cgroup, &owners);
                assert_eq!(found, OwnerOf::Policy(PolicyId(want)), "{level} {named}");
            }
        }
    }

    #[test]
    fn one_level_more_is_too_deep_whoever_is_named_above() {
        let (cgroup, value) = at(MAX_DEPTH + 1);
        assert_eq!(lookup(&value, cgroup, &[(101, 1)]), OwnerOf::TooDeep);
        assert_eq!(value.deepest_first(cgroup).count(), 0);
    }

    #[test]
    fn a_mixture_of_two_values_is_of_nobody() {
        let (cgroup, value) = at(9);
        let (other, second) = below(500, 12);
        assert_eq!(lookup(&value, other, &[(101, 1)]), OwnerOf::Torn);
        for words in 1..MAX_DEPTH {
            let (mut front, mut back) = (value, value);
            front.ids[..words].copy_from_slice(&second.ids[..words]);
            back.ids[words..].copy_from_slice(&second.ids[words..]);
            for mixed in [front, back] {
                // What lies below the cgroup is nothing that a value says.
                let want = if mixed.ids[..9] == value.ids[..9] {
                    OwnerOf::Policy(PolicyId(1))
                } else {
                    OwnerOf::Torn
                };
                assert_eq!(lookup(&mixed, cgroup, &[(101, 1)]), want, "{words}");
                let with_seal = Ancestors {
                    seal: second.seal,
                    ..mixed
                };
                assert_eq!(lookup(&with_seal, cgroup, &[(101, 1)]), OwnerOf::Torn);
            }
        }
        assert_eq!(lookup(&Ancestors::NONE, cgroup, &[]), OwnerOf::Torn);
    }

    #[test]
    fn no_seal_but_its_own_fits_a_value() {
        let (cgroup, value) = at(9);
        for depth in 0..=u8::MAX {
            let seal = (value.seal & !Ancestors::LEVEL) | u64::from(depth);
            let other = Ancestors { seal, ..value };
            let whole = lookup(&other, cgroup, &[]) == OwnerOf::Nobody;
            assert_eq!(whole, seal == value.seal, "{depth}");
        }
    }

    #[test]
    fn the_agent_reads_the_same_ancestors() {
        let (cgroup, value) = at(4);
        let ids: Vec<u64> = value.deepest_first(cgroup).map(|id| id.0).collect();
        assert_eq!(ids, [104, 103, 102, 101]);
        assert_eq!(value.deepest_first(CgroupId(5)).count(), 0);
    }

    #[test]
    fn an_entry_of_another_cgroup_closes() {
        for policy in [PolicyId(0), PolicyId(1), PolicyId(77), CLOSED_POLICY] {
            let entry = Owner::entry(CgroupId(42), policy);
            assert_eq!(Owner::policy(CgroupId(42), entry), policy);
            assert_eq!(Owner::policy(CgroupId(43), entry), CLOSED_POLICY);
        }
        let mixed = (Owner::entry(CgroupId(42), PolicyId(1)) & !0xff) | 2;
        assert_eq!(Owner::policy(CgroupId(42), mixed), CLOSED_POLICY);
    }
}
