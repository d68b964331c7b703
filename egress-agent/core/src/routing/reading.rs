//! How a redirected flow is read, and what its first bytes mean.
//!
//! The proxy carries these decisions out and `explain` reports them, so both agree. This code has no socket and no
//! clock: bytes, their end and the time limit are arguments.

use super::{Cluster, DenialReason, HttpDecision, PortKind, RequestHead, RouteTable};
use super::{Sniffed, TcpDecision, Turn};
use egress_ebpf::ids::PolicyId;
use http::HeaderMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// How a flow is read, by what is listed on its port and for its destination.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Neither a name on this port nor the destination is listed: denied unread.
    Unlisted,
    /// No name is listed on this port, and the destination is listed for TCP: relayed unread.
    Unread(Arc<Cluster>),
    /// Only TLS names are listed: a `ClientHello` is expected.
    Hello,
    /// Only names are listed: the flow must be of the port's kind.
    Names(PortKind),
    /// Names, and this destination on a port without a protocol: HTTP is decided by its Host; other bytes without a
    /// listed name are relayed.
    Sniffed(Arc<Cluster>),
    /// No name is listed on this port, and the destination is listed with a field that is not
    /// carried out: denied unread, for this reason.
    Denied(Arc<str>),
    /// Names, and a destination that is [`Reading::Denied`]: a flow without a listed name is denied.
    NamesOrDenied(Arc<str>),
    /// Names, and this destination as TCP: a flow with a listed name is decided by the name; everything else is
    /// relayed, as without names. So names deny nothing that TCP alone would allow.
    ByName(Arc<Cluster>),
    /// Names, and nothing lists the destination for bytes without one, but the policy lets out what is not listed, to this
    /// cluster: HTTP is served, and each request without a listed name goes there.
    OrUnlisted(PortKind, Arc<Cluster>),
}

/// How long the first bytes may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as an HTTP connection may be idle.
    Idle,
    /// As long as a name may take.
    Name,
    /// Long enough for protocols in which the server speaks first.
    FirstBytes,
}

/// What is done with a flow.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Served as HTTP/1.1: the Host of each request decides.
    Http,
    /// Served as HTTP/1.1 if the Host of the first request is listed, otherwise relayed.
    HttpIfListed(Arc<Cluster>),
    /// Served as HTTP/1.1, which answers what it cannot parse with 400.
    NotHttp,
    /// Answered with 426: HTTP/1.0 on a port that is listed as HTTP.
    UpgradeRequired,
    /// Served as HTTP, including 1.0: the Host of each request decides.
    AnyHttp,
    /// Served as HTTP/2: the `:authority` of each stream decides.
    Http2,
    /// The `ClientHello` is read and its server name decides; without a listed one the flow is relayed to this cluster,
    /// or denied if there is none.
    Tls(Option<Arc<Cluster>>),
    /// Relayed, whatever is spoken.
    Relay(Arc<Cluster>),
    /// Denied.
    Deny(DenialReason),
    /// The client left before it said anything: it is closed, and that is not a denial.
    Close,
}

impl RouteTable {
    /// How a flow to this destination is read. `turn` selects among destinations by weight.
    pub fn reading(&self, policy: PolicyId, dialled: SocketAddr, turn: impl Into<Turn>) -> Reading {
        let names = self.port(policy, dialled.port());
        let kind = names
            .filter(|names| !names.hosts.is_empty() || !names.tls.is_empty())
            .map(|names| names.kind);
        let listed = self.listed_tcp(policy, dialled, turn.into());
        let is_listed = listed.is_some();
        match (
            kind,
            listed.unwrap_or_else(|| self.unlisted(policy, dialled)),
        ) {
            (Some(kind), TcpDecision::Relay(to)) if !is_listed => Reading::OrUnlisted(kind, to),
            (None, TcpDecision::Unlisted) => Reading::Unlisted,
            (None, TcpDecision::Relay(to) | TcpDecision::RelayNonHttp(to)) => Reading::Unread(to),
            (Some(PortKind::Tls), TcpDecision::Unlisted) => Reading::Hello,
            (Some(kind), TcpDecision::Unlisted) => Reading::Names(kind),
            (None, TcpDecision::NotCarriedOut(why)) => Reading::Denied(why),
            (Some(_), TcpDecision::NotCarriedOut(why)) => Reading::NamesOrDenied(why),
            (Some(_), TcpDecision::RelayNonHttp(to)) => Reading::Sniffed(to),
            (Some(_), TcpDecision::Relay(to)) => Reading::ByName(to),
        }
    }

    /// Whether a Host is listed on the port of a destination, whatever its routes say.
    pub fn lists_host(&self, policy: PolicyId, dialled: SocketAddr, authority: &str) -> bool {
        let head = RequestHead {
            authority,
            method: "GET",
            path: "/",
            headers: &HeaderMap::new(),
        };
        let names = self.port(policy, dialled.port());
        !matches!(
            names.map(|names| names.by_host(dialled, &head, 0)),
            None | Some(HttpDecision::UnlistedHost)
        )
    }
}

