//! What the gate does with one flow: the kernel's `decide()` over the policy's table, then the
//! proxy's reading of the flow and its routes.
//!
//! It calls the same decision functions for a flow that does not exist, and has no rules of its own. It writes no text.

use super::DeniedBy;
use crate::http::MAX_HEAD;
use crate::http::head_reader::{HeadOutcome, HeadReader};
use crate::http::headers::receive_request;
use crate::http::hop_by_hop::{UpgradeAsked, upgrade_asked};
use crate::policy::state::PolicyState;
use crate::policy::tables::Transport;
use crate::routing::{
    Act, Cluster, DenialReason, RequestHead, RouteTable, Sniffed, Step, Target, TlsDecision,
    candidates, only_host, sniff,
};
use crate::tls::client_hello::HelloError;
use egress_ebpf::abi::{Policy, policy_flag};
use egress_ebpf::decide::{Destination, Listeners, decide};
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::{Reason, Verdict};
use http::header::{HOST, HeaderValue};
use std::net::SocketAddr;
use std::sync::Arc;

/// Stands for the random id of a request without one.
const SOME_ID: &str = "00000000-0000-4000-8000-000000000000";

/// What a client says first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spoken<'a> {
    /// An HTTP/1.1 request.
    Http(RequestHead<'a>),
    /// HTTP/2 with prior knowledge (RFC 9113 §3.4), and a request on its first stream.
    Http2(RequestHead<'a>),
    /// A `ClientHello` with this server name in canonical form.
    Tls(Option<&'a str>),
    /// Bytes that are neither.
    Bytes,
}

impl Spoken<'_> {
    /// The same request over HTTP/2.
    pub(super) fn over_http2(self) -> Self {
        match self {
            Self::Http(head) => Self::Http2(head),
            other => other,
        }
    }
}

/// The verdict on a flow.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// The kernel lets it through to what was dialled.
    Straight,
    /// The agent's DNS server judges each query.
    Query,
    /// The kernel denies it.
    DeniedByKernel(Reason),
    /// The proxy relays its bytes.
    Relayed(Arc<Cluster>),
    /// The proxy forwards its TLS by the server name.
    Tls(Arc<Cluster>),
    /// The proxy carries out what the request's route does.
    Request(Act),
    /// The proxy denies it: it answers with this status, or closes the connection.
    DeniedByProxy(DenialReason, Option<u16>),
    /// It would go to a destination that has no address: 503 for a request, closed otherwise.
    NoEndpoint(Arc<Cluster>, Option<u16>),
}

impl Fate {
    /// Whether the flow reaches a destination.
    pub(super) fn passes(&self) -> bool {
        self.denied_by().is_none()
    }

    /// The code of the reason for which the flow is denied, as the log has it.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Straight | Self::Query | Self::Relayed(_) | Self::Tls(_) | Self::Request(..) => {
                None
            }
            Self::DeniedByKernel(reason) => Some(reason.word()),
            Self::DeniedByProxy(reason, _) => Some(reason.code()),
            Self::NoEndpoint(cluster, _) => {
                Some(DenialReason::NoEndpoint(cluster.id.host.to_string()).code())
            }
        }
    }

    /// Who denies the flow.
    pub(super) fn denied_by(&self) -> Option<DeniedBy> {
        match self {
            Self::Straight | Self::Query | Self::Relayed(_) | Self::Tls(_) | Self::Request(..) => {
                None
            }
            Self::DeniedByKernel(_) => Some(DeniedBy::Kernel),
            Self::DeniedByProxy(_, status) | Self::NoEndpoint(_, status) => {
                Some(status.map_or(DeniedBy::Closed, DeniedBy::Status))
            }
        }
    }
}

/// One policy of the gate.
pub(super) struct Gate<'a> {
    pub(super) id: PolicyId,
    pub(super) policy: &'a PolicyState,
    pub(super) routes: &'a RouteTable,
    /// Where the proxy listens in the flow's network namespace.
    pub(super) proxy_port: u16,
    /// Queries go to the agent's DNS server.
    pub(super) dns: bool,
}

