//! The policy of `DestinationRule`s for one destination.
//!
//! Owns which fields are read. The registry finds the rules of a destination; the proxy carries the policy out.

use super::ClientTls;
use super::balance::Balance;
use super::connection_pool::{ConnectionPool, RetryLimit};
use super::merged_policy::MergedPolicy;
use super::outlier_detection::OutlierDetection as Outliers;
use super::proxy_protocol::ProxyProtocol;
use super::tunnel::Tunnel;
use crate::istio::CredentialName;
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
    /// `tunnel`: bytes of TCP and TLS routes go through its endpoints, which are HTTP proxies. Requests do not, as in
    /// Istio.
    pub tunnel: Option<Tunnel>,
    /// `proxyProtocol`: connections to its endpoints begin with a header that names the client.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `connectionPool` and `retryBudget`.
    pub pool: ConnectionPool,
    /// `outlierDetection`.
    pub outliers: Option<Outliers>,
    /// `loadBalancer`. Unset: [`Balance::LeastRequest`] among listed endpoints; of those that DNS gives, the dialled
    /// one.
    pub balance: Option<Balance>,
}

impl ClusterPolicy {
    /// Carries out a merged policy. `names` has the `subjectAltNames` of the service; `secret` is that of the rule's
    /// `credentialName`.
    pub fn new(rule: &MergedPolicy<'_>, names: &[String], secret: Option<&CredentialName>) -> Self {
        let tls = rule.tls.and_then(|tls| ClientTls::new(tls, names, secret));
        Self {
            denied: None,
            tls: tls.map(Arc::new),
            tunnel: rule.tunnel.map(Tunnel::from),
            proxy_protocol: rule.proxy_protocol.map(|p| p.version.into()),
            pool: ConnectionPool::from(rule),
            outliers: rule.outlier_detection.map(Outliers::from),
            balance: rule.load_balancer.and_then(Balance::of_rule),
        }
    }

    /// Whether only the proxy can carry it out, also for bytes that need no name.
    pub fn needs_proxy(&self) -> bool {
        let changes = self.tunnel.is_some() || self.proxy_protocol.is_some();
        self.denied.is_some() || self.tls.is_some() || changes || self.pool.limits_bytes()
    }

    /// Whether the proxy chooses the endpoint of a flow, instead of the address that the client dialled. With resolution
    /// NONE the client chooses.
    pub fn chooses_endpoint(&self) -> bool {
        let balances = |balance: &Balance| *balance != Balance::Passthrough;
        self.outliers.is_some() || self.balance.as_ref().is_some_and(balances)
    }

    /// Serves nothing, for this reason.
    pub fn denying(why: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            denied: Some(Arc::clone(why)),
            ..Self::default()
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