impl Reading {
    /// The step before any byte was read; `None`: the first bytes decide.
    pub fn unread(&self) -> Option<Step> {
        Some(match self {
            Self::Unlisted => Step::Deny(DenialReason::UnlistedPort),
            Self::Unread(to) => Step::Relay(Arc::clone(to)),
            Self::Hello => Step::Tls(None),
            Self::Denied(why) => Step::Deny(DenialReason::NotCarriedOut(Arc::clone(why))),
            Self::Names(_)
            | Self::NamesOrDenied(_)
            | Self::Sniffed(_)
            | Self::ByName(_)
            | Self::OrUnlisted(..) => return None,
        })
    }

    /// How long the first bytes may take.
    pub fn patience(&self) -> Patience {
        match self {
            Self::Names(PortKind::Http) | Self::OrUnlisted(PortKind::Http, _) => Patience::Idle,
            Self::ByName(_) => Patience::FirstBytes,
            Self::Unlisted
            | Self::Unread(_)
            | Self::Hello
            | Self::Denied(_)
            | Self::Names(_)
            | Self::NamesOrDenied(_)
            // As in Istio's sniffing, the client must speak first.
            | Self::Sniffed(_)
            | Self::OrUnlisted(..) => Patience::Name,
        }
    }

    /// What the first bytes mean.
    pub fn first_bytes(&self, found: Sniffed) -> Step {
        if let Some(step) = self.unread() {
            return step;
        }
        match (self, found) {
            (Self::ByName(to), Sniffed::Http11) => Step::HttpIfListed(Arc::clone(to)),
            (
                Self::Sniffed(to) | Self::ByName(to) | Self::OrUnlisted(_, to),
                Sniffed::Tls,
            ) => Step::Tls(Some(Arc::clone(to))),
            (_, Sniffed::Http11) => Step::Http,
            (
                Self::Names(PortKind::Http) | Self::OrUnlisted(PortKind::Http, _),
                Sniffed::Http10,
            ) => Step::UpgradeRequired,
            (Self::Names(PortKind::Http), Sniffed::Unknown | Sniffed::NeedMore)
            // A server could find a name in it that the proxy does not see.
            | (Self::Names(_) | Self::Sniffed(_) | Self::OrUnlisted(..), Sniffed::LikeHttp)
            | (Self::Sniffed(_), Sniffed::NeedMore) => Step::NotHttp,
            (Self::Sniffed(_) | Self::OrUnlisted(..), Sniffed::Http10) => Step::AnyHttp,
            (
                Self::Names(PortKind::Sniff | PortKind::Tls) | Self::NamesOrDenied(_),
                Sniffed::Tls,
            ) => Step::Tls(None),
            (Self::Names(_), Sniffed::Tls) => Step::Deny(DenialReason::WrongProtocol),
            (
                Self::Names(_)
                | Self::Sniffed(_)
                | Self::NamesOrDenied(_)
                | Self::OrUnlisted(..),
                Sniffed::Http2,
            ) => Step::Http2,
            // For Istio, HTTP/1.0 on a sniffed port is TCP, and no TCP is listed.
            (Self::Names(_), Sniffed::Http10) => Step::Deny(DenialReason::Http10),
            (Self::Sniffed(to) | Self::ByName(to) | Self::OrUnlisted(_, to), _) => {
                Step::Relay(Arc::clone(to))
            }
            (Self::NamesOrDenied(why), _) => {
                Step::Deny(DenialReason::NotCarriedOut(Arc::clone(why)))
            }
            _ => Step::Deny(DenialReason::UnknownProtocol),
        }
    }

    /// The step when the time for the first bytes is over and the protocol is unknown.
    pub fn late(&self) -> Step {
        match self {
            Self::ByName(to) | Self::OrUnlisted(_, to) => Step::Relay(Arc::clone(to)),
            // The bytes so far may be half a request.
            _ => Step::Deny(DenialReason::NameTimeout),
        }
    }

    /// The step when the client ended its side before the protocol was known. `spoke`: some bytes came.
    pub fn ended(&self, spoke: bool) -> Step {
        match self {
            // Clients may open connections in advance and never use them. That is not a denial.
            _ if !spoke => Step::Close,
            Self::ByName(to) | Self::OrUnlisted(_, to) => Step::Relay(Arc::clone(to)),
            _ => Step::Deny(DenialReason::EndedEarly),
        }
    }
}

