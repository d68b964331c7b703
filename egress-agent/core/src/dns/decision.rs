//! The decision about a query: where it goes, what the agent answers itself, or why it is denied.
//!
//! Owns the words of a decision. `judge` decides.

use crate::istio::hosts;
use crate::policy::leases::InForce;
use crate::registry::services::Service;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, RecordType, rdata};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// The decision about a query.
#[derive(Clone, Debug)]
pub enum Decision {
    /// An upstream server is asked.
    Forward(Forward),
    /// The agent knows the answer.
    Local(Local),
    /// The addresses of these endpoints are the answer, as far as they are in the kernel.
    Endpoints(Endpoints),
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
    /// The listed names of which the question's name is an alias target. The leases are these names'.
    pub alias_of: Vec<ListedName>,
    /// Why the query would be denied if the policy denied anything, for the record.
    pub recorded: Option<Reason>,
}

/// A name that rules list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// In canonical form.
    pub name: Arc<str>,
    /// The hosts that list it, the most specific first.
    pub hosts: Vec<Arc<str>>,
}

impl Forward {
    /// Any name, as the client's own server answers it. Nothing gets a lease.
    pub(super) fn as_asked() -> Self {
        Self {
            upstream: Upstream::Asked,
            reach: Reach::All,
            services: Vec::new(),
            alias_of: Vec::new(),
            recorded: None,
        }
    }

    /// A name that these services list.
    pub(super) fn listed(services: &[&Arc<Service>]) -> Self {
        Self {
            upstream: Upstream::Trusted,
            reach: Reach::Leased,
            services: services.iter().map(|s| Arc::clone(s)).collect(),
            alias_of: Vec::new(),
            recorded: None,
        }
    }

    /// The names that get the leases, if any. `asked` is the name of the question.
    pub fn listed_names(&self, asked: &Arc<str>) -> Vec<ListedName> {
        if self.services.is_empty() || !self.alias_of.is_empty() {
            return self.alias_of.clone();
        }
        vec![ListedName {
            name: Arc::clone(asked),
            hosts: self.services.iter().map(|s| Arc::clone(&s.host)).collect(),
        }]
    }

    /// The wildcard by which the name is listed, if no exact host is. An alias target is a name of the server's making.
    pub fn wildcard(&self) -> Option<&Arc<str>> {
        if !self.alias_of.is_empty() {
            return None;
        }
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
    /// How the agent knows it.
    pub source: Source,
}

/// How the agent knows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Source {
    /// `localhost` (RFC 6761).
    #[error("localhost is the workload itself")]
    Machine,
    /// Firefox's canary.
    #[error("the canary domain does not exist, so that Firefox stays with the system's resolver")]
    Canary,
    /// A name below `resolver.arpa` (RFC 9462).
    #[error("there is no encrypted resolver to discover")]
    Discovery,
    /// A search list made the name.
    #[error("a search list or a short name made it, and no server has such a name")]
    SearchList,
    /// `addresses` of a rule.
    #[error("its rule has these addresses (field spec.addresses)")]
    Addresses,
    /// Allocated addresses.
    #[error(
        "another host lists one of its TCP ports, and the agent gave it these addresses, to tell the two apart (label networking.istio.io/enable-autoallocate-ip)"
    )]
    Allocated,
    /// `endpoints` of a rule.
    #[error("its rule has these endpoints (field spec.endpoints)")]
    Endpoints,
    /// Leases of the address.
    #[error("listed names that lease the address")]
    Leases,
}

impl Local {
    /// TTL of the agent's own answers, as Istio's DNS proxy has it.
    const TTL: u32 = 30;

    pub(super) fn of(records: Vec<RData>, source: Source) -> Decision {
        Decision::Local(Self {
            code: ResponseCode::NoError,
            records,
            ttl: Self::TTL,
            source,
        })
    }

    pub(super) fn no_such_name(source: Source) -> Decision {
        Decision::Local(Self {
            code: ResponseCode::NXDomain,
            records: Vec::new(),
            ttl: Self::TTL,
            source,
        })
    }

    /// These addresses, as far as they are of the type.
    pub(super) fn addresses(
        addresses: impl IntoIterator<Item = IpAddr>,
        kind: RecordType,
        source: Source,
    ) -> Decision {
        Self::of(records(addresses, kind), source)
    }

    pub(super) fn pointers<'a>(
        names: impl IntoIterator<Item = &'a str>,
        source: Source,
    ) -> Decision {
        let name = |text: &str| {
            let mut name = Name::from_ascii(text).ok()?;
            name.set_fqdn(true);
            Some(RData::PTR(rdata::PTR(name)))
        };
        Self::of(names.into_iter().filter_map(name).collect(), source)
    }
}

fn records(addresses: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Vec<RData> {
    let record = |ip| match ip {
        IpAddr::V4(v4) if kind == RecordType::A => Some(RData::A(rdata::A(v4))),
        IpAddr::V6(v6) if kind == RecordType::AAAA => Some(RData::AAAA(rdata::AAAA(v6))),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    addresses.into_iter().filter_map(record).collect()
}

/// Endpoints of a host: its own name in DNS may have other addresses, and the gate does not allow those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Addresses that the rule writes down.
    pub fixed: Vec<IpAddr>,
    /// Names that the agent asks for.
    pub names: Vec<Arc<str>>,
}

impl Endpoints {
    /// The answer from the leases in the kernel. `None` if there are names and none of them has an address yet: the
    /// client should ask again, and not take the host for one without addresses.
    pub fn answer(&self, kind: RecordType, in_force: &InForce) -> Option<Local> {
        let mut found = self.fixed.clone();
        let known = self.names.iter().flat_map(|name| in_force.newest(name));
        found.extend(known.copied());
        if found.is_empty() && !self.names.is_empty() {
            return None;
        }
        let mut once = Vec::with_capacity(found.len());
        for ip in found {
            if !once.contains(&ip) {
                once.push(ip);
            }
        }
        Some(Local {
            code: ResponseCode::NoError,
            records: records(once, kind),
            ttl: Local::TTL,
            source: Source::Endpoints,
        })
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
    /// The answer has an address that is not public.
    #[error(transparent)]
    NotPublic(NotPublic),
    /// The answer has more addresses than a name may have.
    #[error("the answer has more than {0} addresses, and a name may have no more")]
    TooManyAddresses(usize),
}

/// An address that is left out of an answer because it is not public.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} has the address {address}, which is not public; privateAnswers: ['{name}={network}'] accepts it"
)]
pub struct NotPublic {
    /// The name that was asked for.
    pub name: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// The network that the setting would name.
    pub network: IpNet,
}

impl Reason {
    /// The code of the reason in logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unlisted => "dns-not-listed",
            Self::Kind(_) | Self::Meta(_) => "dns-type",
            Self::Reverse => "dns-reverse",
            Self::TooLong { .. } => "dns-name-too-long",
            Self::TooMany { .. } => "dns-too-many-names",
            Self::NotPublic(_) => "dns-not-public",
            Self::TooManyAddresses(_) => "dns-too-many-addresses",
        }
    }
}