/// The agent's listeners in the flow's network namespace. Those for datagrams have no fixed ports.
struct Serving(u16);

impl Listeners for Serving {
    fn proxy(&self) -> Option<u16> {
        Some(self.0)
    }

    fn has_dns(&self, _: u8) -> bool {
        true
    }

    fn is_dns(&self, _: u16) -> bool {
        false
    }
}

impl Gate<'_> {
    /// The kernel's verdict on a destination.
    pub(super) fn kernel(&self, to: SocketAddr, via: Transport) -> Verdict {
        let any = if self.policy.allow_any {
            policy_flag::ALLOW_ANY
        } else {
            0
        };
        let dns = if self.dns { policy_flag::DNS } else { 0 };
        let policy = Policy {
            flags: policy_flag::HAS_PREFIXES | any | dns,
            ..Policy::default()
        };
        let to = Destination {
            addr: to.ip().into(),
            port: to.port(),
            proto: via.number(),
        };
        decide(self.policy.ledger(), &policy, &to, Serving(self.proxy_port))
    }

    /// The verdict on a flow.
    pub(super) fn fate(&self, to: SocketAddr, via: Transport, spoken: Spoken<'_>) -> Fate {
        match self.kernel(to, via) {
            Verdict::Allow => Fate::Straight,
            Verdict::Deny(reason) => Fate::DeniedByKernel(reason),
            Verdict::Dns => Fate::Query,
            Verdict::Proxy => self.proxied(to, spoken),
        }
    }

    fn proxied(&self, to: SocketAddr, spoken: Spoken<'_>) -> Fate {
        let step = self
            .routes
            .reading(self.id, to, 0)
            .first_bytes(first_bytes(spoken));
        let denied = Fate::DeniedByProxy;
        match (step, spoken) {
            (Step::HttpIfListed(cluster), Spoken::Http(head))
                if !only_host(&wire(&head))
                    .is_some_and(|host| self.routes.lists_host(self.id, to, host)) =>
            {
                relayed(cluster, to)
            }
            (Step::Http | Step::AnyHttp | Step::HttpIfListed(_), Spoken::Http(head)) => {
                self.request(to, &head)
            }
            (Step::Http2, Spoken::Http2(head)) => self.request(to, &head),
            (Step::Http2, _) => denied(DenialReason::UnknownProtocol, None),
            (Step::NotHttp | Step::Http | Step::AnyHttp | Step::HttpIfListed(_), _) => {
                denied(DenialReason::UnknownProtocol, Some(400))
            }
            (Step::UpgradeRequired, _) => denied(DenialReason::Http10, Some(426)),
            (Step::Tls(_), Spoken::Tls(Some(name))) => self.tls(to, Some(name)),
            (Step::Tls(Some(cluster)) | Step::Relay(cluster), _) => relayed(cluster, to),
            (Step::Tls(None), Spoken::Tls(None)) => self.tls(to, None),
            (Step::Tls(None), _) => denied(DenialReason::BadHello(HelloError::NotTls), None),
            (Step::Deny(reason), _) => denied(reason, None),
            (Step::Close, _) => denied(DenialReason::EndedEarly, None),
        }
    }

    /// What the request's routes say.
    fn request(&self, to: SocketAddr, asked: &RequestHead<'_>) -> Fate {
        let (authority, path) = match off_the_wire(asked) {
            Ok(read) => read,
            Err(denied) => return denied,
        };
        let mut headers = asked.headers.clone();
        receive_request(&mut headers, || Some(HeaderValue::from_static(SOME_ID)));
        let head = RequestHead {
            authority: &authority,
            path: &path,
            headers: &headers,
            ..*asked
        };
        match self.decide(to, &head) {
            Fate::Request(..) if upgrade_asked(head.headers) == UpgradeAsked::Other => {
                Fate::DeniedByProxy(DenialReason::UpgradeDenied, Some(403))
            }
            fate => fate,
        }
    }

    /// The host whose routes decide about a request.
    pub(super) fn deciding_host(&self, to: SocketAddr, asked: &RequestHead<'_>) -> Option<String> {
        let (authority, path) = off_the_wire(asked).ok()?;
        let head = RequestHead {
            authority: &authority,
            path: &path,
            ..*asked
        };
        self.routes.deciding_host(self.id, to, &head)
    }

    fn decide(&self, to: SocketAddr, head: &RequestHead<'_>) -> Fate {
        let decision = self.routes.http(self.id, to, head, 0);
        match decision.or_denial(head.authority) {
            Err(denial) => Fate::DeniedByProxy(denial.reason, Some(denial.reply.status)),
            Ok(act) => match act.action.destinations() {
                Some(Target { cluster, .. }) if is_empty(cluster, to) => {
                    Fate::NoEndpoint(Arc::clone(cluster), Some(503))
                }
                _ => Fate::Request(act),
            },
        }
    }

    fn tls(&self, to: SocketAddr, name: Option<&str>) -> Fate {
        match self.routes.tls(self.id, to, name, 0) {
            TlsDecision::Forward(cluster) if is_empty(&cluster, to) => {
                Fate::NoEndpoint(cluster, None)
            }
            TlsDecision::Forward(cluster) => Fate::Tls(cluster),
            TlsDecision::UnlistedName => {
                let reason = match name {
                    Some(_) => DenialReason::UnlistedName,
                    None => self.routes.no_server_name(self.id, to),
                };
                Fate::DeniedByProxy(reason, None)
            }
            TlsDecision::NotCarriedOut(why) => {
                Fate::DeniedByProxy(DenialReason::NotCarriedOut(why), None)
            }
            TlsDecision::NoCluster(cluster) => {
                Fate::DeniedByProxy(DenialReason::NoCluster(cluster.id.host.to_string()), None)
            }
        }
    }
}

