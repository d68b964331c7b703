//! Protocols of ports, by the names that Istio takes (istio `pkg/config/protocol/instance.go`).

/// A protocol of a port. An empty name, which asks for sniffing, is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the variants are the protocols' own names")]
pub enum Protocol {
    Http,
    Http2,
    HttpProxy,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Udp,
    Mongo,
    Redis,
    MySql,
}

impl Protocol {
    /// The names that [`Self::parse`] reads, as Istio writes them, for messages.
    pub const NAMES: &str =
        "HTTP, HTTP2, HTTP_PROXY, GRPC, GRPC-Web, HTTPS, TLS, TCP, UDP, Mongo, Redis, MySQL";

    /// Reads a name, in any case; `None` for the empty name and for unsupported ones.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "http_proxy" => Self::HttpProxy,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            _ => return None,
        })
    }

    /// Whether requests are distinguished by their authority.
    pub const fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb
        )
    }

    /// Whether connections are distinguished by their server name.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether Istio treats it as a stream of bytes; TLS counts too.
    pub const fn is_tcp(self) -> bool {
        self.is_tls() || matches!(self, Self::Tcp | Self::Mongo | Self::Redis | Self::MySql)
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn each_name_of_a_message_is_read() {
        for name in Protocol::NAMES.split(", ") {
            assert!(Protocol::parse(name).is_some(), "{name}");
        }
    }
}
