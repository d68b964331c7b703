//! Settings that are one word of a few, the same in the config file and on the command line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What happens to the gate on SIGTERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum OnExit {
    /// The gate stays closed: direct flows continue, redirected flows are denied.
    #[default]
    Keep,
    /// The gate is opened, as by `egress-agent detach`.
    Detach,
}

/// Who answers the workloads' queries to DNS servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Intercept {
    /// The name servers that they ask, as far as the rules and `dns.servers` allow these.
    #[default]
    Off,
    /// The agent, for names that the rules list. It answers in the place of whichever server a workload asks.
    Auto,
}

/// The answer to a query for a name that no rule lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum DeniedAnswer {
    /// REFUSED: resolvers ask the next name server and report a failure.
    #[default]
    Refused,
    /// NXDOMAIN: the name does not exist. Resolvers try the next domain of their search list at once.
    Nxdomain,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How lines of the access log look. The values are those of Istio's `MeshConfig.AccessLogEncoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum AccessLogEncoding {
    /// Text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What happens to a destination that no rule lists. The values are those of Istio's
/// `OutboundTrafficPolicy.Mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrafficPolicy {
    /// It is denied.
    #[default]
    RegistryOnly,
    /// It is allowed.
    AllowAny,
}

/// What happens to a connection to an address that does not belong to a listed host, on a port
/// whose name is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum UnlistedAddress {
    /// The kernel denies it.
    #[default]
    Refuse,
    /// The Host or the server name decides. The proxy dials an address that the agent resolved, as a
    /// sidecar does.
    ByName,
}

/// Whether unlisted destinations are denied or only logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It is denied.
    #[default]
    Enforce,
    /// Everything is allowed; what would be denied is logged as would_deny.
    Audit,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        })
    }
}

/// What happens to running flows whose destination a rules change no longer lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum OnRemoval {
    /// They are ended.
    #[default]
    Close,
    /// They continue until they end; new ones are denied.
    Keep,
}

/// Error that a denied call returns (errno(3)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum DenyErrno {
    /// Operation not permitted.
    #[default]
    Eperm,
    /// Permission denied.
    Eacces,
    /// Connection refused.
    Econnrefused,
    /// No route to host.
    Ehostunreach,
    /// Network is unreachable.
    Enetunreach,
}

impl DenyErrno {
    /// The number for the kernel's tables: 0 for EPERM, which is the kernel's default.
    pub const fn number(self) -> u32 {
        let number = match self {
            Self::Eperm => 0,
            Self::Eacces => libc::EACCES,
            Self::Econnrefused => libc::ECONNREFUSED,
            Self::Ehostunreach => libc::EHOSTUNREACH,
            Self::Enetunreach => libc::ENETUNREACH,
        };
        number.cast_unsigned()
    }
}
