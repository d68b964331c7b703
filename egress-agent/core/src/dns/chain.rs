//! Finds the addresses of a name in the records of a response. Uses only records that the name's CNAME chain
//! leads to.

use super::query::Question;
use super::text::canonical;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::time::Duration;

/// The longest CNAME chain that is followed. Longer ones are loops or attacks; resolvers have similar
/// limits.
const LONGEST: usize = 16;

/// A CNAME chain.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    /// The aliases from the name on.
    pub(super) aliases: Vec<&'a Record>,
    /// The name at the end of the chain.
    pub(super) end: &'a Name,
}

impl<'a> Chain<'a> {
    /// The chain from `name`.
    pub(super) fn from(name: &'a Name, records: &'a [Record]) -> Self {
        let mut chain = Self {
            aliases: Vec::new(),
            end: name,
        };
        while chain.aliases.len() < LONGEST {
            let alias = records.iter().find_map(|r| match &r.data {
                RData::CNAME(target) if r.name.eq_ignore_root(chain.end) => Some((r, &target.0)),
                _ => None,
            });
            let Some((record, target)) = alias else {
                break;
            };
            chain.aliases.push(record);
            chain.end = target;
        }
        chain
    }
}

/// The addresses at the end of the CNAME chain from `name`, in the order of the response, and the smallest
/// TTL of the records on the way (RFC 1034 §3.6.2: an alias is cached by its own TTL).
pub fn addresses(name: &Name, records: &[Record]) -> Option<(Vec<IpAddr>, Duration)> {
    let chain = Chain::from(name, records);
    let mut ttl = chain.aliases.iter().map(|r| ttl_of(r)).min();
    let mut found = Vec::new();
    for record in records.iter().filter(|r| r.name.eq_ignore_root(chain.end)) {
        let Some(ip) = address(&record.data) else {
            continue;
        };
        ttl = Some(ttl.unwrap_or(u32::MAX).min(ttl_of(record)));
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
    (!found.is_empty()).then_some((found, ttl))
}

/// The question for the end of the CNAME chain in a message about `question`, if the message has neither the records there
/// nor the word that there are none: some servers answer with an alias alone.
pub fn unfinished(question: &Question, message: &Message) -> Option<Question> {
    let name = question.fqdn()?;
    let chain = Chain::from(&name, &message.answers);
    let is_alias = question.kind != RecordType::CNAME && !chain.aliases.is_empty();
    let is_loop = chain.aliases.len() == LONGEST;
    let found = |record: &Record| {
        record.record_type() == question.kind && record.name.eq_ignore_root(chain.end)
    };
    let none = |record: &Record| record.record_type() == RecordType::SOA;
    let ends = message.metadata.response_code != ResponseCode::NoError
        || message.answers.iter().any(found)
        || message.authorities.iter().any(none);
    if !is_alias || is_loop || ends {
        return None;
    }
    let (name, kind) = (canonical(chain.end)?, question.kind);
    Some(Question { name, kind })
}

/// The address of an A or AAAA record.
pub(super) fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// The TTL of a record. One with its highest bit set is zero (RFC 2181 §8).
pub(super) fn ttl_of(record: &Record) -> u32 {
    if record.ttl > i32::MAX as u32 {
        0
    } else {
        record.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::{address, alias, name};
    use super::{Question, addresses, unfinished};
    use hickory_proto::op::{Message, OpCode};
    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::{RData, Record, RecordType};

    fn resolved(records: &[Record]) -> Option<(Vec<String>, u64)> {
        addresses(&name("www.example.com."), records)
            .map(|(ips, ttl)| (ips.iter().map(ToString::to_string).collect(), ttl.as_secs()))
    }

    #[test]
    fn the_smallest_ttl_of_the_chain_counts() {
        let chain = [
            alias("WWW.example.com.", 300, "a.cdn.example."),
            alias("a.cdn.example.", 20, "b.cdn.example."),
            address("b.cdn.example.", 60, "192.0.2.1"),
            address("b.cdn.example.", 60, "2001:db8::1"),
            address("b.cdn.example.", 60, "192.0.2.1"),
        ];
        assert_eq!(
            resolved(&chain),
            Some((vec!["192.0.2.1".into(), "2001:db8::1".into()], 20))
        );
    }

    #[test]
    fn records_that_the_name_does_not_lead_to_are_ignored() {
        let stranger = address("evil.example.", 60, "192.0.2.66");
        let own = address("www.example.com.", 60, "192.0.2.1");
        assert_eq!(
            resolved(&[stranger.clone(), own]),
            Some((vec!["192.0.2.1".into()], 60))
        );
        assert_eq!(resolved(std::slice::from_ref(&stranger)), None);
        let aside = [
            alias("www.example.com.", 60, "a.example."),
            address("www.example.com.", 60, "192.0.2.66"),
        ];
        assert_eq!(resolved(&aside), None, "an alias has no address of its own");
    }

    #[test]
    fn the_end_of_an_alias_without_records_is_asked_for() {
        let asked = |answers: &[Record], soa: bool| {
            let mut message = Message::response(1, OpCode::Query);
            message.answers = answers.to_vec();
            if soa {
                let soa = SOA::new(name("example."), name("example."), 1, 1, 1, 1, 1);
                let soa = Record::from_rdata(name("example."), 60, RData::SOA(soa));
                message.authorities.push(soa);
            }
            let question = Question {
                name: "www.example.com".into(),
                kind: RecordType::A,
            };
            unfinished(&question, &message).map(|next| next.name.to_string())
        };
        let chain = [
            alias("www.example.com.", 60, "a.CDN.example."),
            alias("a.cdn.example.", 60, "B.cdn.example."),
            address("b.cdn.example.", 60, "192.0.2.1"),
            address("b.cdn.example.", 60, "2001:db8::1"),
        ];
        assert_eq!(asked(&chain[..1], false).as_deref(), Some("a.cdn.example"));
        assert_eq!(asked(&chain[..2], false).as_deref(), Some("b.cdn.example"));
        let [first, second, v4, v6] = chain;
        let other = asked(&[first.clone(), second.clone(), v6], false);
        assert_eq!(other.as_deref(), Some("b.cdn.example"), "of another type");
        assert_eq!(
            asked(&[first.clone(), second.clone(), v4.clone()], false),
            None
        );
        assert_eq!(asked(&[first, second], true), None, "there are none");
        assert_eq!(asked(&[], false), None, "no alias");
        let back = alias("b.example.", 60, "www.example.com.");
        let ring = [alias("www.example.com.", 60, "b.example."), back];
        assert_eq!(asked(&ring, false), None);
    }

    #[test]
    fn a_loop_ends_and_a_negative_ttl_is_zero() {
        let ring = [
            alias("www.example.com.", 60, "a.example."),
            alias("a.example.", 60, "www.example.com."),
        ];
        assert_eq!(resolved(&ring), None);
        assert_eq!(
            resolved(&[address("www.example.com.", u32::MAX, "192.0.2.1")])
                .unwrap()
                .1,
            0
        );
        let chain = [
            alias("www.example.com.", u32::MAX, "a.example."),
            address("a.example.", 60, "192.0.2.1"),
        ];
        assert_eq!(resolved(&chain).unwrap().1, 0);
    }
}
