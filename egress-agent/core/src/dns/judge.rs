//! What happens to a query of a workload: forwarded, answered here, or denied.
//!
//! Owns the decision. A name leaves the machine only if a rule of the workload's policy lists it, or if it is the
//! cluster's own; everything else is denied. Sends nothing and reads no message. `tunnel` bounds how many names below
//! a wildcard a workload may ask for, which needs a memory.

use super::arpa::{Reverse, reverse};
use super::cluster::{is_of_search_list, is_short, of_cluster};
pub use super::decision::{
    Decision, Denial, Endpoints, Forward, ListedName, Local, Reach, Reason, Source, Upstream,
};
use super::listing::Listing;
use super::own::{Own, own};
use super::query::Question;
use super::settings::{QuerySettings, TYPES};
use super::text::{below, first_label};
use crate::istio::hosts;
use crate::policy::state::Unlisted;
use crate::registry::services::Service;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Firefox asks for this name before it resolves names by itself over HTTPS. If it does not exist, Firefox stays with
/// the system's resolver (https://support.mozilla.org/kb/canary-domain-use-application-dnsnet).
const CANARY: &str = "use-application-dns.net";
/// Clients ask below this name for encrypted resolvers. A server without one answers that there is none (RFC 9462 §6.4).
const DISCOVERY: &str = "resolver.arpa";
/// The machine itself (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";

/// Judges a query of a workload that got no aliases lately.
pub fn judge(listing: Listing<'_>, question: &Question) -> Decision {
    judge_after(listing, question, |_| Vec::new())
}

/// Judges a query of a workload. `alias_of` finds the listed names of which a name is an alias target, as answers
/// for the policy's workloads had it lately; it is called for names that no rule lists.
pub fn judge_after(
    listing: Listing<'_>,
    question: &Question,
    alias_of: impl FnOnce(&str) -> Vec<Arc<str>>,
) -> Decision {
    if is_meta(question.kind) {
        return deny(Reason::Meta(question.kind), ResponseCode::NotImp);
    }
    if let Some(own) = of_machine(question) {
        return own;
    }
    let decision = by_rules(listing, question, alias_of);
    match (listing.unlisted(), decision) {
        (Unlisted::Denied, decision) => decision,
        (_, Decision::Local(local)) if local.code == ResponseCode::NXDomain => {
            Decision::Forward(Forward::as_asked())
        }
        (_, decision @ (Decision::Local(_) | Decision::Endpoints(_))) => decision,
        (_, Decision::Forward(forward)) => Decision::Forward(Forward {
            reach: Reach::All,
            ..forward
        }),
        (unlisted, Decision::Deny(denial)) => Decision::Forward(Forward {
            recorded: (unlisted == Unlisted::Recorded).then_some(denial.reason),
            ..Forward::as_asked()
        }),
    }
}

fn deny(reason: Reason, code: ResponseCode) -> Decision {
    Decision::Deny(Denial { reason, code })
}

/// Types that are no records: OPT, and those from TKEY to ANY (RFC 6895 §3.1).
pub fn is_meta(kind: RecordType) -> bool {
    let number = u16::from(kind);
    number == 0 || number == u16::from(RecordType::OPT) || (128..=255).contains(&number)
}

/// Names that every policy's workloads get the same answer for.
fn of_machine(question: &Question) -> Option<Decision> {
    let name = &*question.name;
    let is_or_below = |domain: &str| name == domain || below(name, domain).is_some();
    if is_or_below(LOCALHOST) {
        let own = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Some(Local::addresses(own, question.kind, Source::Machine))
    } else if is_or_below(CANARY) {
        Some(Local::no_such_name(Source::Canary))
    } else if is_or_below(DISCOVERY) {
        Some(Local::of(Vec::new(), Source::Discovery))
    } else {
        None
    }
}

fn by_rules(
    listing: Listing<'_>,
    question: &Question,
    alias_of: impl FnOnce(&str) -> Vec<Arc<str>>,
) -> Decision {
    let settings = listing.settings();
    let (name, kind) = (&*question.name, question.kind);
    if let Some(inside) = settings.cluster_domain.as_deref().and_then(|domain| {
        let whole = (name == domain).then_some("");
        whole.or_else(|| below(name, domain))
    }) {
        return of_cluster(listing, question, inside);
    }
    if let Some(address) = reverse(name) {
        return by_address(listing, kind, address);
    }
    let services = listing.services(name);
    if !services.is_empty() {
        return listed(settings, &services, question);
    }
    if let Some(services) = endpoint_of_port(listing, question) {
        return Decision::Forward(Forward::listed(&services));
    }
    if let Some(decision) = target(listing, alias_of(name), kind) {
        return decision;
    }
    if is_short(name) || is_of_search_list(listing, name) {
        return Local::no_such_name(Source::SearchList);
    }
    // A client whose search list made the name then asks for the name without the domain.
    let searched = settings.search.iter().any(|d| below(name, d).is_some());
    let code = if searched {
        ResponseCode::NXDomain
    } else {
        settings.denied.into()
    };
    deny(Reason::Unlisted, code)
}

