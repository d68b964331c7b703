//! Digests: a 64-bit word that represents a verdict, and a checksum that shows whether a map's value was read
//! whole.
//!
//! 64 bits are the most that one CPU can read at once while another writes. Knows no map.

use crate::decide::Destination;
use core::ptr;

/// Numbers that no workload can know: they are random for each load of the programs, and only a process that
/// may read BPF maps can read them (`CAP_BPF`, `CAP_SYS_ADMIN`).
#[repr(C)]
#[derive(Debug)]
pub struct Secret(pub [u64; Secret::WORDS]);

impl Secret {
    /// Two sums, each with a start value and a multiplier for each part.
    pub const WORDS: usize = 2 * (PARTS + 1);

    /// The value before the loader has written the numbers. With it every digest is 0, which means
    /// "nothing".
    pub const UNSET: Self = Self([0; Self::WORDS]);

    /// The read is volatile, because the loader writes the numbers after compilation.
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: a word of this value.
        unsafe { ptr::read_volatile(&raw const self.0[index]) }
    }
}

/// Four words of the address; port and protocol; policy; generation.
const PARTS: usize = 7;

/// The word for "this destination passes under this policy with this generation". `under` has the policy's id
/// and the generation, or another reason by which a destination passes. The word is 0 if the secret is not
/// set, and otherwise as rarely as any other value.
///
/// The address is taken as dialled, or as in the packet: two spellings of one address have two words.
///
/// Each half is the upper half of a sum of products of 32-bit parts with random 64-bit numbers. Two different
/// inputs, chosen without knowledge of these numbers, have the same half with a probability of 2⁻³² (M. Thorup,
/// "High Speed Hashing for Integers and Strings", on vectors). The two halves use different numbers. So a
/// destination that does not pass has the word of one that does with a probability of 2⁻⁶⁴, whatever a workload
/// chooses: at a million datagrams a second, once in 500 000 years.
#[must_use]
#[inline(always)]
pub fn passed(secret: &Secret, to: &Destination, under: [u32; 2]) -> u64 {
    let [a, b, c, d] = to.addr.be;
    let service = u32::from(to.port) | (u32::from(to.proto) << 16);
    let [first, second] = under;
    let parts = [a, b, c, d, service, first, second].map(u64::from);
    let half = |first: usize| {
        let product = |n: usize| secret.word(first + 1 + n).wrapping_mul(parts[n]);
        secret
            .word(first)
            .wrapping_add(product(0))
            .wrapping_add(product(1))
            .wrapping_add(product(2))
            .wrapping_add(product(3))
            .wrapping_add(product(4))
            .wrapping_add(product(5))
            .wrapping_add(product(6))
    };
    (half(0) & (u64::MAX << 32)) | (half(PARTS + 1) >> 32)
}

/// An odd number without a simple bit pattern (2⁶⁴ divided by the golden ratio).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Adds a word of a value to its seal. The seal detects torn values, not forged ones: only the programs and
/// the agent write them.
#[must_use]
#[inline(always)]
pub const fn chain(sum: u64, word: u64) -> u64 {
    let mixed = (sum ^ word).wrapping_mul(ODD);
    mixed ^ (mixed >> 29)
}

/// Adds the first `count` words of a value to its seal.
///
/// # Safety
/// `words` points to `count` aligned words. Other CPUs may write them at the same time.
#[must_use]
#[inline(always)]
pub unsafe fn chain_words(mut sum: u64, words: *const u64, count: usize) -> u64 {
    let mut index = 0;
    while index < count {
        // SAFETY: the caller guarantees the word. A torn word makes a seal that does not fit.
        sum = chain(sum, unsafe { words.add(index).read_volatile() });
        index += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{Secret, chain, passed};
    use crate::addr::Addr;
    use crate::decide::Destination;
    use core::net::IpAddr;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn secret() -> Secret {
        let mut state = 1_u64;
        Secret(core::array::from_fn(|n| {
            state = chain(state, n as u64);
            state
        }))
    }

    fn to(addr: &str, port: u16, proto: u8) -> Destination {
        Destination {
            addr: addr.parse::<IpAddr>().unwrap().into(),
            port,
            proto,
        }
    }

    #[test]
    fn every_part_of_a_destination_is_in_its_word() {
        let base = to("203.0.113.10", 443, 17);
        let mut words = Vec::new();
        for destination in [
            base,
            to("203.0.113.11", 443, 17),
            to("203.0.113.10", 123, 17),
            to("203.0.113.10", 443, 6),
            to("2001:db8::10", 443, 17),
            to("2001:db8:0:1::10", 443, 17),
            Destination {
                addr: Addr::UNSPECIFIED,
                ..base
            },
        ] {
            for (policy, generation) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
                words.push(passed(&secret(), &destination, [policy, generation]));
            }
        }
        let different: BTreeSet<u64> = words.iter().copied().collect();
        assert_eq!(different.len(), words.len());
    }

    #[test]
    fn without_a_secret_nothing_passes() {
        assert_eq!(passed(&Secret::UNSET, &to("::1", 53, 17), [5, 9]), 0);
    }

    /// Neighbours in every part, which a linear sum tells apart worst.
    #[test]
    fn words_of_a_million_neighbours_differ() {
        let secret = secret();
        let mut seen = BTreeSet::new();
        for high in 0..16_u32 {
            for low in 0..256_u32 {
                for port in 0..256_u16 {
                    let addr = Addr::from_v4_be((high << 28 | low).to_be());
                    let to = Destination {
                        addr,
                        port: port << 8,
                        proto: 17,
                    };
                    assert!(seen.insert(passed(&secret, &to, [0, 1])), "{to:?}");
                }
            }
        }
    }
}
