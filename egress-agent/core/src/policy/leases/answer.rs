//! The result of a DNS question, and its effect on the name's leases.

use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Addresses of both families, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// The smallest TTL of the records that led to them.
    pub ttl: Duration,
}

/// A question without a usable answer. The name keeps its last good addresses after every kind of failure: a name
/// server that returns NXDOMAIN during an outage must not empty a working list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// NXDOMAIN.
    #[error("no such name")]
    NoSuchName,
    /// The name exists and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// None of its addresses is public; this is the first of them.
    #[error(
        "its address {0} is not public; allowPrivateAnswers accepts all such addresses, privateAnswers those of one network"
    )]
    NotPublic(IpAddr),
    /// Timeout, SERVFAIL, REFUSED or a broken message, in words.
    #[error("{0}")]
    Failed(String),
}

/// The effect of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the name's addresses, or the order in which they are dialled, changed.
    pub changed: bool,
    /// Addresses that were left out as not public, if they are others than in the answer before.
    pub not_public: Vec<IpAddr>,
    /// Why the name gets no addresses, if it got some before, or none for another reason.
    pub failed: Option<Failure>,
    /// The name gets addresses again.
    pub recovered: bool,
    /// Addresses left out because the name was full.
    pub left_out: usize,
    /// Addresses that lost their lease because the name was full.
    pub evicted: usize,
    /// Addresses that have a lease now and had none before, or the reverse.
    pub(in crate::policy) moved: Vec<IpAddr>,
}

/// Names whose addresses changed. With each the addresses that have a lease now and had none before, or the reverse;
/// none if only the order in which they are dialled changed.
pub type Moved = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// The addresses of an answer that a workload gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The policy of the workload that asked.
    pub policy: PolicyId,
    /// The workload; `None` if a previous agent learned the name.
    pub workload: Option<CgroupId>,
    /// The name that it asked for, in canonical form.
    pub name: Arc<str>,
    /// Hosts that list it, the most specific first.
    pub hosts: Vec<Arc<str>>,
    /// The addresses, in the form that the kernel looks up, and the TTL.
    pub answer: Answer,
}

/// Which of a name's last eight answers brought a new address, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves(u8);

impl Moves {
    /// Notes an answer.
    pub(super) fn note(&mut self, moved: bool) {
        self.0 = self.0 << 1 | u8::from(moved);
    }

    /// Whether the next answer is likely to bring a new address.
    pub(super) fn rotates(self) -> bool {
        self.0 != 0
    }
}
