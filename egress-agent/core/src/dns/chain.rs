//! Finds the addresses of a name in the records of a response. Uses only records that the name's CNAME chain
//! leads to.

use hickory_proto::rr::{Name, RData, Record};
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
    use super::addresses;
    use hickory_proto::rr::Record;

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
