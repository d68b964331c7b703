//! The answer for an address and port, or a URL with an address in it.
//!
//! It puts the result of `asked` into words.

use super::asked::{Asked, Judged};
use super::gate::{Fate, Spoken};
use super::words::{self, rule_of};
use super::{Explanation, Flow};
use crate::policy::tables::Transport;
use crate::routing::{DenialReason, RequestHead};
use egress_ebpf::verdict::{Reason, Verdict};
use http::HeaderMap;
use std::net::SocketAddr;

impl Asked<'_> {
    /// The answer for an address.
    pub(super) fn address(&self, to: SocketAddr) -> Explanation {
        let flow = |via| self.judge(to, via, None, None);
        let tcp = flow(Transport::Tcp);
        let udp = self.question.scheme.is_none().then(|| flow(Transport::Udp));
        let flows: Vec<_> = std::iter::once(&tcp)
            .chain(&udp)
            .map(Judged::flow)
            .collect();
        if matches!(tcp.fate, Fate::Query) {
            let how = words::passes(&tcp.fate, &to.to_string(), &tcp.spoken, None);
            return Explanation {
                denied: None,
                reason: None,
                lines: vec![format!("allowed: {how}")],
                flows,
            };
        }
        let by_name = self.question.scheme.is_none() && !tcp.fate.passes();
        let by_name = by_name.then(|| self.name_that_passes(to)).flatten();
        let mut lines = Vec::new();
        let passes = tcp.fate.passes() || by_name.is_some();
        if tcp.fate.passes() {
            let how = words::passes(&tcp.fate, &to.to_string(), &tcp.spoken, None);
            let unread = matches!(tcp.fate, Fate::Straight | Fate::Relayed(_));
            let by = if unread { "TCP " } else { "" };
            lines.push(format!("allowed: {by}{how}"));
        } else if let Some(what) = by_name {
            lines.push(format!(
                "allowed: {to}, as far as an address decides: {what} passes"
            ));
        }
        if udp.is_some_and(|udp| udp.fate.passes()) {
            let word = if passes { "" } else { "allowed: " };
            lines.push(format!("{word}UDP straight to {to}"));
        }
        if lines.is_empty() {
            return self.denied_address(to, &tcp, flows);
        }
        lines.extend(self.listed_by(to));
        Explanation {
            denied: None,
            reason: None,
            lines,
            flows,
        }
    }

    /// The rules that list an address, by transport.
    fn listed_by(&self, to: SocketAddr) -> Vec<String> {
        let mut lines = Vec::new();
        for (via, word) in [(Transport::Tcp, "TCP"), (Transport::Udp, "UDP")] {
            let by = self.policy().covering(to.ip(), to.port(), via);
            let by: Vec<_> = by
                .into_iter()
                .map(|s| rule_of(s, Some(to.port())))
                .collect();
            if !by.is_empty() {
                lines.push(format!("{word} is listed by {}", by.join(" and ")));
            }
        }
        if lines.is_empty() {
            lines.push(self.why_unlisted_passes(to, Transport::Tcp, None));
        }
        lines
    }

    fn denied_address(&self, to: SocketAddr, tcp: &Judged<'_>, flows: Vec<Flow>) -> Explanation {
        let (denied, reason) = (tcp.fate.denied_by(), tcp.fate.reason());
        let port = to.port();
        if self.gate.kernel(to, Transport::Tcp) == Verdict::Proxy {
            let what = words::request(&tcp.spoken);
            let mut lines = vec![format!("denied: {what} to {to}"), words::denial(&tcp.fate)];
            lines.extend(self.listed_by(to));
            return Explanation {
                denied,
                reason,
                lines,
                flows,
            };
        }
        let why = format!(
            "denied: no rule lists {} (fields spec.addresses, spec.endpoints)",
            to.ip()
        );
        let mut lines = vec![why, words::denial(&tcp.fate)];
        let names = self.state.names();
        let verdict = match tcp.fate {
            Fate::DeniedByKernel(reason) => reason,
            _ => Reason::NotListed,
        };
        let nearest = names.nearest(self.gate.id, to.ip(), port, Transport::Tcp, verdict);
        lines.extend(nearest.or_else(|| self.by_dns(port)));
        Explanation {
            denied,
            reason,
            lines,
            flows,
        }
    }

    /// Services of a port whose addresses come from DNS.
    fn by_dns(&self, port: u16) -> Option<String> {
        let all = self.policy().by_name(port).take(3);
        let all: Vec<_> = all.map(|s| s.host.to_string()).collect();
        let names = all.join(", ");
        (!all.is_empty())
            .then(|| format!("port {port} is listed for {names}, if DNS gives this address"))
    }

    /// A request or server name that passes at an address; `None` if all are denied.
    fn name_that_passes(&self, to: SocketAddr) -> Option<String> {
        if self.gate.kernel(to, Transport::Tcp) != Verdict::Proxy {
            return None;
        }
        let names = self.gate.routes.port(self.gate.id, to.port())?;
        let headers = HeaderMap::new();
        let mut hosts = names.hosts.iter();
        let host = hosts.find(|(_, host)| {
            let head = RequestHead {
                authority: &example_of(&host.host),
                method: "GET",
                path: "/",
                headers: &headers,
            };
            let fate = self.gate.fate(to, Transport::Tcp, Spoken::Http(head));
            // Another path may have a route.
            fate.passes() || matches!(fate, Fate::DeniedByProxy(DenialReason::NoRoute, _))
        });
        if let Some((name, _)) = host {
            return Some(format!("HTTP to the Host {name}"));
        }
        let mut sni = names.tls.iter().map(|(name, _)| name);
        let sni = sni.find(|name| {
            let name = example_of(name);
            self.gate
                .fate(to, Transport::Tcp, Spoken::Tls(Some(&name)))
                .passes()
        })?;
        Some(format!("TLS with the server name {sni}"))
    }
}

/// A name that a listed host or wildcard covers.
fn example_of(host: &str) -> String {
    host.replacen('*', "any", 1)
}
