//! `trafficPolicy.tunnel`: bytes of TCP and TLS routes go through an HTTP proxy, which is asked for the destination.
//!
//! Owns the request and how the proxy's response is read. Source: istio `pilot/pkg/networking/core/tunnelingconfig`,
//! Envoy `tcp_proxy/upstream.cc`, whose bytes over HTTP/1.1 these are.

use crate::istio::destination_rule::TunnelSettings;
use std::sync::Arc;

/// The most header fields of a proxy's response.
const MAX_FIELDS: usize = 100;

/// What the proxy is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// `host:port`, an IPv6 address in brackets.
    pub target: Arc<str>,
    /// With `POST`, the bytes are the bodies of a request and its response. Otherwise the method is `CONNECT`.
    pub post: bool,
}

impl From<&TunnelSettings> for Tunnel {
    fn from(rule: &TunnelSettings) -> Self {
        let (host, port) = (&rule.target_host, rule.target_port);
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Self {
            target: target.into(),
            post: rule.protocol.eq_ignore_ascii_case("POST"),
        }
    }
}

/// How the bytes behind the head of the proxy's response are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Not at all: all of them belong to the tunnel.
    None,
    /// In chunks.
    Chunked,
    /// So many bytes.
    Length(u64),
}

impl Tunnel {
    /// The request over HTTP/1.1.
    pub fn request(&self) -> Vec<u8> {
        let target = &self.target;
        if self.post {
            format!("POST / HTTP/1.1\r\nhost: {target}\r\ntransfer-encoding: chunked\r\n\r\n")
        } else {
            format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")
        }
        .into_bytes()
    }

    /// Reads the whole head of a response. `Ok(None)` for an interim response: another one follows.
    ///
    /// # Errors
    /// The status of a proxy that refuses; `None` if the bytes are no response.
    pub fn response(&self, head: &[u8]) -> Result<Option<Framing>, Option<u16>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(head).map_err(|_| None)?;
        let status = response.code.filter(|_| parsed.is_complete()).ok_or(None)?;
        match status {
            101 => return Err(Some(status)),
            100..200 => return Ok(None),
            200..300 => {}
            _ => return Err(Some(status)),
        }
        // RFC 9110 §9.3.6: a response to CONNECT has no body.
        if !self.post {
            return Ok(Some(Framing::None));
        }
        let field = |name: &str| {
            let mut all = response.headers.iter();
            all.find(|field| field.name.eq_ignore_ascii_case(name))
                .map(|field| {
                    String::from_utf8_lossy(field.value)
                        .trim()
                        .to_ascii_lowercase()
                })
        };
        match (field("transfer-encoding"), field("content-length")) {
            (Some(coding), None) if coding == "chunked" => Ok(Some(Framing::Chunked)),
            (None, Some(length)) => {
                let length = length.parse().map_err(|_| None)?;
                Ok(Some(Framing::Length(length)))
            }
            (None, None) => Ok(Some(Framing::None)),
            (Some(_), _) => Err(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Framing, Tunnel};
    use crate::istio::destination_rule::TunnelSettings;

    fn tunnel(protocol: &str, host: &str) -> Tunnel {
        Tunnel::from(&TunnelSettings {
            protocol: protocol.to_owned(),
            target_host: host.to_owned(),
            target_port: 443,
        })
    }

    #[test]
    fn the_request_names_the_target() {
        for (protocol, host, request) in [
            (
                "",
                "www.example",
                "CONNECT www.example:443 HTTP/1.1\r\nhost: www.example:443\r\n\r\n",
            ),
            (
                "CONNECT",
                "2001:db8::1",
                "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nhost: [2001:db8::1]:443\r\n\r\n",
            ),
            (
                "POST",
                "www.example",
                "POST / HTTP/1.1\r\nhost: www.example:443\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
        ] {
            assert_eq!(tunnel(protocol, host).request(), request.as_bytes());
        }
    }

    #[test]
    fn only_a_whole_response_of_success_opens_the_tunnel() {
        let (connect, post) = (tunnel("CONNECT", "a.example"), tunnel("POST", "a.example"));
        for (head, of_connect, of_post) in [
            (
                "HTTP/1.1 200 OK\r\n\r\n",
                Ok(Some(Framing::None)),
                Ok(Some(Framing::None)),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n",
                Ok(Some(Framing::None)),
                Ok(Some(Framing::Chunked)),
            ),
            (
                "HTTP/1.0 204 x\r\ncontent-length: 7\r\n\r\n",
                Ok(Some(Framing::None)),
                Ok(Some(Framing::Length(7))),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", Ok(None), Ok(None)),
            (
                "HTTP/1.1 101 Switching\r\n\r\n",
                Err(Some(101)),
                Err(Some(101)),
            ),
            (
                "HTTP/1.1 403 Forbidden\r\n\r\n",
                Err(Some(403)),
                Err(Some(403)),
            ),
            ("SSH-2.0-x\r\n\r\n", Err(None), Err(None)),
        ] {
            assert_eq!(connect.response(head.as_bytes()), of_connect, "{head}");
            assert_eq!(post.response(head.as_bytes()), of_post, "{head}");
        }
        let both = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n";
        assert_eq!(post.response(both), Err(None));
    }
}
