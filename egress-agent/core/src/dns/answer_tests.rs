//! Upstream messages, honest and not, to answers.

use super::super::bench::listing;
use super::super::records::{API, Bench, address, alias, decided, message, name};
use super::{BadAnswer, Filtered, Reason, filter};
use crate::policy::leases::PrivateAnswers;
use egress_ebpf::addr::Addr;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, SOA, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

fn leased(filtered: &Filtered) -> Vec<String> {
    let lease = filtered.leases.iter();
    let addresses = lease.flat_map(|l| &l.answer.addresses);
    addresses.map(ToString::to_string).collect()
}

#[test]
fn only_what_the_question_leads_to_is_given_and_leased() {
    let bench = Bench::new(RecordType::A);
    let answers = [
        address("evil.example.", 60, "203.0.113.66"),
        alias("API.example.com.", 300, "a.cdn.example."),
        alias("a.cdn.example.", 20, "b.cdn.example."),
        address(API, 60, "203.0.113.67"),
        address("b.cdn.example.", 60, "203.0.113.1"),
        address("b.cdn.example.", 60, "2001:db8:1::1"),
        address("b.cdn.example.", 60, "203.0.113.2"),
    ];
    let filtered = bench.answers(&answers);
    assert_eq!(leased(&filtered), ["203.0.113.1", "203.0.113.2"]);
    let lease = &filtered.leases[0];
    assert_eq!(
        (&*lease.name, &*lease.hosts[0]),
        ("api.example.com", "api.example.com")
    );
    assert_eq!(lease.answer.ttl, Duration::from_secs(20));
    assert_eq!(filtered.keep, Duration::from_secs(20));
    assert_eq!(
        bench.given(&answers),
        [
            "api.example.com. 300 a.cdn.example.",
            "a.cdn.example. 20 b.cdn.example.",
            "b.cdn.example. 60 203.0.113.1",
            "b.cdn.example. 60 203.0.113.2",
        ]
    );
}

#[test]
fn a_chain_of_sixteen_is_followed_and_a_longer_one_or_a_loop_ends() {
    let bench = Bench::new(RecordType::A);
    let chain = |length: usize| {
        let link = |n: usize| {
            if n == 0 {
                API.to_owned()
            } else {
                format!("n{n}.example.")
            }
        };
        let mut records: Vec<_> = (0..length)
            .map(|n| alias(&link(n), 60, &link(n + 1)))
            .collect();
        records.push(address(&link(length), 60, "203.0.113.1"));
        leased(&bench.answers(&records)).len()
    };
    assert_eq!([chain(8), chain(16), chain(17)], [1, 1, 0]);
    let ring = [alias(API, 60, "a.example."), alias("a.example.", 60, API)];
    assert!(leased(&bench.answers(&ring)).is_empty());
}

#[test]
fn addresses_that_are_not_public_are_left_out_and_the_setting_is_named() {
    let mut bench = Bench::new(RecordType::A);
    let answers = [
        address(API, 60, "10.1.2.3"),
        address(API, 60, "203.0.113.1"),
        address(API, 60, "169.254.169.254"),
    ];
    let filtered = bench.answers(&answers);
    assert_eq!(leased(&filtered), ["203.0.113.1"]);
    assert!(!filtered.nothing_left);
    let told = filtered.denied[0].to_string();
    assert!(
        told.contains("privateAnswers: ['api.example.com=10.0.0.0/8']"),
        "{told}"
    );

    let only = bench.answers(&answers[2..]);
    assert_eq!(
        (only.content.code(), leased(&only)),
        (ResponseCode::NoError, Vec::new())
    );
    assert!(only.nothing_left);
    assert_eq!(only.denied[0].code(), "dns-not-public");
    let told = only.denied[0].to_string();
    assert!(told.contains("169.254.169.254/32"), "{told}");

    bench.leases.private_answers = vec![PrivateAnswers {
        host: Some("api.example.com".into()),
        network: "10.0.0.0/8".parse().unwrap(),
    }];
    assert_eq!(
        leased(&bench.answers(&answers)),
        ["10.1.2.3", "203.0.113.1"]
    );
}

#[test]
fn an_answer_of_which_nothing_is_left_is_kept_for_a_short_time_by_the_agents_own_record() {
    let bench = Bench::new(RecordType::A);
    let answers = [
        alias(API, 0, "db.cdn.example."),
        address("db.cdn.example.", 0, "10.1.2.3"),
    ];
    let filtered = bench.answers(&answers);
    assert_eq!(filtered.keep, Duration::from_secs(5));
    let given = bench.reply(&filtered);
    assert_eq!(given.answers.len(), 1, "{given:?}");
    let soa = &given.authorities[0];
    assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5));
    assert_eq!(soa.name, name("cdn.example."));
}

#[test]
fn forms_that_hide_an_inside_address_are_judged_by_it() {
    let bench = Bench::new(RecordType::AAAA);
    for ip in [
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::a00:1",
        "::1",
        "fe80::1",
    ] {
        let filtered = bench.answers(&[address(API, 60, ip)]);
        assert!(filtered.leases.is_empty() && filtered.nothing_left, "{ip}");
        assert!(bench.given(&[address(API, 60, ip)]).is_empty(), "{ip}");
    }
    let public = bench.answers(&[address(API, 60, "64:ff9b::cb00:7101")]);
    assert_eq!(
        leased(&public),
        ["203.0.113.1"],
        "the form that the kernel looks up"
    );
}

