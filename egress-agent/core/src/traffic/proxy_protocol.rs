//! `trafficPolicy.proxyProtocol`: the header with the client's addresses at the start of a connection to an endpoint.
//!
//! Source of the format: haproxy `doc/proxy-protocol.txt`, sections 2.1 and 2.2; Envoy
//! `source/common/network/../extensions/common/proxy_protocol` writes the same bytes.

use crate::istio::destination_rule::ProxyProtocolVersion;
use std::net::{IpAddr, SocketAddr};

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a connection for somebody else; of the proxy's own.
const PROXIED: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// TCP over IPv4 and IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl From<ProxyProtocolVersion> for ProxyProtocol {
    fn from(version: ProxyProtocolVersion) -> Self {
        match version {
            ProxyProtocolVersion::V1 => Self::V1,
            ProxyProtocolVersion::V2 => Self::V2,
        }
    }
}

impl ProxyProtocol {
    /// The header of a connection from a client to its destination. Addresses of two families are not told.
    pub fn header(self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let both = (from.ip().to_canonical(), to.ip().to_canonical());
        let ports = (from.port(), to.port());
        match self {
            Self::V1 => {
                let family = match both {
                    (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                    (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
                    _ => return b"PROXY UNKNOWN\r\n".to_vec(),
                };
                let ((from, to), (source, target)) = (both, ports);
                format!("PROXY {family} {from} {to} {source} {target}\r\n").into_bytes()
            }
            Self::V2 => {
                let mut header = SIGNATURE.to_vec();
                let mut addresses = Vec::new();
                let (command, family) = match both {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        addresses.extend([from.octets(), to.octets()].concat());
                        (PROXIED, TCP4)
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        addresses.extend([from.octets(), to.octets()].concat());
                        (PROXIED, TCP6)
                    }
                    _ => (LOCAL, 0),
                };
                if command == PROXIED {
                    addresses.extend(ports.0.to_be_bytes());
                    addresses.extend(ports.1.to_be_bytes());
                }
                header.extend([command, family, 0, addresses.len() as u8]);
                header.extend(addresses);
                header
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ProxyProtocol;

    #[test]
    fn headers_are_those_of_envoy() {
        let at = |text: &str| text.parse().unwrap();
        let v4 = (at("127.0.0.1:45754"), at("[::ffff:127.0.0.1]:18194"));
        let v6 = (at("[2001:db8::1]:1"), at("[2001:db8::2]:443"));
        let header = |version: ProxyProtocol, both: (_, _)| version.header(both.0, both.1);
        assert_eq!(
            header(ProxyProtocol::V1, v4),
            b"PROXY TCP4 127.0.0.1 127.0.0.1 45754 18194\r\n"
        );
        assert_eq!(
            header(ProxyProtocol::V1, v6),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n"
        );
        assert_eq!(
            header(ProxyProtocol::V2, v4),
            b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\xb2\xbaG\x12"
        );
        assert_eq!(header(ProxyProtocol::V2, v6).len(), 16 + 36);
        let mixed = (v4.0, v6.1);
        assert_eq!(header(ProxyProtocol::V1, mixed), b"PROXY UNKNOWN\r\n");
        assert_eq!(header(ProxyProtocol::V2, mixed)[12..], [0x20, 0, 0, 0]);
    }
}
