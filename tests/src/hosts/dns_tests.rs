//! The name server of the outside.

use super::*;
use hickory_proto::op::Query;
use std::net::Ipv4Addr;

fn ask(dns: &Dns, name: &str, kind: RecordType, limit: Option<usize>) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_utf8(name).unwrap(), kind));
    let answer = dns
        .answer(&query.to_vec().unwrap(), Ipv4Addr::LOCALHOST.into(), limit)
        .unwrap();
    Message::from_vec(&answer).unwrap()
}

fn shown(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[test]
fn a_name_answers_with_its_addresses_of_the_family_asked_for() {
    let dns = Dns::default();
    dns.set(
        "A.example.",
        &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        5,
    );
    assert_eq!(
        shown(&ask(&dns, "a.example.", RecordType::A, None)),
        ["192.0.2.1"]
    );
    assert_eq!(
        shown(&ask(&dns, "a.EXAMPLE.", RecordType::AAAA, None)),
        ["2001:db8::1"]
    );
    assert_eq!(dns.queries().len(), 2);
}

#[test]
fn a_name_without_that_family_exists_and_an_unknown_name_does_not() {
    let dns = Dns::default();
    dns.set("a.example", &["192.0.2.1".parse().unwrap()], 5);
    let none = ask(&dns, "a.example.", RecordType::AAAA, None);
    assert_eq!(
        (none.metadata.response_code, none.authorities.len()),
        (ResponseCode::NoError, 1)
    );
    let unknown = ask(&dns, "b.example.", RecordType::A, None);
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn an_alias_is_followed_and_a_ring_of_aliases_ends() {
    let dns = Dns::default();
    dns.alias("www.example", "a.example", 5);
    dns.set("a.example", &["192.0.2.1".parse().unwrap()], 5);
    assert_eq!(
        shown(&ask(&dns, "www.example.", RecordType::A, None)),
        ["a.example.", "192.0.2.1"]
    );
    dns.alias("a.example", "www.example", 5);
    assert_eq!(
        ask(&dns, "www.example.", RecordType::A, None).answers.len(),
        16
    );
}

#[test]
fn a_long_answer_is_truncated_over_udp_and_whole_over_tcp() {
    let dns = Dns::default();
    let many: Vec<IpAddr> = (0..100)
        .map(|last| IpAddr::from([192, 0, 2, last]))
        .collect();
    dns.set("a.example", &many, 5);
    assert!(
        ask(&dns, "a.example.", RecordType::A, Some(PLAIN_UDP))
            .metadata
            .truncation
    );
    assert_eq!(
        ask(&dns, "a.example.", RecordType::A, None).answers.len(),
        100
    );
}
