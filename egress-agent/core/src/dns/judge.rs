//! What happens to a query of a workload: forwarded, answered here, or denied.
//!
//! Owns the decision. A name leaves the machine only if a rule of the workload's policy lists it, or if it is the
//! cluster's own; everything else is denied. Sends nothing and reads no message. `tunnel` bounds how many names below
//! a wildcard a workload may ask for, which needs a memory.

use super::arpa::{Reverse, reverse};
use super::listing::Listing;
use super::query::Question;
use super::settings::{QuerySettings, TYPES};
use super::text::{below, first_label, last_label};
use crate::istio::hosts;
use crate::policy::state::Unlisted;
use crate::registry::services::{Class, Location, Service};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, RecordType, rdata};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Firefox asks for this name before it resolves names by itself over HTTPS. If it does not exist, Firefox stays with
/// the system's resolver (https://support.mozilla.org/kb/canary-domain-use-application-dnsnet).
const CANARY: &str = "use-application-dns.net";
/// Clients ask below this name for encrypted resolvers. A server without one answers that there is none (RFC 9462 §6.4).
const DISCOVERY: &str = "resolver.arpa";
/// The machine itself (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";
/// The most labels before `svc.` and the cluster's domain: port, protocol, pod, service and namespace
/// (https://github.com/kubernetes/dns/blob/master/docs/specification.md).
const SERVICE_LABELS: usize = 5;

/// The decision about a query.
#[derive(Clone, Debug)]
pub enum Decision {
    /// An upstream server is asked.
    Forward(Forward),
    /// The agent knows the answer.
    Local(Local),
    /// The query is denied.
    Deny(Denial),
}

/// Which server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// One that the agent trusts with names that rules list. What it answers becomes leases.
    Trusted,
    /// The one that the client asked: the cluster's own names, and what a policy that denies nothing does not list.
    Asked,
}

/// Which addresses of an answer reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those that get a lease.
    Leased,
    /// All of them: the name is the cluster's own, or the policy denies nothing.
    All,
}

/// An upstream server is asked.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which one.
    pub upstream: Upstream,
    /// Which addresses of the answer reach the client.
    pub reach: Reach,
    /// The services that list the name, the most specific first. The addresses of the answer get leases for them.
    /// Empty if no rule lists it.
    pub services: Vec<Arc<Service>>,
    /// Why the query would be denied if the policy denied anything, for the record.
    pub recorded: Option<Reason>,
}

impl Forward {
    /// The wildcard by which the name is listed, if no exact host is.
    pub fn wildcard(&self) -> Option<&Arc<str>> {
        let host = &self.services.first()?.host;
        hosts::is_wildcard(host).then_some(host)
    }
}

/// An answer of the agent itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// NOERROR or NXDOMAIN.
    pub code: ResponseCode,
    /// The records of the question's name. Without them, a NOERROR says that the name has none of the type.
    pub records: Vec<RData>,
    /// How long clients may cache it, in seconds.
    pub ttl: u32,
}

impl Local {
    /// TTL of the agent's own answers, as Istio's DNS proxy has it.
    const TTL: u32 = 30;

    fn of(records: Vec<RData>) -> Decision {
        Decision::Local(Self {
            code: ResponseCode::NoError,
            records,
            ttl: Self::TTL,
        })
    }

    fn no_such_name() -> Decision {
        Decision::Local(Self {
            code: ResponseCode::NXDomain,
            records: Vec::new(),
            ttl: Self::TTL,
        })
    }

