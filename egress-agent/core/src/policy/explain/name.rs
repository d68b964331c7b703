//! The answer for a host and port, or a URL with a name in it.
//!
//! It puts the result of `asked` into words.

use super::addresses::Addresses;
use super::asked::{Asked, Judged};
use super::gate::{Fate, Spoken};
use super::nearest::nearest_host;
use super::words::{self, rule_of};
use super::{DeniedBy, Explanation};
use crate::istio::hosts;
use crate::policy::naming::{lists_unspelt, ports, unspelt};
use crate::policy::tables::Transport;
use crate::registry::services::{Class, Service};
use crate::registry::view::View;
use crate::routing::DenialReason;
use egress_ebpf::addr::Addr;
use egress_ebpf::verdict::Reason;
use std::net::SocketAddr;
use std::sync::Arc;

impl<'a> Asked<'a> {
    /// The answer for a name.
    pub(super) fn name(&self, host: &'a str, port: u16) -> Explanation {
        let view = &self.policy().view;
        let service = service_of(view, host, port);
        let class = service.and_then(|s| s.class(port));
        let (judged, addresses) = self.judge_name(host, port, service.map(AsRef::as_ref));
        // A denied flow says more than one that passes.
        let worst = judged.iter().find(|j| !j.fate.passes());
        let Some(shown) = worst.or(judged.first()) else {
            return Explanation {
                denied: Some(DeniedBy::Kernel),
                reason: Some(Reason::NotListed.word()),
                lines: Vec::new(),
                flows: Vec::new(),
            };
        };
        let rule = service.filter(|_| class.is_some());
        let by = self.decided_by(shown, rule);
        let mut lines = if shown.fate.passes() {
            self.allowed_lines(shown, service, class, by.as_deref())
        } else {
            self.denied_lines(host, port, shown, service, by.as_deref(), &addresses)
        };
        lines.extend(rule.map(|s| format!("listed by {}", rule_of(s, Some(port)))));
        if shown.fate.passes() {
            let leases = &self.state.settings().leases;
            let private = leases.allow_private_answers || !leases.private_answers.is_empty();
            lines.extend(rule.map(|s| words::reached(s, &addresses, private)));
        }
        let denied: Vec<_> = judged.iter().filter(|j| !j.fate.passes()).collect();
        if !denied.is_empty() && denied.len() < judged.len() {
            let all = denied.iter().map(|j| j.to.ip().to_string());
            let all = all.collect::<Vec<_>>().join(", ");
            lines.push(format!(
                "so at {all} only; it is allowed at its other addresses"
            ));
        }
        Explanation {
            denied: shown.fate.denied_by(),
            reason: shown.fate.reason(),
            lines,
            flows: judged.iter().map(Judged::flow).collect(),
        }
    }

    /// The `VirtualService` whose routes decide about a flow. A request may name another host than the dialled one.
    fn decided_by(&self, shown: &Judged<'_>, listed: Option<&Arc<Service>>) -> Option<String> {
        let (registry, view) = (&self.state.registry, &self.policy().view);
        let port = shown.to.port();
        match (shown.spoken, &shown.fate) {
            (Spoken::Http(head) | Spoken::Http2(head), _) => {
                let host = self.gate.deciding_host(shown.to, &head)?;
                let service = view.services.get(&*host)?;
                words::http_rule(registry, view, (service, port))
            }
            (Spoken::Tls(_), Fate::DeniedByProxy(DenialReason::UnlistedName, _)) => {
                words::tls_rule(registry, view, (listed?, port), None)
            }
            (Spoken::Tls(name), _) => words::tls_rule(registry, view, (listed?, port), name),
            (Spoken::Bytes, _) => None,
        }
    }

    fn allowed_lines(
        &self,
        shown: &Judged<'_>,
        service: Option<&Arc<Service>>,
        class: Option<Class>,
        by: Option<&str>,
    ) -> Vec<String> {
        let how = words::passes(&shown.fate, "its addresses", &shown.spoken, by);
        let udp = if shown.via == Transport::Udp {
            "UDP "
        } else {
            ""
        };
        let mut lines = vec![format!("allowed: {udp}{how}")];
        if class.is_none() && !matches!(shown.fate, Fate::Query) {
            lines.push(self.why_unlisted_passes(shown.to, shown.via, service));
        }
        lines
    }

