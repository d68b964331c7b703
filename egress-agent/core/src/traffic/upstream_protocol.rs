//! The version of HTTP that an endpoint gets.
//!
//! Source: istio `pilot/pkg/networking/core/cluster_builder.go`, `setUpstreamProtocol`. It makes no connection.

/// The version of HTTP that the endpoints of a cluster get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, whatever the client speaks: a port `HTTP`.
    #[default]
    Http1,
    /// HTTP/2, whatever the client speaks: a port `HTTP2`, `GRPC` or `GRPC-WEB`.
    Http2,
    /// What the client speaks: a port without a protocol, or a destination that no rule names.
    AsClient,
}

impl UpstreamProtocol {
    /// Of a port with this protocol in its `ServiceEntry`.
    pub fn of_port(protocol: &str) -> Self {
        match protocol.to_ascii_lowercase().as_str() {
            "http2" | "grpc" | "grpc-web" => Self::Http2,
            "" => Self::AsClient,
            _ => Self::Http1,
        }
    }

    /// Whether a request goes on as HTTP/2. `client`: it came as HTTP/2.
    pub fn is_http2(self, client: bool) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::AsClient => client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UpstreamProtocol::{self, AsClient, Http1, Http2};

    #[test]
    fn the_protocol_of_a_port_decides_what_its_endpoints_get() {
        for (port, upstream) in [
            ("HTTP", Http1),
            ("http_proxy", Http1),
            ("HTTP2", Http2),
            ("gRPC", Http2),
            ("GRPC-Web", Http2),
            ("", AsClient),
            ("TCP", Http1),
        ] {
            assert_eq!(UpstreamProtocol::of_port(port), upstream, "{port}");
        }
        assert!(AsClient.is_http2(true) && Http2.is_http2(false));
        assert!(!AsClient.is_http2(false) && !Http1.is_http2(true));
    }
}
