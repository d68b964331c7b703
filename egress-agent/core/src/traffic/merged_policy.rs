//! A traffic policy of `DestinationRule`s before it is read: how the policies of host, subset and port merge.
//!
//! It reads no field of its parts.

use crate::istio::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, HttpSettings, LoadBalancerSettings,
    OutlierDetection, PortTrafficPolicy, ProxyProtocol, RetryBudget, TrafficPolicy, TunnelSettings,
};

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
    /// `tls.credentialName`, if the policy asks for TLS.
    pub(crate) fn credential_name(&self) -> Option<&'a str> {
        let tls = self.tls.filter(|tls| tls.mode != ClientTlsMode::Disable)?;
        Some(tls.credential_name.as_str()).filter(|name| !name.is_empty())
    }

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
