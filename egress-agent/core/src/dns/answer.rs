//! Makes the answer for a client from an upstream server's message: only records that the question leads to, and only
//! addresses that get a lease.
//!
//! Owns what is left out. The caller puts the leases in force before it sends the reply.

use super::chain::{Chain, address, ttl_of};
use super::content::{Content, negative};
use super::decision::{Forward, ListedName, NotPublic, Reach, Reason};
use super::listing::Listing;
use super::query::Question;
use super::service_binding::stripped;
use super::text::canonical;
pub use crate::policy::leases::Lease;
use crate::policy::leases::{Answer, InForce, LeaseSettings};
use crate::routing::inside::network_to_accept;
use egress_ebpf::addr::Addr;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest time that a negative answer is cached (RFC 2308 §5 advises hours; a new host should not wait that long).
const MAX_NEGATIVE: u32 = 300;

/// How long an answer without the addresses that were left out is cached, in seconds. A setting that accepts them counts
/// soon.
const NOTHING_LEFT: u32 = 5;

/// The answer for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// Its content.
    pub content: Content,
    /// The leases of its addresses: of the name, or of each name of which it is an alias target. Empty if the answer has
    /// no addresses or if no rule lists the name.
    pub leases: Vec<Lease>,
    /// How long it may be given to further clients. Zero: to this one only.
    pub keep: Duration,
    /// Why addresses were left out.
    pub denied: Vec<Reason>,
    /// Whether all of them were.
    pub nothing_left: bool,
    /// The targets of the aliases that the client gets, and how long each alias is valid.
    pub targets: Vec<Target>,
}

/// The target of an alias, in canonical form, and the TTL of the alias.
pub type Target = (Arc<str>, Duration);

/// Why an upstream server's message is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Not a DNS message.
    #[error("malformed answer")]
    Malformed,
    /// Not a response, or to another question.
    #[error("answer to another question")]
    Another,
    /// TC: ask over TCP.
    #[error("truncated answer")]
    Truncated,
    /// SERVFAIL, REFUSED and the like: ask another server.
    #[error("the server answered {0}")]
    Code(ResponseCode),
}

/// Reads an upstream server's message and filters it. `forward` is the decision about the question.
///
/// # Errors
/// The message is not an answer to the question.
pub fn filter(
    listing: Listing<'_>,
    leases: &LeaseSettings,
    question: &Question,
    forward: &Forward,
    message: &[u8],
) -> Result<Filtered, BadAnswer> {
    let message = Message::from_vec(message).map_err(|_| BadAnswer::Malformed)?;
    filter_message(listing, leases, question, forward, &message)
}

/// The same for a message that is already read.
///
/// # Errors
/// See [`filter`].
pub fn filter_message(
    listing: Listing<'_>,
    leases: &LeaseSettings,
    question: &Question,
    forward: &Forward,
    message: &Message,
) -> Result<Filtered, BadAnswer> {
    filter_as(listing, leases, question, forward, message, None)
}

/// The same once the leases are in force, for a name that had no room for all of them: addresses without a lease are
/// left out.
///
/// # Errors
/// See [`filter`].
pub fn filter_held(
    listing: Listing<'_>,
    leases: &LeaseSettings,
    question: &Question,
    forward: &Forward,
    message: &Message,
    in_force: &InForce,
) -> Result<Filtered, BadAnswer> {
    filter_as(listing, leases, question, forward, message, Some(in_force))
}

fn filter_as(
    listing: Listing<'_>,
    leases: &LeaseSettings,
    question: &Question,
    forward: &Forward,
    message: &Message,
    in_force: Option<&InForce>,
) -> Result<Filtered, BadAnswer> {
    let name = question.fqdn().ok_or(BadAnswer::Another)?;
    let head = &message.metadata;
    let [asked] = &*message.queries else {
        return Err(BadAnswer::Another);
    };
    if head.message_type != MessageType::Response
        || head.op_code != OpCode::Query
        || asked.query_type() != question.kind
        || !asked.name().eq_ignore_root(&name)
    {
        return Err(BadAnswer::Another);
    }
    let code = head.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(BadAnswer::Code(code));
    }
    if head.truncation {
        return Err(BadAnswer::Truncated);
    }
    let most_ttl = u32::try_from(listing.settings().max_ttl.as_secs()).unwrap_or(u32::MAX);
    let sieve = Sieve {
        listing,
        leases,
        question,
        forward,
        names: forward.listed_names(&question.name),
        most_ttl,
        in_force,
    };
    Ok(sieve.filter(&name, code, message))
}

struct Sieve<'a> {
    listing: Listing<'a>,
    leases: &'a LeaseSettings,
    question: &'a Question,
    forward: &'a Forward,
    /// The names that get the leases.
    names: Vec<ListedName>,
    most_ttl: u32,
    /// The leases in force, if they are already.
    in_force: Option<&'a InForce>,
}

/// What is kept of an answer.
#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    addresses: Vec<IpAddr>,
    not_public: Option<NotPublic>,
    left_out: usize,
}

impl Kept {
    fn denied(self, most: usize) -> Vec<Reason> {
        let not_public = self.not_public.map(Reason::NotPublic);
        let too_many = (self.left_out > 0).then_some(Reason::TooManyAddresses(most));
        not_public.into_iter().chain(too_many).collect()
    }
}