#[test]
fn a_full_name_gets_no_more_addresses_than_leases() {
    let mut bench = Bench::new(RecordType::A);
    bench.leases.max_addresses = 2;
    let answers: Vec<_> = (1..6)
        .map(|n| address(API, 60, &format!("203.0.113.{n}")))
        .collect();
    let filtered = bench.answers(&answers);
    assert_eq!(leased(&filtered).len(), 2);
    assert_eq!(filtered.denied, [Reason::TooManyAddresses(2)]);
    assert_eq!(bench.given(&answers).len(), 2);
}

#[test]
fn times_have_a_ceiling_and_negative_ones_are_zero() {
    let bench = Bench::new(RecordType::A);
    let given = |ttl| {
        bench
            .answers(&[address(API, ttl, "203.0.113.1")])
            .keep
            .as_secs()
    };
    assert_eq!(
        [given(0), given(7), given(86_400), given(u32::MAX)],
        [0, 7, 3600, 0]
    );
}

#[test]
fn negative_answers_keep_the_record_of_their_zone() {
    let bench = Bench::new(RecordType::A);
    let with = |zone: &str, code| {
        let mut message = message(&bench.asked, &[]);
        message.metadata.response_code = code;
        let soa = SOA::new(name("ns.example."), name("a.example."), 1, 2, 3, 4, 60);
        message.add_authority(Record::from_rdata(name(zone), 900, RData::SOA(soa)));
        let filtered = bench.filter(&message).unwrap();
        let zones = bench.reply(&filtered).authorities.len();
        (filtered.content.code(), zones, filtered.keep.as_secs())
    };
    assert_eq!(
        with("example.com.", ResponseCode::NXDomain),
        (ResponseCode::NXDomain, 1, 60)
    );
    assert_eq!(
        with("example.com.", ResponseCode::NoError),
        (ResponseCode::NoError, 1, 60)
    );
    assert_eq!(
        with("evil.example.", ResponseCode::NXDomain),
        (ResponseCode::NXDomain, 0, 0)
    );
}

#[test]
fn what_is_not_the_answer_is_not_used() {
    let bench = Bench::new(RecordType::A);
    let good = message(&bench.asked, &[address(API, 60, "203.0.113.1")]);
    let changed = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        bench.filter(&message).unwrap_err()
    };
    assert_eq!(changed(|m| m.queries.clear()), BadAnswer::Another);
    assert_eq!(
        changed(|m| m.metadata.message_type = MessageType::Query),
        BadAnswer::Another
    );
    let other = |m: &mut Message| {
        m.queries[0].set_name(name("b.example."));
    };
    assert_eq!(changed(other), BadAnswer::Another);
    let kind = |m: &mut Message| {
        m.queries[0].set_query_type(RecordType::AAAA);
    };
    assert_eq!(changed(kind), BadAnswer::Another);
    assert_eq!(
        changed(|m| m.metadata.truncation = true),
        BadAnswer::Truncated
    );
    let failed = |m: &mut Message| m.metadata.response_code = ResponseCode::ServFail;
    assert_eq!(changed(failed), BadAnswer::Code(ResponseCode::ServFail));
    let forward = decided(bench.directory, &bench.asked);
    let garbage = filter(
        listing(bench.directory),
        &bench.leases,
        &bench.asked,
        &forward,
        b"x",
    );
    assert_eq!(garbage, Err(BadAnswer::Malformed));
}

/// Owners near the question and far from it.
fn owners() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(API),
        Just("API.Example.com."),
        Just("a.cdn.example."),
        Just("b.cdn.example."),
        Just("evil.example.")
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let v4 = prop_oneof![
        any::<u32>(),
        Just(0x0a00_0001),
        Just(0x7f00_0001),
        Just(0xa9fe_a9fe)
    ];
    let v6 = prop_oneof![
        any::<u128>(),
        any::<u32>().prop_map(|n| 0xffff_u128 << 32 | u128::from(n))
    ];
    let data = prop_oneof![
        v4.prop_map(|n| RData::A(A(n.into()))),
        v6.prop_map(|n| RData::AAAA(AAAA(n.into()))),
        owners().prop_map(|to| RData::CNAME(CNAME(name(to)))),
        (any::<u32>(), owners(), 0_u16..3).prop_map(|(n, to, priority)| {
            let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A(n.into())]));
            let params = vec![(SvcParamKey::Ipv4Hint, hint)];
            RData::HTTPS(HTTPS(SVCB::new(priority, name(to), params)))
        }),
    ];
    (owners(), any::<u32>(), data)
        .prop_map(|(owner, ttl, data)| Record::from_rdata(name(owner), ttl, data))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_address_without_a_lease_reaches_a_client(
        answers in prop::collection::vec(records(), 0..12),
        kind in prop_oneof![Just(RecordType::A), Just(RecordType::AAAA), Just(RecordType::HTTPS), Just(RecordType::CNAME)],
    ) {
        let bench = Bench::new(kind);
        let filtered = bench.answers(&answers);
        let leases: Vec<IpAddr> = filtered.leases.iter().flat_map(|l| l.answer.addresses.clone()).collect();
        for ip in &leases {
            prop_assert!(!bench.leases.leaves_out("api.example.com", *ip));
        }
        for record in bench.reply(&filtered).all_sections() {
            let ip = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                RData::HTTPS(binding) => {
                    for (_, value) in &binding.svc_params {
                        let hint = matches!(value, SvcParamValue::Ipv4Hint(_) | SvcParamValue::Ipv6Hint(_));
                        prop_assert!(!hint);
                    }
                    continue;
                }
                _ => continue,
            };
            prop_assert!(leases.contains(&IpAddr::from(Addr::from(ip).canonical())), "{ip}");
        }
    }
}