    /// These addresses, as far as they are of the type.
    fn addresses(addresses: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Decision {
        let records = addresses.into_iter().filter_map(|ip| match ip {
            IpAddr::V4(v4) if kind == RecordType::A => Some(RData::A(rdata::A(v4))),
            IpAddr::V6(v6) if kind == RecordType::AAAA => Some(RData::AAAA(rdata::AAAA(v6))),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        Self::of(records.collect())
    }

    fn pointers<'a>(names: impl IntoIterator<Item = &'a str>) -> Decision {
        let name = |text: &str| {
            let mut name = Name::from_ascii(text).ok()?;
            name.set_fqdn(true);
            Some(RData::PTR(rdata::PTR(name)))
        };
        Self::of(names.into_iter().filter_map(name).collect())
    }
}

/// A denied query.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// Why, for the record.
    pub reason: Reason,
    /// What the client gets.
    pub code: ResponseCode,
}

/// Why a query is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No rule lists the name.
    #[error("no rule lists this name")]
    Unlisted,
    /// The name is listed, and may not be asked for by this type.
    #[error("queries of type {0} are denied; dns.types allows further types for listed names")]
    Kind(RecordType),
    /// ANY, zone transfers and other types that are no records.
    #[error("queries of type {0} are never answered")]
    Meta(RecordType),
    /// The name is of a reverse zone, and its address is neither leased nor of an internal network.
    #[error(
        "reverse names are answered for addresses of listed names and for internal networks only"
    )]
    Reverse,
    /// The part below a wildcard is longer than its bounds.
    #[error(
        "the part below {host} is longer than dns.belowLength ({length}) or has more labels than dns.belowLabels ({labels})"
    )]
    TooLong {
        /// The wildcard.
        host: Arc<str>,
        /// Allowed bytes.
        length: usize,
        /// Allowed labels.
        labels: usize,
    },
    /// The workload asks for too many names below a wildcard.
    #[error(
        "too many new names below {host}: more than dns.belowBurst ({burst}) at once and dns.belowPerMinute ({per_minute}) each minute"
    )]
    TooMany {
        /// The wildcard.
        host: Arc<str>,
        /// Allowed names at once.
        burst: u32,
        /// Allowed names each minute.
        per_minute: u32,
    },
}

