//! A question as flows: the protocol that a client speaks to each address, and the gate's verdict.
//!
//! It writes no text.

use super::addresses::Addresses;
use super::gate::{Fate, Gate, Spoken};
use super::question::{Question, Scheme};
use super::{Flow, Speaks};
use crate::policy::state::{PolicyState, State};
use crate::policy::tables::Transport;
use crate::registry::services::{Class, Service};
use crate::routing::{PortKind, Reading, RequestHead};
use std::net::SocketAddr;

/// The most addresses of one host that are judged and named.
const ADDRESSES: usize = 64;

/// A question put to one policy.
pub(super) struct Asked<'a> {
    pub(super) state: &'a State,
    pub(super) question: &'a Question,
    pub(super) gate: Gate<'a>,
}

/// The verdict on one flow.
pub(super) struct Judged<'a> {
    pub(super) to: SocketAddr,
    pub(super) via: Transport,
    pub(super) spoken: Spoken<'a>,
    pub(super) fate: Fate,
}

impl Judged<'_> {
    /// The flow as data, so that a caller can make it.
    pub(super) fn flow(&self) -> Flow {
        Flow {
            to: self.to,
            transport: self.via,
            speaks: match self.spoken {
                Spoken::Http(_) => Speaks::Http,
                Spoken::Http2(_) => Speaks::Http2,
                Spoken::Tls(_) => Speaks::Tls,
                Spoken::Bytes => Speaks::Bytes,
            },
        }
    }
}

impl<'a> Asked<'a> {
    pub(super) fn policy(&self) -> &'a PolicyState {
        self.gate.policy
    }

    /// The flow to each address of a host.
    pub(super) fn judge_name(
        &self,
        host: &'a str,
        port: u16,
        service: Option<&Service>,
    ) -> (Vec<Judged<'a>>, Addresses) {
        let of = |via| {
            let leases = &self.state.leases;
            Addresses::of(host, port, via, service, self.policy(), leases)
        };
        let by = |via| {
            let addresses = of(via);
            let each = addresses.all().iter().take(ADDRESSES);
            let judged = each
                .map(|ip| self.judge(SocketAddr::new(*ip, port), via, Some(host), service))
                .collect();
            (judged, addresses)
        };
        let class = service.and_then(|s| s.class(port));
        if self.question.scheme.is_none() && class == Some(Class::Udp) {
            return by(Transport::Udp);
        }
        let tcp: (Vec<Judged<'a>>, _) = by(Transport::Tcp);
        // A port that is open to any address is also open for names that no rule lists.
        if self.question.scheme.is_none()
            && class.is_none()
            && tcp.0.iter().any(|j| !j.fate.passes())
        {
            let udp = by(Transport::Udp);
            if udp.0.iter().all(|j| j.fate.passes()) {
                return udp;
            }
        }
        tcp
    }

    /// Judges the flow of a client to an address: with the question's scheme, else with the protocol for which the
    /// destination is listed.
    pub(super) fn judge(
        &self,
        to: SocketAddr,
        via: Transport,
        host: Option<&'a str>,
        service: Option<&Service>,
    ) -> Judged<'a> {
        let question = self.question;
        let http = Spoken::Http(RequestHead {
            authority: &question.authority,
            method: question.method.as_str(),
            path: &question.path,
            headers: &question.headers,
        });
        let tls = Spoken::Tls(host);
        let ways = match question.scheme {
            _ if via == Transport::Udp => vec![Spoken::Bytes],
            Some(Scheme::Http) => vec![http],
            Some(Scheme::Https) => vec![tls],
            None => self.natural(to, service, http, tls),
        };
        let each = ways.iter().map(|spoken| Judged {
            to,
            via,
            spoken: *spoken,
            fate: self.gate.fate(to, via, *spoken),
        });
        let mut each: Vec<_> = each.collect();
        let at = each.iter().position(|j| j.fate.passes()).unwrap_or(0);
        each.swap_remove(at)
    }

    /// The protocol of a client on a port that is given without a scheme.
    fn natural(
        &self,
        to: SocketAddr,
        service: Option<&Service>,
        http: Spoken<'a>,
        tls: Spoken<'a>,
    ) -> Vec<Spoken<'a>> {
        let port = to.port();
        match service.and_then(|s| Some((s, s.class(port)?))) {
            Some((s, Class::Http)) if s.is_http2(port) => vec![http.over_http2()],
            Some((_, Class::Http | Class::Sniffed)) => vec![http],
            Some((_, Class::Tls)) => vec![tls],
            Some((_, Class::Tcp | Class::Udp)) => vec![Spoken::Bytes],
            None => match self.gate.routes.reading(self.gate.id, to, 0) {
                Reading::Hello | Reading::OrUnlisted(PortKind::Tls, _) => vec![tls],
                Reading::Names(PortKind::Http) | Reading::OrUnlisted(PortKind::Http, _) => {
                    vec![http]
                }
                Reading::Names(PortKind::Sniff | PortKind::Tls)
                | Reading::OrUnlisted(PortKind::Sniff, _)
                | Reading::NamesOrDenied(_) => vec![http, tls],
                Reading::Unlisted
                | Reading::Denied(_)
                | Reading::Unread(_)
                | Reading::Sniffed(_)
                | Reading::ByName(_) => vec![Spoken::Bytes],
            },
        }
    }
}