/// The value of the only Host line in the bytes of a request head; `None` where there is no such
/// line, or more than one.
pub fn only_host(head: &[u8]) -> Option<&str> {
    let text = str::from_utf8(head).ok()?;
    let lines = text
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'));
    let mut hosts = lines.filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (_, value) = hosts.next()?;
    hosts.next().is_none().then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_mean_what_the_port_is_listed_for() {
        use DenialReason::{Http10, UnknownProtocol, UnlistedPort, WrongProtocol};
        let to = || Arc::new(Cluster::default());
        let http = || Reading::Names(PortKind::Http);
        let both = || Reading::Names(PortKind::Sniff);
        let unlisted = |kind| Reading::OrUnlisted(kind, to());
        let deny = Step::Deny;
        for (reading, found, step) in [
            (http(), Sniffed::Http11, Step::Http),
            (http(), Sniffed::Http10, Step::UpgradeRequired),
            (http(), Sniffed::Tls, deny(WrongProtocol)),
            (http(), Sniffed::Http2, Step::Http2),
            (http(), Sniffed::Unknown, Step::NotHttp),
            (both(), Sniffed::Http11, Step::Http),
            (both(), Sniffed::Http10, deny(Http10)),
            (both(), Sniffed::Tls, Step::Tls(None)),
            (both(), Sniffed::Unknown, deny(UnknownProtocol)),
            (Reading::Sniffed(to()), Sniffed::Http11, Step::Http),
            (Reading::Sniffed(to()), Sniffed::Http10, Step::AnyHttp),
            (Reading::Sniffed(to()), Sniffed::LikeHttp, Step::NotHttp),
            (Reading::Sniffed(to()), Sniffed::NeedMore, Step::NotHttp),
            (both(), Sniffed::LikeHttp, Step::NotHttp),
            (http(), Sniffed::LikeHttp, Step::NotHttp),
            (Reading::ByName(to()), Sniffed::LikeHttp, Step::Relay(to())),
            (both(), Sniffed::Http2, Step::Http2),
            (Reading::Sniffed(to()), Sniffed::Http2, Step::Http2),
            (
                Reading::NamesOrDenied("why".into()),
                Sniffed::Http2,
                Step::Http2,
            ),
            (Reading::Sniffed(to()), Sniffed::Tls, Step::Tls(Some(to()))),
            (Reading::Sniffed(to()), Sniffed::Unknown, Step::Relay(to())),
            (
                Reading::ByName(to()),
                Sniffed::Http11,
                Step::HttpIfListed(to()),
            ),
            (Reading::ByName(to()), Sniffed::Http2, Step::Relay(to())),
            (unlisted(PortKind::Http), Sniffed::Http11, Step::Http),
            (unlisted(PortKind::Http), Sniffed::Http2, Step::Http2),
            (
                unlisted(PortKind::Http),
                Sniffed::Http10,
                Step::UpgradeRequired,
            ),
            (
                unlisted(PortKind::Http),
                Sniffed::Unknown,
                Step::Relay(to()),
            ),
            (unlisted(PortKind::Sniff), Sniffed::Http2, Step::Http2),
            (unlisted(PortKind::Sniff), Sniffed::Http10, Step::AnyHttp),
            (unlisted(PortKind::Sniff), Sniffed::LikeHttp, Step::NotHttp),
            (unlisted(PortKind::Tls), Sniffed::Tls, Step::Tls(Some(to()))),
            (unlisted(PortKind::Tls), Sniffed::Unknown, Step::Relay(to())),
            (Reading::ByName(to()), Sniffed::Tls, Step::Tls(Some(to()))),
            (Reading::Unlisted, Sniffed::Http11, deny(UnlistedPort)),
            (Reading::Unread(to()), Sniffed::Tls, Step::Relay(to())),
            (Reading::Hello, Sniffed::Http11, Step::Tls(None)),
        ] {
            assert_eq!(reading.first_bytes(found), step, "{reading:?} {found:?}");
        }
    }

    #[test]
    fn silence_is_denied_where_a_name_is_needed_and_relayed_where_tcp_is_listed() {
        let to = || Arc::new(Cluster::default());
        let late = || Step::Deny(DenialReason::NameTimeout);
        for (reading, spoke, after_a_time, at_the_end) in [
            (Reading::Names(PortKind::Http), false, late(), Step::Close),
            (
                Reading::Names(PortKind::Http),
                true,
                late(),
                Step::Deny(DenialReason::EndedEarly),
            ),
            (Reading::Sniffed(to()), false, late(), Step::Close),
            (
                Reading::Sniffed(to()),
                true,
                late(),
                Step::Deny(DenialReason::EndedEarly),
            ),
            (Reading::ByName(to()), false, Step::Relay(to()), Step::Close),
        ] {
            assert_eq!(reading.late(), after_a_time, "{reading:?} {spoke}");
            assert_eq!(reading.ended(spoke), at_the_end, "{reading:?} {spoke}");
        }
    }
}
