//! The policy of `DestinationRule`s for one destination.
//!
//! Owns which fields are read, and how the policies of host, subset and port merge. The registry
//! finds the rules of a destination; the proxy carries the policy out.

use super::ClientTls;
use super::balance::Balance;
use super::connection_pool::{ConnectionPool, RetryLimit};
use super::outlier_detection::OutlierDetection as Outliers;
use crate::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, HttpSettings, LoadBalancerSettings,
    OutlierDetection, PortTrafficPolicy, ProxyProtocol, RetryBudget, TrafficPolicy, TunnelSettings,
};
use std::fmt;
use std::sync::Arc;

/// The policy of one cluster. The default has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterPolicy {
    /// Why the cluster serves nothing, even with addresses: a rule for it has a protecting field that is not carried
    /// out. The text names the field and the object.
    pub denied: Option<Arc<str>>,
    /// `tls`: connections to its endpoints are TLS.
    pub tls: Option<Arc<ClientTls>>,
    /// `connectionPool` and `retryBudget`.
    pub pool: ConnectionPool,
    /// `outlierDetection`.
    pub outliers: Option<Outliers>,
    /// `loadBalancer`. Unset: [`Balance::LeastRequest`] among listed endpoints; of those that DNS gives, the dialled
    /// one.
    pub balance: Option<Balance>,
}

impl ClusterPolicy {
    /// Carries out a merged policy. `names` has the `subjectAltNames` of the service.
    pub fn new(rule: &MergedPolicy<'_>, names: &[String]) -> Self {
        let tls = rule.tls.and_then(|tls| ClientTls::new(tls, names));
        Self {
            denied: None,
            tls: tls.map(Arc::new),
            pool: ConnectionPool::from(rule),
            outliers: rule.outlier_detection.map(Outliers::from),
            balance: rule.load_balancer.and_then(Balance::of_rule),
        }
    }

    /// Whether only the proxy can carry it out, also for bytes that need no name.
    pub fn needs_proxy(&self) -> bool {
        self.denied.is_some() || self.tls.is_some()
    }

    /// Serves nothing, for this reason.
    pub fn denying(why: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            denied: Some(Arc::clone(why)),
            ..Self::default()
        })
    }
}

/// A traffic policy of a `DestinationRule`: that of the host, of a subset or of a port, or several merged.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergedPolicy<'a> {
    pub(crate) tls: Option<&'a ClientTlsSettings>,
    pub(crate) tunnel: Option<&'a TunnelSettings>,
    pub(crate) proxy_protocol: Option<&'a ProxyProtocol>,
    pub(crate) load_balancer: Option<&'a LoadBalancerSettings>,
    pub(crate) connection_pool: Option<&'a ConnectionPoolSettings>,
    pub(crate) outlier_detection: Option<&'a OutlierDetection>,
    pub(crate) retry_budget: Option<&'a RetryBudget>,
}

impl<'a> From<&'a TrafficPolicy> for MergedPolicy<'a> {
    fn from(p: &'a TrafficPolicy) -> Self {
        Self {
            tls: p.tls.as_ref(),
            tunnel: p.tunnel.as_ref(),
            proxy_protocol: p.proxy_protocol.as_ref(),
            load_balancer: p.load_balancer.as_ref(),
            connection_pool: p.connection_pool.as_ref(),
            outlier_detection: p.outlier_detection.as_ref(),
            retry_budget: p.retry_budget.as_ref(),
        }
    }
}

impl<'a> From<&'a PortTrafficPolicy> for MergedPolicy<'a> {
    fn from(p: &'a PortTrafficPolicy) -> Self {
        Self {
            tls: p.tls.as_ref(),
            load_balancer: p.load_balancer.as_ref(),
            connection_pool: p.connection_pool.as_ref(),
            outlier_detection: p.outlier_detection.as_ref(),
            ..Self::default()
        }
    }
}

impl<'a> MergedPolicy<'a> {
    pub(crate) fn http(&self) -> Option<&'a HttpSettings> {
        self.connection_pool.and_then(|c| c.http.as_ref())
    }

    /// This policy, with the fields of another one where it has none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tls: self.tls.or(other.tls),
            tunnel: self.tunnel.or(other.tunnel),
            proxy_protocol: self.proxy_protocol.or(other.proxy_protocol),
            load_balancer: self.load_balancer.or(other.load_balancer),
            connection_pool: self.connection_pool.or(other.connection_pool),
            outlier_detection: self.outlier_detection.or(other.outlier_detection),
            retry_budget: self.retry_budget.or(other.retry_budget),
        }
    }

    /// This policy with another one over it for a port (istio `pilot/pkg/networking/util`, `MergeTrafficPolicy`):
    /// fields that the other policy sets replace those of this one, and its settings for the port inherit nothing.
    #[must_use]
    pub fn under(self, other: &'a TrafficPolicy, port: u16) -> Self {
        let own = Self::from(other);
        let merged = own.or(self);
        let of_port = other.port_level_settings.iter().find(|p| {
            let number = p.port.as_ref().map(|p| p.number);
            number == Some(u32::from(port))
        });
        of_port.map_or(merged, |settings| Self {
            tunnel: merged.tunnel,
            proxy_protocol: merged.proxy_protocol,
            retry_budget: merged.retry_budget,
            ..Self::from(settings)
        })
    }
}

/// What the rule asks for, each after a comma.
impl fmt::Display for ClusterPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = &self.pool;
        for (limit, of) in [
            (pool.connections, "connections"),
            (pool.pending, "waiting requests"),
            (pool.requests, "requests"),
            (pool.requests_per_connection, "requests per connection"),
        ] {
            if let Some(limit) = limit {
                write!(f, ", at most {limit} {of}")?;
            }
        }
        match pool.retries {
            Some(RetryLimit::Count(most)) => write!(f, ", at most {most} retries")?,
            Some(RetryLimit::Budget { .. }) => f.write_str(", a retry budget")?,
            None => {}
        }
        for (limit, of) in [
            (pool.connect_timeout, "connect timeout"),
            (pool.max_connection_duration, "connections live"),
            (pool.http_idle_timeout, "HTTP idle timeout"),
            (pool.tcp_idle_timeout, "TCP idle timeout"),
        ] {
            if let Some(limit) = limit {
                write!(f, ", {of} {limit:?}")?;
            }
        }
        match &self.balance {
            None => {}
            Some(Balance::LeastRequest) => f.write_str(", least request")?,
            Some(Balance::RoundRobin) => f.write_str(", round robin")?,
            Some(Balance::Random) => f.write_str(", random endpoint")?,
            Some(Balance::Passthrough) => f.write_str(", the dialled endpoint")?,
            Some(Balance::Hash(_)) => f.write_str(", endpoint by hash")?,
        }
        if self.outliers.is_some() {
            f.write_str(", endpoints with errors are ejected")?;
        }
        Ok(())
    }
}
