//! The limits of a cluster's connections and requests: `trafficPolicy.connectionPool` and `retryBudget`.
//!
//! Owns which fields are read. The proxy counts, for each workload by itself, as each sidecar does.

use super::merged_policy::MergedPolicy;
use super::upstream_protocol::UpstreamProtocol;
use crate::istio::destination_rule::{
    ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, RetryBudget, TcpKeepalive, TcpSettings,
};
use crate::istio::duration::TimeSpan;
use std::time::Duration;

/// Envoy's default of `retry_budget.budget_percent`.
const BUDGET_PERCENT: f64 = 20.0;
/// Envoy's default of `retry_budget.min_retry_concurrency`.
const BUDGET_LEAST: u32 = 3;

/// The limits of one cluster. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionPool {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Requests at a time that wait for a connection to be made or free.
    pub pending: Option<u32>,
    /// Requests at a time that have a connection.
    pub requests: Option<u32>,
    /// Retries at a time.
    pub retries: Option<RetryLimit>,
    /// Requests over one connection.
    pub requests_per_connection: Option<u32>,
    /// For a connection to be made.
    pub connect_timeout: Option<Duration>,
    /// The life of a connection. An HTTP connection then ends after its request, a TCP connection at once.
    pub max_connection_duration: Option<Duration>,
    /// How long an HTTP connection may have no request.
    pub http_idle_timeout: Option<Duration>,
    /// How long a TCP connection may have no bytes.
    pub tcp_idle_timeout: Option<Duration>,
    /// The kernel's probes.
    pub keepalive: Option<Keepalive>,
    /// Requests at a time over one HTTP/2 connection.
    pub streams: Option<u32>,
    /// The version of HTTP that the endpoints get. Unset: that of the port.
    pub protocol: Option<UpstreamProtocol>,
}

/// The most retries at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryLimit {
    /// This many.
    Count(u32),
    /// A share of the requests at the time, and at least so many.
    Budget {
        /// In millionths.
        share: u32,
        /// Allowed with few requests.
        least: u32,
    },
}

/// The kernel's keepalive probes. Unset fields are the kernel's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Silence before the first, in whole seconds.
    pub time: Option<Duration>,
    /// Time between two, in whole seconds.
    pub interval: Option<Duration>,
}

impl RetryLimit {
    /// The most retries while so many requests are under way (Envoy `resource_manager_impl.h`, `RetryBudgetImpl`).
    pub fn most(self, requests: u32) -> u32 {
        match self {
            Self::Count(most) => most,
            Self::Budget { share, least } => {
                let allowed = u64::from(requests) * u64::from(share) / 1_000_000;
                u32::try_from(allowed).unwrap_or(u32::MAX).max(least)
            }
        }
    }
}

impl From<&RetryBudget> for RetryLimit {
    fn from(budget: &RetryBudget) -> Self {
        let percent = budget.percent.unwrap_or(BUDGET_PERCENT).clamp(0.0, 100.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a million"
        )]
        let share = (percent * 10_000.0) as u32;
        let least = match budget.min_retry_concurrency {
            0 => BUDGET_LEAST,
            least => least,
        };
        Self::Budget { share, least }
    }
}

impl From<&TcpKeepalive> for Keepalive {
    fn from(rule: &TcpKeepalive) -> Self {
        Self {
            probes: Some(rule.probes).filter(|probes| *probes > 0),
            time: rule.time.map(TimeSpan::duration),
            interval: rule.interval.map(TimeSpan::duration),
        }
    }
}

/// A limit of a rule: 0 means the default, which is none.
fn limit(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

impl From<&MergedPolicy<'_>> for ConnectionPool {
    fn from(policy: &MergedPolicy<'_>) -> Self {
        let settings = policy.connection_pool;
        let mut pool = Self::default();
        if let Some(ConnectionPoolSettings { tcp, http }) = settings {
            if let Some(tcp) = tcp {
                pool.read_tcp(tcp);
            }
            if let Some(http) = http {
                pool.read_http(http);
            }
        }
        // Envoy: a budget outweighs the count.
        if let Some(budget) = policy.retry_budget {
            pool.retries = Some(budget.into());
        }
        pool
    }
}

impl ConnectionPool {
    fn read_tcp(&mut self, rule: &TcpSettings) {
        self.connections = limit(rule.max_connections);
        self.connect_timeout = rule.connect_timeout.map(TimeSpan::duration);
        self.max_connection_duration = rule.max_connection_duration.map(TimeSpan::duration);
        self.tcp_idle_timeout = rule.idle_timeout.map(TimeSpan::duration);
        self.keepalive = rule.tcp_keepalive.as_ref().map(Keepalive::from);
    }

    fn read_http(&mut self, rule: &HttpSettings) {
        self.pending = limit(rule.http1_max_pending_requests);
        self.requests = limit(rule.http2_max_requests);
        self.requests_per_connection = limit(rule.max_requests_per_connection);
        self.retries = limit(rule.max_retries).map(RetryLimit::Count);
        self.http_idle_timeout = rule.idle_timeout.map(TimeSpan::duration);
        self.streams = limit(rule.max_concurrent_streams);
        // istio `cluster_traffic_policy.go`: `shouldH2Upgrade`, `setUseDownstreamProtocol`.
        self.protocol = if rule.use_client_protocol {
            Some(UpstreamProtocol::AsClient)
        } else {
            (rule.h2_upgrade_policy == H2UpgradePolicy::Upgrade).then_some(UpstreamProtocol::Http2)
        };
    }

    /// Whether it has a setting for connections of any protocol.
    pub const fn limits_bytes(&self) -> bool {
        self.connections.is_some()
            || self.connect_timeout.is_some()
            || self.max_connection_duration.is_some()
            || self.tcp_idle_timeout.is_some()
            || self.keepalive.is_some()
    }

    /// Whether anything has to be counted for the cluster.
    pub fn counts(&self) -> bool {
        self.connections.is_some()
            || self.pending.is_some()
            || self.requests.is_some()
            || self.retries.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_a_share_of_the_requests_and_at_least_a_few() {
        let budget = RetryLimit::from(&RetryBudget::default());
        for (requests, most) in [(0, 3), (15, 3), (20, 4), (100, 20)] {
            assert_eq!(budget.most(requests), most, "{requests}");
        }
        assert_eq!(RetryLimit::Count(2).most(1000), 2);
    }

    #[test]
    fn zero_is_no_limit() {
        let tcp = TcpSettings::default();
        let http = HttpSettings::default();
        let settings = ConnectionPoolSettings {
            tcp: Some(tcp),
            http: Some(http),
        };
        let policy = MergedPolicy {
            connection_pool: Some(&settings),
            ..MergedPolicy::default()
        };
        assert_eq!(ConnectionPool::from(&policy), ConnectionPool::default());
    }
}
