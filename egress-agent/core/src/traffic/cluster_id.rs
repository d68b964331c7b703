//! The identity of a cluster. It outlives a snapshot.
//!
//! Addresses, policies and weights of a cluster change. State about its upstream is kept by its id.

use std::fmt;
use std::sync::Arc;

/// Envoy's cluster name in parts: a service, one of its ports, and a subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId {
    /// The service's host in canonical form; may be registered or not.
    pub host: Arc<str>,
    /// The service's port, not an endpoint's.
    pub port: u16,
    /// Name of the `DestinationRule`'s subset; empty for the whole service.
    pub subset: Arc<str>,
}

impl ClusterId {
    /// Istio's name for the destination of traffic that matches no service and is allowed.
    pub const PASSTHROUGH: &str = "PassthroughCluster";
    /// The same for traffic that is denied.
    pub const BLACK_HOLE: &str = "BlackHoleCluster";

    /// A whole service on one of its ports.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            subset: Arc::default(),
        }
    }
}

/// Istio's name for it (`pilot/pkg/model/service.go`, `BuildSubsetKey`): `outbound|80||httpbin.org`.
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, subset } = self;
        if [Self::PASSTHROUGH, Self::BLACK_HOLE].contains(&&**host) {
            return f.write_str(host);
        }
        write!(f, "outbound|{port}|{subset}|{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::ClusterId;

    #[test]
    fn a_cluster_is_named_as_istio_names_it() {
        let whole = ClusterId::new("httpbin.org", 80);
        assert_eq!(whole.to_string(), "outbound|80||httpbin.org");
        let subset = ClusterId {
            subset: "v1".into(),
            ..whole
        };
        assert_eq!(subset.to_string(), "outbound|80|v1|httpbin.org");
        let black_hole = ClusterId::new(ClusterId::BLACK_HOLE, 80);
        assert_eq!(black_hole.to_string(), "BlackHoleCluster");
    }
}
