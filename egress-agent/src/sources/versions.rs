//! Which versions of the API's objects a rule set has, as one number for each kind: two agents with the same number have
//! the same versions of the same objects. Reads no object.

use egress_core::istio::Kind;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The sum of the hashes of a kind's objects. It does not depend on their order, and changes with each object by one
/// addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u128);

/// The digest of each listed kind.
pub type Versions = BTreeMap<Kind, Digest>;

impl Digest {
    /// The digest of one object: `metadata.uid`, and `metadata.generation`, which the API server raises with each change of
    /// the specification and not with one of the status.
    pub fn of(uid: &str, generation: i64) -> Self {
        // FNV-1a with 128 bits (RFC 9923). Agents of other versions and `wait` must compute the same.
        let bytes = uid.bytes().chain(generation.to_be_bytes());
        Self(bytes.fold(OFFSET, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(PRIME)
        }))
    }

    /// With one more object.
    #[must_use]
    pub const fn with(self, object: Self) -> Self {
        Self(self.0.wrapping_add(object.0))
    }

    /// Without one of its objects.
    #[must_use]
    pub const fn without(self, object: Self) -> Self {
        Self(self.0.wrapping_sub(object.0))
    }
}

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Digest {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes_does_not_matter_and_the_last_state_does() {
        let (a, b) = (Digest::of("a", 1), Digest::of("b", 1));
        let both = Digest::default().with(a).with(b);
        assert_eq!(both, Digest::default().with(b).with(a));
        let edited = both.without(a).with(Digest::of("a", 2));
        assert_ne!(edited, both);
        assert_eq!(
            edited.without(Digest::of("a", 2)).without(b),
            Digest::default()
        );
        assert_eq!(edited.to_string().parse(), Ok(edited));
    }

    #[test]
    fn the_number_is_the_same_in_every_build() {
        // Of the bytes `61 00 00 00 00 00 00 00 01`, by an independent implementation.
        assert_eq!(
            Digest::of("a", 1).to_string(),
            "d64aad8c4e061a572021bcd10a18ae1f"
        );
    }
}