/// Judges a query of a workload.
pub fn judge(listing: Listing<'_>, question: &Question) -> Decision {
    if is_meta(question.kind) {
        return deny(Reason::Meta(question.kind), ResponseCode::NotImp);
    }
    if let Some(own) = of_machine(question) {
        return own;
    }
    let decision = by_rules(listing, question);
    match (listing.unlisted(), decision) {
        (Unlisted::Denied, decision) => decision,
        (_, Decision::Local(local)) if local.code == ResponseCode::NXDomain => {
            Decision::Forward(Forward {
                upstream: Upstream::Asked,
                reach: Reach::All,
                services: Vec::new(),
                recorded: None,
            })
        }
        (_, Decision::Local(local)) => Decision::Local(local),
        (_, Decision::Forward(forward)) => Decision::Forward(Forward {
            reach: Reach::All,
            ..forward
        }),
        (unlisted, Decision::Deny(denial)) => Decision::Forward(Forward {
            upstream: Upstream::Asked,
            reach: Reach::All,
            services: Vec::new(),
            recorded: (unlisted == Unlisted::Recorded).then_some(denial.reason),
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
        Some(Local::addresses(own, question.kind))
    } else if is_or_below(CANARY) {
        Some(Local::no_such_name())
    } else if is_or_below(DISCOVERY) {
        Some(Local::of(Vec::new()))
    } else {
        None
    }
}

fn by_rules(listing: Listing<'_>, question: &Question) -> Decision {
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
        return forward(&services);
    }
    if is_short(name) || is_of_search_list(listing, name) {
        return Local::no_such_name();
    }
    deny(Reason::Unlisted, settings.denied.into())
}

fn forward(services: &[&Arc<Service>]) -> Decision {
    Decision::Forward(Forward {
        upstream: Upstream::Trusted,
        reach: Reach::Leased,
        services: services.iter().map(|s| Arc::clone(s)).collect(),
        recorded: None,
    })
}

/// A name that rules list.
fn listed(settings: &QuerySettings, services: &[&Arc<Service>], question: &Question) -> Decision {
    let kind = question.kind;
    if !TYPES.contains(&kind) && !settings.types.contains(&kind) {
        // Not an error: a client would take it for one of the whole name.
        return deny(Reason::Kind(kind), ResponseCode::NoError);
    }
    let [first, ..] = services else {
        return deny(Reason::Unlisted, settings.denied.into());
    };
    if let Some(addresses) = own_addresses(first) {
        return Local::addresses(addresses, kind);
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
    forward(services)
}

/// The addresses that a rule gives a host, whatever DNS says: single `addresses`, as in Istio's DNS proxy, else the
/// addresses of its `endpoints`, because the gate allows no others. `None` if DNS knows them.
fn own_addresses(service: &Service) -> Option<Vec<IpAddr>> {
    let single =
        |net: &ipnet::IpNet| (net.prefix_len() == net.max_prefix_len()).then(|| net.addr());
    let listed = service.entries.iter().flat_map(|e| &e.addresses);
    let listed: Vec<IpAddr> = listed.filter_map(single).collect();
    // Only the proxy leads from `addresses` to endpoints, and it has no UDP.
    let udp = service.ports().values().any(|p| p.class == Class::Udp);
    let as_dialled = service.resolution() == crate::istio::service_entry::Resolution::None;
    if !listed.is_empty() && (as_dialled || !udp) {
        return Some(listed);
    }
    let endpoints = service
        .entries
        .iter()
        .flat_map(|e| e.endpoints.iter().flatten());
    let mut fixed = Vec::new();
    for endpoint in endpoints {
        match endpoint.location {
            Location::Ip(ip) if !fixed.contains(&ip) => fixed.push(ip),
            Location::Ip(_) => {}
            Location::Name(_) => return None,
        }
    }
    (!fixed.is_empty()).then_some(fixed)
}

/// A name of the cluster's domain; `inside` is the part before it.
fn of_cluster(listing: Listing<'_>, question: &Question, inside: &str) -> Decision {
    let before = last_label(inside).map_or("", |(before, _)| before);
    let labels = before.split('.').count();
    // The forms that a cluster has. Others are made of search lists, and no server needs to be asked.
    let exists = match inside.rsplit('.').next() {
        Some("svc") => labels <= SERVICE_LABELS && !is_variant(listing, before),
        Some("pod") => labels <= 2,
        Some("" | "dns-version") => before.is_empty(),
        Some(_) | None => listing.lists(&question.name),
    };
    if !exists {
        return Local::no_such_name();
    }
    let services = listing.services(&question.name);
    Decision::Forward(Forward {
        upstream: Upstream::Asked,
        reach: Reach::All,
        services: services.into_iter().cloned().collect(),
        recorded: None,
    })
}

/// Whether `before` is a listed name to which a search list added a namespace, or nothing: `api.example.com.shop`.
fn is_variant(listing: Listing<'_>, before: &str) -> bool {
    let completes = |name: &str| name.contains('.') && listing.lists(name);
    completes(before) || last_label(before).is_some_and(|(name, _)| completes(name))
}

/// Whether a name is short for a Service: the client's search list has its other forms.
fn is_short(name: &str) -> bool {
    !name.contains('.') && !name.is_empty() || below(name, "svc").is_some()
}

/// Whether a search list made this name of one that is listed, or of the cluster's own.
fn is_of_search_list(listing: Listing<'_>, name: &str) -> bool {
    let settings = listing.settings();
    settings.search.iter().any(|domain| {
        below(name, domain).is_some_and(|before| {
            let cluster = settings.cluster_domain.as_deref();
            !before.contains('.')
                || cluster.is_some_and(|cluster| below(before, cluster).is_some())
                || listing.lists(before)
        })
    })
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
        return Local::pointers([LOCALHOST]);
    }
    if settings.internal.iter().any(|net| net.contains(&ip)) {
        return Decision::Forward(Forward {
            upstream: Upstream::Asked,
            reach: Reach::All,
            services: Vec::new(),
            recorded: None,
        });
    }
    let names = listing.leased_by(ip);
    if names.is_empty() {
        return denied();
    }
    Local::pointers(names.into_iter().map(AsRef::as_ref))
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