    /// Why a flow passes although no rule lists its name and port.
    pub(super) fn why_unlisted_passes(
        &self,
        to: SocketAddr,
        via: Transport,
        service: Option<&Arc<Service>>,
    ) -> String {
        let all = self.policy().covering(to.ip(), to.port(), via);
        let mut learned = all
            .iter()
            .filter_map(|s| Some((s, lists_unspelt(s, to.port(), via)?)));
        if let Some((of, entry)) = learned.next() {
            return format!(
                "{} lists port {} without a resolution: it is open at the addresses that the agent's DNS server gave \
                 for names of {}, as long as it leases them",
                words::placed(&entry.object),
                to.port(),
                of.host
            );
        }
        let open = all
            .iter()
            .filter(|s| service.is_none_or(|own| !Arc::ptr_eq(own, s)));
        let rules: Vec<_> = open.map(|s| rule_of(s, Some(to.port()))).collect();
        let port = to.port();
        if !rules.is_empty() {
            return format!(
                "no rule lists the name: {} opens port {port} to any address",
                rules.join(" and ")
            );
        }
        if let Some(to) = &self.policy().view.unlisted {
            let to = &to.id;
            return format!(
                "no rule lists it, and egressProxy of the Sidecar's outboundTrafficPolicy is {}:{}",
                to.host, to.port
            );
        }
        if self.policy().allow_any {
            return "no rule lists it, and outboundTrafficPolicy is ALLOW_ANY".to_owned();
        }
        self.passes_by_settings(to)
    }

    /// Why an address passes that no rule lists, and that the policy does not pass as any other.
    fn passes_by_settings(&self, to: SocketAddr) -> String {
        let settings = self.state.settings();
        if settings.dns_servers.contains(&to) {
            return "it is a name server of the agent (`dns.servers`, or those of the node)"
                .to_owned();
        }
        if Addr::from(to.ip()).is_loopback() {
            return "it is loopback, which no rule needs to list: the flow stays in its network namespace"
                .to_owned();
        }
        let mut internal = settings.internal.iter();
        match internal.find(|net| net.contains(&to.ip())) {
            Some(net) => format!(
                "it is in {net}, one of the agent's `internal` ranges or those of the cluster"
            ),
            None => {
                "it is a name server, or in the agent's `internal` ranges or those of the cluster"
                    .to_owned()
            }
        }
    }

    fn denied_lines(
        &self,
        host: &str,
        port: u16,
        shown: &Judged<'_>,
        service: Option<&Arc<Service>>,
        by: Option<&str>,
        addresses: &Addresses,
    ) -> Vec<String> {
        let view = &self.policy().view;
        let (why, hint) = match (service, service.and_then(|s| s.class(port))) {
            (None, _) => (
                format!("no ServiceEntry lists {host} (field spec.hosts)"),
                self.state
                    .names()
                    .first_unspelt(self.gate.id, port, Transport::Tcp)
                    .map(|s| unspelt(s, port))
                    .or_else(|| nearest_host(view, host, port)),
            ),
            (Some(service), None) => match lists_unspelt(service, port, Transport::Tcp) {
                Some(entry) => (
                    unspelt(service, port),
                    Some(format!("listed by {}", words::placed(&entry.object))),
                ),
                None => (
                    format!(
                        "{} lists {host}, but not port {port} (field spec.ports)",
                        rule_of(service, None)
                    ),
                    Some(
                        not_in_force(service, port)
                            .unwrap_or_else(|| format!("it lists {}", ports(service))),
                    ),
                ),
            },
            (Some(service), Some(class)) => {
                self.denied_though_listed(shown, service, class, by, addresses)
            }
        };
        let mut lines = vec![format!("denied: {why}"), words::denial(&shown.fate)];
        lines.extend(hint);
        lines
    }

