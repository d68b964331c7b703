//! The proxy's own replies, byte for byte as Envoy's `sendLocalReply`.
//!
//! It writes to no socket.

use super::response_flags::{ResponseFlag, ResponseFlags};
use super::upstream_reset::UpstreamReset;
use std::borrow::Cow;

/// Whether a request is gRPC by its `content-type` (Envoy `grpc/common.cc`).
pub fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// One reply of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// Body, without a newline. It has `content-type: text/plain` unless it is empty.
    pub body: Cow<'static, str>,
    /// Flags for the log.
    pub flags: ResponseFlags,
    /// Envoy's response code details, for the access log.
    pub details: Cow<'static, str>,
    /// Why no connection to the upstream was made, for the access log.
    pub transport: Option<Cow<'static, str>>,
}

impl LocalReply {
    const fn new(
        status: u16,
        body: &'static str,
        flags: ResponseFlags,
        details: &'static str,
    ) -> Self {
        Self {
            status,
            body: Cow::Borrowed(body),
            flags,
            details: Cow::Borrowed(details),
            transport: None,
        }
    }

    /// A rule aborted the request.
    pub fn fault_abort(status: u16) -> Self {
        Self::new(
            status,
            "fault filter abort",
            ResponseFlag::FI.into(),
            "fault_filter_abort",
        )
    }

    /// The Host is not listed: Istio's vhost `block_all`.
    pub fn unlisted_host() -> Self {
        Self::new(502, "", ResponseFlags::default(), "direct_response")
    }

    /// The host is listed, but none of its routes matches.
    pub fn no_route() -> Self {
        Self::new(
            404,
            "",
            ResponseFlags::from(ResponseFlag::NR),
            "route_not_found",
        )
    }

    /// The target is `*`, which is not a path.
    pub fn asterisk() -> Self {
        Self::new(404, "", ResponseFlags::default(), "absolute_path_rejected")
    }

    /// The route leads to a cluster that does not exist.
    pub fn no_cluster() -> Self {
        Self::new(503, "", ResponseFlag::NC.into(), "cluster_not_found")
    }

    /// The cluster has no endpoint.
    pub fn no_healthy_upstream() -> Self {
        Self::new(
            503,
            "no healthy upstream",
            ResponseFlag::UH.into(),
            "no_healthy_upstream",
        )
    }

    /// The name that the client asked for was not resolved (Envoy `dynamic_forward_proxy/proxy_filter.cc`).
    pub fn unresolved() -> Self {
        Self::new(
            503,
            "DNS resolution failure",
            ResponseFlag::DF.into(),
            "dns_resolution_failure",
        )
    }

    /// The route's timeout passed.
    pub fn request_timeout() -> Self {
        Self::new(
            504,
            "upstream request timeout",
            ResponseFlag::UT.into(),
            "response_timeout",
        )
    }

    /// The request has no Host, or its target is not one for HTTP.
    pub fn bad_request() -> Self {
        Self::new(400, "", ResponseFlags::default(), "missing_host_header")
    }

    /// The request breaks HTTP/1.1.
    pub fn malformed() -> Self {
        Self::new(
            400,
            "Bad Request",
            ResponseFlag::DPE.into(),
            "http1.codec_error",
        )
    }

    /// The request's head is over 60 KiB or has over 100 headers.
    pub fn head_too_large() -> Self {
        Self::new(
            431,
            "Request Header Fields Too Large",
            ResponseFlag::DPE.into(),
            "http1.headers_too_large",
        )
    }

    /// No room for what the client sends (Envoy's overload manager).
    pub fn overloaded() -> Self {
        Self::new(
            503,
            "envoy overloaded",
            ResponseFlag::UO.into(),
            "overload_error",
        )
    }

    /// The workload has too many open connections (Envoy's overflow of a circuit breaker).
    pub fn overflow() -> Self {
        let limit = "too many open connections of this workload";
        Self::upstream_reset(&UpstreamReset::Overflow(Some(limit)), false)
    }

    /// A transfer coding other than chunked.
    pub fn not_implemented() -> Self {
        Self::new(
            501,
            "Not Implemented",
            ResponseFlag::DPE.into(),
            "http1.invalid_transfer_encoding",
        )
    }

    /// HTTP/1.0 on a port that is HTTP by its protocol.
    pub fn upgrade_required() -> Self {
        Self::new(
            426,
            "Upgrade Required",
            ResponseFlag::DPE.into(),
            "low_version",
        )
    }

    /// An upgrade to a protocol other than websocket.
    pub fn upgrade_denied() -> Self {
        Self::new(403, "", ResponseFlags::default(), "upgrade_failed")
    }

    /// Whether a limit of the cluster was reached. The reply then has `x-envoy-overloaded` (Envoy `router.cc`,
    /// `onUpstreamReset`).
    pub fn is_overflow(&self) -> bool {
        self.flags.has(ResponseFlag::UO) && self.body.contains("reset reason: overflow")
    }

    /// The time for one attempt passed.
    pub fn per_try_timeout() -> Self {
        Self::request_timeout().detailed("upstream_per_try_timeout")
    }

