//! Envoy's response flags: why a flow did not simply succeed (`response_flags`,
//! `source/common/stream_info/utility.cc`).
//!
//! Which flags a flow gets is decided where it ends.

use std::fmt;

/// Why a flow did not simply succeed, by Envoy's short names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResponseFlag {
    /// No healthy upstream.
    UH,
    /// The route's timeout.
    UT,
    /// The upstream reset the stream.
    UR,
    /// The upstream connection failed.
    UF,
    /// The upstream closed the connection before its response was whole.
    UC,
    /// No room: a limit was reached.
    UO,
    /// No route.
    NR,
    /// A rule delayed the request.
    DI,
    /// A rule aborted the request.
    FI,
    /// The downstream connection ended first.
    DC,
    /// Retries were used up.
    URX,
    /// The downstream broke its protocol.
    DPE,
    /// The connection's life was over (`maxConnectionDuration`).
    DT,
    /// The upstream broke its protocol.
    UPE,
    /// The route's cluster does not exist.
    NC,
    /// The name that the client asked for was not resolved.
    DF,
}

impl ResponseFlag {
    /// All flags, in the order in which Envoy 1.40 prints them: that in which they are set, so a delay comes first.
    pub const ALL: [Self; 16] = [
        Self::DI,
        Self::URX,
        Self::UH,
        Self::UT,
        Self::UR,
        Self::UF,
        Self::UC,
        Self::UO,
        Self::NR,
        Self::FI,
        Self::DC,
        Self::DPE,
        Self::DT,
        Self::UPE,
        Self::NC,
        Self::DF,
    ];
}

/// A set of flags; prints as Envoy's `%RESPONSE_FLAGS%`: `URX,UF`, or `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags(u16);

impl ResponseFlags {
    /// The set with one flag more.
    #[must_use]
    pub fn with(self, flag: ResponseFlag) -> Self {
        Self(self.0 | 1 << flag as u8)
    }

    /// The flags of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the flag is in the set.
    pub fn has(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::default().with(flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut separator = "";
        for flag in ResponseFlag::ALL.into_iter().filter(|flag| self.has(*flag)) {
            write!(f, "{separator}{flag:?}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ResponseFlag, ResponseFlags};

    #[test]
    fn flags_are_printed_in_the_order_in_which_envoy_sets_them() {
        use ResponseFlag::{DI, FI, UC, UF, URX};
        for (flags, printed) in [
            (&[UC, DI][..], "DI,UC"),
            (&[FI, DI], "DI,FI"),
            (&[UF, DI, URX], "DI,URX,UF"),
            (&[], "-"),
        ] {
            let none = ResponseFlags::default();
            let set = flags.iter().fold(none, |set, flag| set.with(*flag));
            assert_eq!(set.to_string(), printed);
        }
    }
}