impl Sieve<'_> {
    fn filter(&self, name: &Name, code: ResponseCode, message: &Message) -> Filtered {
        let chain = Chain::from(name, &message.answers);
        let mut kept = Kept::default();
        let owner = |record: &Record| {
            let mut own = self.bounded(record);
            if own.name.eq_ignore_root(name) {
                own.name = name.clone();
            }
            own
        };
        kept.records.extend(chain.aliases.iter().map(|r| owner(r)));
        let wanted = self.question.kind;
        let of_end = message.answers.iter().filter(|r| {
            let aliased = wanted == RecordType::CNAME || r.record_type() == RecordType::CNAME;
            !aliased && r.record_type() == wanted && r.name.eq_ignore_root(chain.end)
        });
        for record in of_end {
            if let Some(data) = self.allowed(record, &mut kept) {
                let mut record = owner(record);
                record.data = data;
                kept.records.push(record);
            }
        }
        let found = kept.records.len() > chain.aliases.len()
            || wanted == RecordType::CNAME && !chain.aliases.is_empty();
        let nothing_left = !found && (kept.not_public.is_some() || kept.left_out > 0);
        let authorities = if found {
            Vec::new()
        } else if nothing_left {
            vec![negative(chain.end, NOTHING_LEFT)]
        } else {
            self.negative(chain.end, &message.authorities)
        };
        let all = kept.records.iter().chain(&authorities);
        let ttl = all.map(|r| r.ttl).min().unwrap_or_default();
        let ttl = Duration::from_secs(ttl.into());
        // A negative answer without its record is not cached (RFC 2308 §5).
        let keep = if nothing_left {
            // Also if the server says that nobody may keep it: each query would ask again.
            Duration::from_secs(NOTHING_LEFT.into())
        } else if found || !authorities.is_empty() {
            ttl
        } else {
            Duration::ZERO
        };
        let leases = self.leases(&kept.addresses, ttl);
        Filtered {
            content: Content::of(name, code, &kept.records, &authorities),
            leases,
            keep,
            denied: kept.denied(self.leases.max_addresses),
            nothing_left,
            targets: chain
                .aliases
                .iter()
                .filter_map(|r| self.target(r))
                .collect(),
        }
    }

    /// The leases of these addresses. Each name has those that are accepted for it.
    fn leases(&self, addresses: &[IpAddr], ttl: Duration) -> Vec<Lease> {
        let lease = |listed: &ListedName| {
            let own = addresses.iter().copied();
            let own = own.filter(|ip| !self.leases.leaves_out(&listed.name, *ip));
            Lease {
                policy: self.listing.policy,
                workload: None,
                name: Arc::clone(&listed.name),
                hosts: listed.hosts.clone(),
                answer: Answer {
                    addresses: own.collect(),
                    ttl,
                },
            }
        };
        let all = self.names.iter().map(lease);
        all.filter(|lease| !lease.answer.addresses.is_empty())
            .collect()
    }

    /// Whether an address is accepted for no name that would lease it. A name that nobody lists is judged as itself.
    fn leaves_out(&self, ip: IpAddr) -> bool {
        match &*self.names {
            [] => self.leases.leaves_out(&self.question.name, ip),
            names => names
                .iter()
                .all(|listed| self.leases.leaves_out(&listed.name, ip)),
        }
    }

    /// Where an alias leads to, if a query can have that name.
    fn target(&self, record: &Record) -> Option<Target> {
        let RData::CNAME(target) = &record.data else {
            return None;
        };
        let name = canonical(&target.0)?;
        let ttl = ttl_of(record).min(self.most_ttl);
        Some((name, Duration::from_secs(ttl.into())))
    }

    /// The data of a record of the wanted type at the end of the chain, as far as the client may have it.
    fn allowed(&self, record: &Record, kept: &mut Kept) -> Option<RData> {
        if matches!(record.data, RData::HTTPS(_) | RData::SVCB(_)) {
            let services = &self.forward.services;
            return match self.forward.reach {
                Reach::All if services.is_empty() => Some(record.data.clone()),
                Reach::All | Reach::Leased => {
                    stripped(self.listing, services, &record.name, &record.data)
                }
            };
        }
        let Some(ip) = address(&record.data) else {
            return Some(record.data.clone());
        };
        // The form that the kernel looks up: a NAT64 or mapped address is judged by the IPv4 address in it.
        let ip = IpAddr::from(Addr::from(ip).canonical());
        if self.leaves_out(ip) {
            if self.forward.reach == Reach::All {
                return Some(record.data.clone());
            }
            kept.not_public.get_or_insert_with(|| NotPublic {
                name: Arc::clone(self.names.first().map_or(&self.question.name, |n| &n.name)),
                address: ip,
                network: network_to_accept(ip),
            });
            return None;
        }
        if !kept.addresses.contains(&ip) {
            let has =
                |leases: &InForce| self.names.iter().any(|listed| leases.has(&listed.name, ip));
            let full = kept.addresses.len() >= self.leases.max_addresses;
            if full || !self.in_force.is_none_or(has) {
                kept.left_out += 1;
                return (self.forward.reach == Reach::All).then(|| record.data.clone());
            }
            kept.addresses.push(ip);
        }
        Some(record.data.clone())
    }

    /// The record that says how long a negative answer is valid, if its zone has the name.
    fn negative(&self, end: &Name, authorities: &[Record]) -> Vec<Record> {
        let soa = authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) if record.name.zone_of(end) => Some((record, soa)),
            _ => None,
        });
        let Some((record, soa)) = soa else {
            return Vec::new();
        };
        let mut record = self.bounded(record);
        record.ttl = record.ttl.min(soa.minimum).min(MAX_NEGATIVE);
        vec![record]
    }

    /// The record with a TTL within bounds.
    fn bounded(&self, record: &Record) -> Record {
        Record::from_rdata(
            record.name.clone(),
            ttl_of(record).min(self.most_ttl),
            record.data.clone(),
        )
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