/// Whether a listed name may be asked for by this type. Denying it is no error: a client would take that for one of the
/// whole name.
fn by_type(settings: &QuerySettings, kind: RecordType) -> Option<Decision> {
    let allowed = TYPES.contains(&kind) || settings.types.contains(&kind);
    (!allowed).then(|| deny(Reason::Kind(kind), ResponseCode::NoError))
}

/// The target of aliases of these names, as far as rules list them.
fn target(listing: Listing<'_>, names: Vec<Arc<str>>, kind: RecordType) -> Option<Decision> {
    let (mut services, mut alias_of) = (Vec::new(), Vec::new());
    for name in names {
        let own_services = listing.services(&name);
        // What a rule says of the addresses counts, and no alias.
        if own_services
            .first()
            .is_some_and(|first| own(first).is_none())
        {
            alias_of.push(ListedName {
                name,
                hosts: own_services.iter().map(|s| Arc::clone(&s.host)).collect(),
            });
            services.extend(own_services);
        }
    }
    if alias_of.is_empty() {
        return None;
    }
    let forward = Forward {
        alias_of,
        ..Forward::listed(&services)
    };
    Some(by_type(listing.settings(), kind).unwrap_or(Decision::Forward(forward)))
}

/// A name that rules list.
fn listed(settings: &QuerySettings, services: &[&Arc<Service>], question: &Question) -> Decision {
    let kind = question.kind;
    if let Some(denied) = by_type(settings, kind) {
        return denied;
    }
    let [first, ..] = services else {
        return deny(Reason::Unlisted, settings.denied.into());
    };
    match own(first) {
        Some(Own::Addresses(addresses)) => {
            return Local::addresses(addresses, kind, Source::Addresses);
        }
        Some(Own::Allocated(addresses)) => {
            return Local::addresses(addresses, kind, Source::Allocated);
        }
        Some(Own::Endpoints(endpoints)) if endpoints.names.is_empty() => {
            return Local::addresses(endpoints.fixed, kind, Source::Endpoints);
        }
        Some(Own::Endpoints(endpoints)) => return Decision::Endpoints(endpoints),
        None => {}
    }
    let bounds = settings.below;
    let suffix = first.host.strip_prefix('*');
    if let Some(part) = suffix.and_then(|suffix| question.name.strip_suffix(suffix)) {
        let labels = part.split('.').count();
        if part.len() > bounds.length || labels > bounds.labels {
            let reason = Reason::TooLong {
                host: Arc::clone(&first.host),
                length: bounds.length,
                labels: bounds.labels,
            };
            return deny(reason, settings.denied.into());
        }
    }
    Decision::Forward(Forward::listed(services))
}

/// A name of a reverse zone.
fn by_address(listing: Listing<'_>, kind: RecordType, address: Reverse) -> Decision {
    let settings = listing.settings();
    let denied = || deny(Reason::Reverse, settings.denied.into());
    let Reverse::Address(ip) = address else {
        return denied();
    };
    if kind != RecordType::PTR {
        return denied();
    }
    if ip.is_loopback() {
        return Local::pointers([LOCALHOST], Source::Machine);
    }
    if settings.internal.iter().any(|net| net.contains(&ip)) {
        return Decision::Forward(Forward::as_asked());
    }
    let names = listing.leased_by(ip);
    if names.is_empty() {
        return denied();
    }
    Local::pointers(names.into_iter().map(AsRef::as_ref), Source::Leases)
}

/// The services of a name with a port before it, `_8443._https.example.com` (RFC 9460 §2.3), if the port is listed.
fn endpoint_of_port<'a>(
    listing: Listing<'a>,
    question: &Question,
) -> Option<Vec<&'a Arc<Service>>> {
    if !matches!(question.kind, RecordType::HTTPS | RecordType::SVCB) {
        return None;
    }
    let (port, rest) = first_label(&question.name);
    let (scheme, name) = first_label(rest);
    let digits = port.strip_prefix('_')?;
    let number: u16 = digits.parse().ok()?;
    let services = listing.services(name);
    let first = services.first()?;
    let exact = !hosts::is_wildcard(&first.host);
    let listed =
        scheme == "_https" && number.to_string() == digits && first.class(number).is_some();
    (exact && listed).then_some(services)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "target_tests.rs"]
mod target_tests;
