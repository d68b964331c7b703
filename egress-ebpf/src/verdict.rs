//! The verdict on a flow, and the only place where it becomes a return code.

/// What happens to a flow.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is allowed.
    Allow,
    /// It is redirected to the agent's proxy.
    Proxy,
    /// It is a query to a DNS server, and redirected to the agent's own.
    Dns,
    /// It is denied for this reason.
    Deny(Reason),
}

macro_rules! coded {
    ($(#[$m:meta])* $name:ident { $($(#[$d:meta])* $variant:ident = $n:literal => $word:literal,)* }) => {
        $(#[$m])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$d])* $variant = $n,)* }

        impl $name {
            /// Every value, for tables of names.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// From its number in an event.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($n => Some(Self::$variant),)* _ => None }
            }

            /// The word that users see in logs and metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

coded! {
    /// Why a flow was denied. The numbers are part of the ABI.
    Reason {
        /// No rule lists this destination.
        NotListed = 1 => "not-listed",
        /// A protocol that no rule can list (raw IP, ICMP, SCTP and others).
        Protocol = 2 => "protocol",
        /// A packet that cannot be judged: malformed, a fragment, or an extension header.
        Unparsable = 3 => "unparsable",
        /// The flow needs the proxy and its network namespace has none.
        NoProxy = 4 => "no-proxy",
        /// The flow table is full.
        FlowTableFull = 5 => "flow-table-full",
        /// The workload dialled or bound the proxy's port itself.
        ProxyPort = 6 => "proxy-port",
        /// State that the decision needs is missing in the kernel.
        State = 7 => "state",
        /// The packet claims a source address that does not belong to this network namespace.
        ForgedSource = 8 => "forged-source",
        /// The socket's cgroup is nested deeper than the programs judge
        /// ([`MAX_DEPTH`](crate::abi::MAX_DEPTH) levels).
        CgroupDepth = 9 => "cgroup-depth",
        /// The socket's owner is unknown, because its cgroup's ancestors are not known.
        UnknownOwner = 10 => "unknown-owner",
        /// A query to a DNS server, and its network namespace has no DNS server of the agent; or it was not
        /// redirected there.
        NoDns = 11 => "no-dns",
    }
}

coded! {
    /// The hook that denied the flow. The numbers are part of the ABI.
    Hook {
        /// `cgroup/connect4`.
        Connect4 = 1 => "connect4",
        /// `cgroup/connect6`.
        Connect6 = 2 => "connect6",
        /// `cgroup/sendmsg4`.
        Sendmsg4 = 3 => "sendmsg4",
        /// `cgroup/sendmsg6`.
        Sendmsg6 = 4 => "sendmsg6",
        /// `cgroup/sock_create`.
        SockCreate = 5 => "sock_create",
        /// `cgroup_skb/egress`.
        Egress = 6 => "egress",
        /// `cgroup/bind4`.
        Bind4 = 7 => "bind4",
        /// `cgroup/bind6`.
        Bind6 = 8 => "bind6",
        /// `lsm_cgroup/socket_create`.
        SocketCreate = 9 => "socket_create",
        /// `cgroup/setsockopt`.
        Setsockopt = 10 => "setsockopt",
    }
}

/// The return code of a program that judges nothing (sock_ops).
pub const NOTED: u32 = 1;

impl Verdict {
    /// The return code for every cgroup hook: with 1 the call or packet goes on, with 0 it fails with EPERM
    /// (`BPF_CGROUP_RUN_PROG_*` in include/linux/bpf-cgroup.h).
    #[must_use]
    #[inline(always)]
    pub const fn return_code(self) -> i32 {
        match self {
            Self::Allow | Self::Proxy | Self::Dns => 1,
            Self::Deny(_) => 0,
        }
    }
}

impl Verdict {
    /// A number for each verdict, for tests that compare the kernel's with the host's.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::Allow => 1,
            Self::Proxy => 2,
            Self::Dns => 3,
            Self::Deny(reason) => 0x100 | reason as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hook, Reason, Verdict};

    #[test]
    fn only_a_deny_stops_a_call() {
        assert_eq!(Verdict::Allow.return_code(), 1);
        assert_eq!(Verdict::Proxy.return_code(), 1);
        assert_eq!(Verdict::Dns.return_code(), 1);
        for reason in Reason::ALL {
            assert_eq!(Verdict::Deny(*reason).return_code(), 0);
        }
    }

    #[test]
    fn codes_come_back_as_what_they_were() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(*reason as u8), Some(*reason));
        }
        for hook in Hook::ALL {
            assert_eq!(Hook::from_code(*hook as u8), Some(*hook));
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
