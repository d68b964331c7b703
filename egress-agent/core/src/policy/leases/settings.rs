//! How long leases live and which addresses get one. Defaults are filled in here for tests; the
//! agent's own are in its configuration.

use crate::istio::hosts;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Addresses that are not public and may be in answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateAnswers {
    /// The name that is asked for or a wildcard over it, in canonical form; none is every name.
    pub host: Option<Arc<str>>,
    /// The network that they are in.
    pub network: IpNet,
}

impl PrivateAnswers {
    pub(super) fn accepts(&self, name: &str, ip: IpAddr) -> bool {
        let host = self.host.as_deref();
        host.is_none_or(|host| hosts::covers(host, name)) && self.network.contains(&ip)
    }
}

/// How leases live.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Shortest time that an answer is taken to be valid for.
    pub min_ttl: Duration,
    /// How long an address that newer answers no longer hold stays listed after its time.
    /// Clients cache addresses far longer than the TTL says.
    pub grace: Duration,
    /// Most addresses held for one name; further ones are counted and left out.
    pub max_addresses: usize,
    /// Shortest time between two questions for one name.
    pub min_refresh: Duration,
    /// Longest time between two questions for one name.
    pub max_refresh: Duration,
    /// Longest first pause after a failed question; doubled with each further failure.
    pub min_retry: Duration,
    /// Longest pause after a failed question.
    pub max_retry: Duration,
    /// Take private, loopback, link-local and metadata addresses from any answer.
    pub allow_private_answers: bool,
    /// What is taken from answers although it is not public.
    pub private_answers: Vec<PrivateAnswers>,
    /// Of the random numbers that spread the questions over time.
    pub seed: u64,
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
            seed: 0,
        }
    }
}