    /// Why a flow is denied although its name and port are listed, and what may help.
    fn denied_though_listed(
        &self,
        shown: &Judged<'_>,
        service: &Service,
        class: Class,
        by: Option<&str>,
        addresses: &Addresses,
    ) -> (String, Option<String>) {
        let what = words::request(&shown.spoken);
        let plan = self.policy().view.plans.get(&service.host);
        let plan = plan.and_then(|plan| plan.get(shown.to.port()));
        let denied = plan.and_then(|plan| plan.own.policy.denied.as_ref());
        match (&shown.fate, addresses) {
            (Fate::DeniedByKernel(_), _) if let Some(why) = denied => (why.to_string(), None),
            (Fate::DeniedByKernel(_), Addresses::Unknown(_)) => self.without_address(service),
            (Fate::NoEndpoint(cluster, _), _) => (
                format!("{}:{} has no address", cluster.id.host, cluster.id.port),
                Some(self.without_address(service).0),
            ),
            (Fate::DeniedByKernel(_), _) => (
                format!("{} is not an address of {}", shown.to.ip(), service.host),
                None,
            ),
            (Fate::DeniedByProxy(reason, _), _) => {
                let rule = by.unwrap_or("the host");
                let why = match reason {
                    DenialReason::NoRoute => format!("no route of {rule} takes {what}"),
                    DenialReason::NoCluster(to) => {
                        format!("{rule} sends {what} to {to}, which no rule lists")
                    }
                    DenialReason::UnlistedName
                        if let (Some(rule), Spoken::Tls(Some(name))) = (by, shown.spoken) =>
                    {
                        format!("no tls route of {rule} takes the server name {name}")
                    }
                    DenialReason::NotCarriedOut(_) => format!(
                        "{what}: a field of its rule is not carried out, so that it serves nothing"
                    ),
                    _ => {
                        let (port, speaks) = (
                            shown.to.port(),
                            words::speaks(service, class, shown.to.port()),
                        );
                        format!(
                            "{what}: port {port} of {} is listed for {speaks}",
                            service.host
                        )
                    }
                };
                (why, None)
            }
            (
                Fate::Straight | Fate::Query | Fate::Relayed(_) | Fate::Tls(_) | Fate::Request(..),
                _,
            ) => (String::new(), None),
        }
    }

    /// Why a listed service has no address, and the setting or field that may help.
    fn without_address(&self, service: &Service) -> (String, Option<String>) {
        let names: Vec<_> = service.lookups().cloned().collect();
        let failing = self.state.failing();
        let failure = failing.iter().find(|(name, _)| names.contains(name));
        if let Some((name, failure)) = failure {
            return (
                format!("DNS gave no usable address for {name}: {failure}"),
                Some(
                    "addresses that are not public are left out of answers unless \
                     allowPrivateAnswers is true"
                        .to_owned(),
                ),
            );
        }
        if !names.is_empty() {
            let why = format!(
                "DNS gave no address for {} yet",
                names
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            return (why, None);
        }
        (
            format!(
                "{} lists no address for {} (fields spec.endpoints, spec.addresses, spec.workloadSelector)",
                rule_of(service, None),
                service.host
            ),
            None,
        )
    }
}

/// The entry that lists a port of a host but is not in force, because it cannot be merged with an older one.
fn not_in_force(service: &Service, port: u16) -> Option<String> {
    let entry = service.left_out.iter().find(|e| e.port(port).is_some())?;
    Some(format!(
        "{} lists port {port} too, but is not in force: it cannot be merged with the older {}",
        words::placed(&entry.object),
        rule_of(service, None)
    ))
}

/// The service that covers a host: its own, or that of the longest wildcard. Services with this port come first,
/// because each port has routes of its own.
fn service_of<'a>(view: &'a View, host: &str, port: u16) -> Option<&'a Arc<Service>> {
    let mut all = hosts::patterns(host).filter_map(|h| view.services.get(&*h));
    let first = all.next()?;
    let with_port = |s: &&Arc<Service>| s.class(port).is_some();
    let found = std::iter::once(first).chain(all).find(with_port);
    found.or(Some(first))
}
