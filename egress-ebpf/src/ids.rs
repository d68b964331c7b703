//! A type for each kind of number that names something, so that a cgroup's id is not taken for a policy's, or
//! a namespace's cookie for its inode. Each has the same width as in the maps.

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
    /// A cgroup of version 2: the inode of its folder (`cgroup_id` in include/linux/cgroup.h). 0 means none or
    /// not known.
    CgroupId(u64);
    /// A policy's index in the kernel's array of policies, below
    /// [`MAX_POLICIES`](crate::abi::MAX_POLICIES).
    PolicyId(u32);
    /// A rule table's index in the kernel's array of tables, below
    /// [`MAX_TABLES`](crate::abi::MAX_TABLES).
    TableId(u32);
    /// A network namespace as programs see it (`net_cookie`, SO_NETNS_COOKIE). The kernel does not use one
    /// twice. 0 means not known.
    NetnsCookie(u64);
    /// A network namespace as `/proc/PID/ns/net` shows it. The kernel uses one again when its namespace is
    /// gone.
    NetnsInode(u64);
    /// A number that grows with each change of a policy, over all policies. 0 is the generation of a policy
    /// that was never written.
    Generation(u32);
}

impl Generation {
    /// The generation of a policy that was never written.
    pub const NEVER: Self = Self(0);

    /// The generation after this one. It is never [`Self::NEVER`].
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self(1),
            next => Self(next),
        }
    }
}
