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
    /// Two sums for each family, and the multiplier of [`of_peer`].
    pub const WORDS: usize = 2 * (V4 + V6) + 1;

    /// The value before the loader has written the numbers. With it [`passed`] is always 0, which means "nothing".
    pub const UNSET: Self = Self([0; Self::WORDS]);

    /// The read is volatile, because the loader writes the numbers after compilation.
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: a word of this value.
        unsafe { ptr::read_volatile(&raw const self.0[index]) }
    }
}

/// Numbers of an IPv4 sum: a start value, and one for each part (address; port and protocol).
const V4: usize = 3;
/// The same of an IPv6 sum: four words of the address; port and protocol.
const V6: usize = 6;

/// The word of a destination, in which each bit is random.
///
/// The address is taken as dialled, or as in the packet: two spellings of one address have two words.
///
/// Each half is the upper half of a random number plus products of pairs of 32-bit parts, each part plus a random
/// 64-bit number. The halves of two different destinations, chosen without knowledge of these numbers, are
/// independent random values (M. Thorup, "High Speed Hashing for Integers and Strings", pair-multiply-shift), and the
/// two halves use different numbers. So whatever a workload chooses, the words of two destinations differ by a given
/// value with a probability of 2⁻⁶⁴: at a million datagrams a second, once in 500 000 years.
#[inline(always)]
fn destination(secret: &Secret, to: &Destination) -> u64 {
    let [a, b, c, d] = to.addr.be.map(u64::from);
    let service = u64::from(to.port) | (u64::from(to.proto) << 16);
    let pair = |at: usize, one: u64, other: u64| {
        let one = secret.word(at).wrapping_add(one);
        one.wrapping_mul(secret.word(at + 1).wrapping_add(other))
    };
    let v4 = |first: usize| secret.word(first).wrapping_add(pair(first + 1, d, service));
    let v6 = |first: usize| {
        secret
            .word(first)
            .wrapping_add(pair(first + 1, a, b))
            .wrapping_add(pair(first + 3, c, d))
            .wrapping_add(secret.word(first + 5).wrapping_mul(service))
    };
    let (high, low) = if to.addr.is_v4() {
        (v4(0), v4(V4))
    } else {
        (v6(2 * V4), v6(2 * V4 + V6))
    };
    (high & (u64::MAX << 32)) | (low >> 32)
}

/// The word for "this destination passes under this pair" of policy and generation, or of another reason. It is 0 if
/// the secret is not set, and otherwise as rarely as any other value.
///
/// The words of one destination differ as its pairs do. Those of two destinations agree with a probability of 2⁻⁶⁴,
/// whatever the pairs are (see `destination`).
#[must_use]
#[inline(always)]
pub fn passed(secret: &Secret, to: &Destination, under: u64) -> u64 {
    if secret.word(0) == 0 {
        return 0;
    }
    destination(secret, to) ^ under
}

/// The word of a peer and a socket. It is a distance: two of them are near each other with the probability of two
/// random numbers.
#[must_use]
#[inline(always)]
pub fn of_peer(secret: &Secret, cookie: u64, peer: &Destination) -> u64 {
    let socket = cookie.wrapping_mul(secret.word(Secret::WORDS - 1) | 1);
    destination(secret, peer).wrapping_add(socket)
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
    use super::{Secret, chain, of_peer, passed};
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
                words.push(passed(&secret(), &destination, generation << 32 | policy));
            }
        }
        let different: BTreeSet<u64> = words.iter().copied().collect();
        assert_eq!(different.len(), words.len());
    }

    #[test]
    fn without_a_secret_nothing_passes() {
        assert_eq!(passed(&Secret::UNSET, &to("::1", 53, 17), 9 << 32 | 5), 0);
    }

    /// A socket's time of one peer is not near that of another socket or peer, or a stale word would pass for it.
    #[test]
    fn words_of_neighbouring_sockets_and_peers_are_far_apart() {
        let secret = secret();
        let mut words = Vec::new();
        for cookie in 1..200 {
            for port in 1..20 {
                for peer in ["203.0.113.10", "2001:db8::10"] {
                    words.push(of_peer(&secret, cookie, &to(peer, port, 17)));
                }
            }
        }
        words.sort_unstable();
        // Of 7 562 random words, two are nearer than 2^32 with a probability of 1 %.
        let nearest = words.windows(2).map(|two| two[1] - two[0]).min();
        assert!(nearest.unwrap() > 1 << 32, "{nearest:?}");
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
                    assert!(seen.insert(passed(&secret, &to, 1 << 32)), "{to:?}");
                }
            }
        }
    }
}