/// Whether a cluster has no address for a flow. One of `DYNAMIC_DNS` gets its addresses when it is dialled.
fn is_empty(cluster: &Cluster, to: SocketAddr) -> bool {
    cluster.dynamic.is_none() && candidates(cluster, to, || 0).is_empty()
}

fn relayed(cluster: Arc<Cluster>, to: SocketAddr) -> Fate {
    if is_empty(&cluster, to) {
        Fate::NoEndpoint(cluster, None)
    } else {
        Fate::Relayed(cluster)
    }
}

/// The authority and the path of a request as the proxy reads it, or why the proxy denies it unread.
fn off_the_wire(asked: &RequestHead<'_>) -> Result<(String, String), Fate> {
    let mut reader = HeadReader::new(MAX_HEAD);
    reader.push(&wire(asked));
    let read = match reader.next_head() {
        HeadOutcome::Head(read) => read,
        HeadOutcome::Rejected(error) => {
            let (reason, status) = (error.reason(), error.reply().status);
            return Err(Fate::DeniedByProxy(reason, Some(status)));
        }
        HeadOutcome::NeedMore => {
            return Err(Fate::DeniedByProxy(DenialReason::EndedEarly, None));
        }
    };
    let line = String::from_utf8_lossy(&read.bytes);
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    Ok((read.authority.clone(), path))
}

/// A request as a client sends it.
fn wire(head: &RequestHead<'_>) -> Vec<u8> {
    let RequestHead {
        authority,
        method,
        path,
        ..
    } = head;
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    if !head.headers.contains_key(HOST) {
        bytes.extend_from_slice(format!("host: {authority}\r\n").as_bytes());
    }
    for (name, value) in head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// What the proxy reads first of such a flow.
fn first_bytes(spoken: Spoken<'_>) -> Sniffed {
    match spoken {
        Spoken::Http(head) => sniff(&wire(&head)),
        Spoken::Http2(_) => sniff(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // A handshake record of TLS 1.0 to 1.2 (RFC 8446 §5.1).
        Spoken::Tls(_) => sniff(&[0x16, 0x03, 0x01]),
        Spoken::Bytes => sniff(&[0]),
    }
}
