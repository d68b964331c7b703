//! How long leases last and which addresses get one. The defaults here are for tests; the agent's own are in its
//! configuration.

use super::learned::Bounds;
use crate::istio::hosts;
use crate::routing::inside::is_public;
use egress_ebpf::addr::Addr;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A network that is not public and whose addresses are accepted in answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateAnswers {
    /// The name that is asked for, or a wildcard over it, in canonical form; `None` means every name.
    pub host: Option<Arc<str>>,
    /// The network.
    pub network: IpNet,
}

impl PrivateAnswers {
    pub(super) fn accepts(&self, name: &str, ip: IpAddr) -> bool {
        let host = self.host.as_deref();
        host.is_none_or(|host| hosts::covers(host, name)) && self.network.contains(&ip)
    }
}

/// The settings of leases.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Shortest time that an answer is taken to be valid for.
    pub min_ttl: Duration,
    /// How long an address stays listed after its time if newer answers do not have it. Clients cache addresses
    /// much longer than the TTL.
    pub grace: Duration,
    /// The most addresses of one name. Further ones are counted and left out.
    pub max_addresses: usize,
    /// Shortest time between two questions for one name.
    pub min_refresh: Duration,
    /// Longest time between two questions for one name.
    pub max_refresh: Duration,
    /// Longest pause after a first failed question. It doubles with each further failure.
    pub min_retry: Duration,
    /// Longest pause after a failed question.
    pub max_retry: Duration,
    /// Accept private, loopback, link-local and metadata addresses in every answer.
    pub allow_private_answers: bool,
    /// Addresses that are accepted in answers although they are not public.
    pub private_answers: Vec<PrivateAnswers>,
    /// Bounds of learned names.
    pub learned: Bounds,
    /// Seed of the random numbers that spread the questions over time.
    pub seed: u64,
}

impl LeaseSettings {
    /// The addresses of an answer that may be dialled, each once, and the others, which are not public.
    pub fn accepted(&self, name: &str, addresses: Vec<IpAddr>) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let mut usable = Vec::with_capacity(addresses.len());
        let mut not_public = Vec::new();
        for ip in addresses {
            // The form that the kernel looks up: a NAT64 or mapped address is judged by the IPv4 address in it.
            let ip = IpAddr::from(Addr::from(ip).canonical());
            if self.leaves_out(name, ip) {
                not_public.push(ip);
            } else if !usable.contains(&ip) {
                usable.push(ip);
            }
        }
        (usable, not_public)
    }

    /// Whether the two accept the same answers.
    pub fn accepts_as(&self, other: &Self) -> bool {
        self.allow_private_answers == other.allow_private_answers
            && self.private_answers == other.private_answers
    }

    /// Whether this address, in the form that the kernel looks up, is left out of answers for a name.
    pub fn leaves_out(&self, name: &str, ip: IpAddr) -> bool {
        !self.allow_private_answers
            && !is_public(ip)
            && !self.private_answers.iter().any(|a| a.accepts(name, ip))
    }
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(30),
            grace: Duration::from_mins(10),
            max_addresses: 4096,
            min_refresh: Duration::from_secs(1),
            max_refresh: Duration::from_mins(5),
            min_retry: Duration::from_secs(1),
            max_retry: Duration::from_secs(30),
            allow_private_answers: false,
            private_answers: Vec::new(),
            learned: Bounds::default(),
            seed: 0,
        }
    }
}