    /// The same reply for another reason.
    #[must_use]
    pub fn detailed(self, details: &'static str) -> Self {
        let details = details.into();
        Self { details, ..self }
    }

    /// The same reply with further flags.
    #[must_use]
    pub fn flagged(self, flags: ResponseFlags) -> Self {
        let flags = self.flags.and(flags);
        Self { flags, ..self }
    }

    /// The same reply to a lost upstream, for a client that has a 1xx response: in Envoy, the response had begun.
    #[must_use]
    pub fn after_interim(self) -> Self {
        let details = self
            .details
            .replace("_before_response_", "_after_response_");
        Self {
            details: details.into(),
            ..self
        }
    }

    /// The upstream was lost before its response began; `retried` after one or more retries.
    pub fn upstream_reset(reset: &UpstreamReset, retried: bool) -> Self {
        let (reason, transport, status, flag) = match reset {
            UpstreamReset::ConnectFailure(text) => (
                "remote connection failure",
                Some(text.as_str()),
                503,
                ResponseFlag::UF,
            ),
            UpstreamReset::TlsFailure(text) => (
                "remote connection failure",
                text.as_deref(),
                503,
                ResponseFlag::UF,
            ),
            UpstreamReset::ConnectTimeout => ("connection timeout", None, 503, ResponseFlag::UF),
            UpstreamReset::Termination => ("connection termination", None, 503, ResponseFlag::UC),
            UpstreamReset::ProtocolError => ("protocol error", None, 502, ResponseFlag::UPE),
            UpstreamReset::Overflow(limit) => ("overflow", *limit, 503, ResponseFlag::UO),
            UpstreamReset::RemoteReset => ("remote reset", None, 503, ResponseFlag::UR),
            UpstreamReset::RemoteRefused => {
                ("remote refused stream reset", None, 503, ResponseFlag::UR)
            }
        };
        let again = if retried {
            "retried and the latest "
        } else {
            ""
        };
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        let mut body = format!(
            "upstream connect error or disconnect/reset before headers. {again}reset reason: {reason}"
        );
        if let Some(transport) = transport {
            body.push_str(", transport failure reason: ");
            body.push_str(transport);
            details.push('|');
            details.push_str(transport);
        }
        details.push('}');
        Self {
            status,
            body: body.into(),
            flags: flag.into(),
            details: details.replace(' ', "_").into(),
            transport: reset.logged_transport().map(Cow::Owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::grpc::grpc_status;
    use crate::http::upstream_reset::connect_failure;

    #[test]
    fn a_grpc_client_gets_envoys_status_of_the_reply() {
        for (reply, status) in [
            (LocalReply::unlisted_host(), 14),
            (LocalReply::no_route(), 12),
            (LocalReply::request_timeout(), 14),
            (LocalReply::malformed(), 13),
            (LocalReply::upgrade_denied(), 7),
            (LocalReply::not_implemented(), 2),
        ] {
            assert_eq!(grpc_status(reply.status), status, "{reply:?}");
        }
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc;x", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), grpc, "{content_type}");
        }
    }

    #[test]
    fn each_local_reply_has_envoys_status_body_and_flags() {
        let refused = connect_failure("Connection refused", false);
        for (reply, status, body, flags) in [
            (LocalReply::unlisted_host(), 502, "", "-"),
            (LocalReply::no_route(), 404, "", "NR"),
            (LocalReply::no_cluster(), 503, "", "NC"),
            (
                LocalReply::no_healthy_upstream(),
                503,
                "no healthy upstream",
                "UH",
            ),
            (
                LocalReply::request_timeout(),
                504,
                "upstream request timeout",
                "UT",
            ),
            (LocalReply::bad_request(), 400, "", "-"),
            (LocalReply::malformed(), 400, "Bad Request", "DPE"),
            (
                LocalReply::head_too_large(),
                431,
                "Request Header Fields Too Large",
                "DPE",
            ),
            (
                LocalReply::overflow(),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow, \
                 transport failure reason: too many open connections of this workload",
                "UO",
            ),
            (LocalReply::not_implemented(), 501, "Not Implemented", "DPE"),
            (
                LocalReply::upgrade_required(),
                426,
                "Upgrade Required",
                "DPE",
            ),
            (LocalReply::upgrade_denied(), 403, "", "-"),
            (
                LocalReply::upstream_reset(&refused, false),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                 transport failure reason: delayed connect error: Connection refused",
                "UF",
            ),
            (
                LocalReply::upstream_reset(&refused, true),
                503,
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                 remote connection failure, transport failure reason: delayed connect error: Connection refused",
                "UF",
            ),
            (
                LocalReply::upstream_reset(&UpstreamReset::Overflow(None), false),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                "UO",
            ),
            (
                LocalReply::upstream_reset(&UpstreamReset::ConnectTimeout, false),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
                "UF",
            ),
            (
                LocalReply::upstream_reset(&UpstreamReset::Termination, false),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                "UC",
            ),
            (
                LocalReply::upstream_reset(&UpstreamReset::ProtocolError, false),
                502,
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                "UPE",
            ),
        ] {
            assert_eq!(
                (reply.status, &*reply.body, &*reply.flags.to_string()),
                (status, body, flags)
            );
        }
    }
}
