//! The numbers by which the kernel and the agent name things, a type each: a cgroup's id is no
//! policy's, and a namespace's cookie not its inode. Each has the width that it has in the maps.
//!
//! Does not know what they name.

use core::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($number:ty);)*) => { $(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(transparent))]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        #[cfg(feature = "user")]
        // SAFETY: `#[repr(transparent)]` over an integer, of which any bytes are a value.
        unsafe impl aya::Pod for $name {}
    )* };
}

ids! {
    /// A cgroup of version 2: the inode of its folder (`cgroup_id` in include/linux/cgroup.h). 0 is
    /// none, or one that is not known.
    CgroupId(u64);
    /// A policy's place in the kernel's array of policies, below
    /// [`MAX_POLICIES`](crate::abi::MAX_POLICIES).
    PolicyId(u32);
    /// A rule table's place in the kernel's array of tables, below
    /// [`MAX_TABLES`](crate::abi::MAX_TABLES).
    TableId(u32);
    /// A network namespace as programs know it (`net_cookie`, SO_NETNS_COOKIE); never given out
    /// twice. 0 is one that is not known.
    NetnsCookie(u64);
    /// A network namespace as `/proc/PID/ns/net` shows it: given out again once it is gone.
    NetnsInode(u64);
    /// How often what a policy says has changed, over all policies. 0 is that of a policy that was
    /// never written.
    Generation(u32);
}

impl Generation {
    /// That of a policy that was never written.
    pub const NEVER: Self = Self(0);

    /// The one to give out after this one; [`Self::NEVER`] is not given out.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self(1),
            next => Self(next),
        }
    }
}
