//! The resolver against name servers of the test's own, on another node and on its own.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod server;

use egress_agent::dns::{NameServers, Resolver};
use egress_agent::sockets::SocketFactory;
use egress_core::policy::leases::Failure;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{RData, Record, RecordType};
use server::{Manner, Nodes, Server, Via, add, name};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn resolver(servers: &[&Server]) -> Resolver {
    let sockets = Arc::new(SocketFactory::new().unwrap());
    let servers: Vec<_> = servers.iter().map(|s| s.addr.into()).collect();
    Resolver::new(&NameServers::new(&servers, None, &sockets).unwrap())
}

async fn addresses(resolver: &Resolver, name: &str) -> Vec<String> {
    let answer = resolver.resolve(name).await.unwrap();
    answer.addresses.iter().map(ToString::to_string).collect()
}

fn no_records(to: &mut Message, code: ResponseCode) {
    to.metadata.response_code = code;
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 1, 1, 1, 7);
    to.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
}

fn zone(host: &str, kind: RecordType, via: Via, r: &mut Message) -> bool {
    match (host, kind) {
        ("both.example.", RecordType::A) => add(r, host, 60, "192.0.2.1"),
        ("both.example.", RecordType::AAAA) => add(r, host, 30, "2001:db8::1"),
        ("alias.example.", RecordType::A) => {
            r.add_answer(Record::from_rdata(
                name(host),
                9,
                RData::CNAME(CNAME(name("both.example."))),
            ));
            add(r, "both.example.", 60, "192.0.2.1");
            add(r, "stranger.example.", 60, "192.0.2.66");
        }
        // Answered by the alias alone, as some servers do: the resolver asks on.
        ("alias.example.", RecordType::AAAA) => {
            r.add_answer(Record::from_rdata(
                name(host),
                9,
                RData::CNAME(CNAME(name("both.example."))),
            ));
        }
        ("big.example.", RecordType::A) if via == Via::Udp => r.metadata.truncation = true,
        ("big.example.", RecordType::A) => {
            (1..=200).for_each(|n| add(r, host, 60, &format!("198.51.100.{n}")));
        }
        ("empty.example." | "big.example.", _) => no_records(r, ResponseCode::NoError),
        ("broken.example.", _) => r.metadata.response_code = ResponseCode::ServFail,
        _ => no_records(r, ResponseCode::NXDomain),
    }
    true
}

/// Less than a question waits for a silent server.
const LIMIT: Duration = Duration::from_millis(600);

const BOTH: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

#[test]
fn both_families_are_one_answer_with_the_smallest_ttl() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::Plain, zone);
        let resolver = resolver(&[&server]);
        for spelling in ["both.example", "both.example."] {
            assert_eq!(addresses(&resolver, spelling).await, BOTH, "{spelling}");
        }
        let answer = resolver.resolve("both.example").await.unwrap();
        assert_eq!(answer.ttl, Duration::from_secs(30));
        let asked = server.asked();
        assert!(
            asked
                .iter()
                .all(|one| one.name.eq_ignore_ascii_case("both.example.")),
            "no search domains: {asked:?}"
        );
        assert_eq!(server.ways(), (6, 0), "no cache between two: {asked:?}");
    });
}

#[test]
fn an_alias_is_followed_and_its_ttl_counts() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::Plain, zone);
        let resolver = resolver(&[&server]);
        assert_eq!(addresses(&resolver, "alias.example").await, BOTH);
        let answer = resolver.resolve("alias.example").await.unwrap();
        assert_eq!(answer.ttl, Duration::from_secs(9));
    });
}

#[test]
fn a_truncated_answer_is_asked_again_over_tcp() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::Plain, zone);
        let found = addresses(&resolver(&[&server]), "big.example").await;
        assert_eq!(found.len(), 200);
        assert_eq!(server.ways(), (2, 1), "{:?}", server.asked());
    });
}

#[test]
fn no_name_no_address_and_failure_are_told_apart() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::Plain, zone);
        let resolver = resolver(&[&server]);
        let none = resolver.resolve("none.example").await;
        assert_eq!(none, Err(Failure::NoSuchName));
        let empty = resolver.resolve("empty.example").await;
        assert_eq!(empty, Err(Failure::NoAddress));
        let failed = resolver.resolve("broken.example").await;
        assert!(
            matches!(&failed, Err(Failure::Failed(why)) if why.contains(&server.addr.to_string())),
            "{failed:?}"
        );
    });
}

#[test]
fn the_next_server_is_asked_where_one_fails_or_is_silent() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let failing = nodes.outside(0, Manner::Plain, |_, _, _, r| {
            r.metadata.response_code = ResponseCode::ServFail;
            true
        });
        let silent = nodes.outside(1, Manner::Plain, |_, _, _, _| false);
        let good = nodes.outside(2, Manner::Plain, zone);
        let resolver = resolver(&[&failing, &silent, &good]);
        assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        assert!(!silent.asked().is_empty());
    });
}

#[test]
fn a_silent_server_delays_one_question_and_is_asked_again_when_it_answers() {
    static SILENT: AtomicBool = AtomicBool::new(true);
    let nodes = Nodes::new();
    nodes.run(async || {
        let first = nodes.outside(0, Manner::Plain, |host, kind, via, r| {
            !SILENT.load(Ordering::SeqCst) && zone(host, kind, via, r)
        });
        let second = nodes.outside(1, Manner::Plain, zone);
        let resolver = resolver(&[&first, &second]);
        let begun = Instant::now();
        assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        assert!(begun.elapsed() < Duration::from_millis(1700));
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        }
        assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
        // One question in each pause tries it again.
        let (before, _) = first.ways();
        assert!(before <= 4, "{:?}", first.asked());
        SILENT.store(false, Ordering::SeqCst);
        let last = Instant::now() + Duration::from_secs(20);
        loop {
            let of_second = second.ways();
            assert_eq!(addresses(&resolver, "both.example").await, BOTH);
            if second.ways() == of_second {
                break;
            }
            assert!(Instant::now() < last, "the first server is not used again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(first.ways().0 > before);
    });
}

#[test]
fn each_question_has_a_port_and_an_upper_and_lower_case_of_its_own() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::Plain, zone);
        let resolver = resolver(&[&server]);
        for _ in 0..8 {
            assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        }
        let asked = server.asked();
        let ports: BTreeSet<u16> = asked.iter().map(|one| one.port).collect();
        let cases: BTreeSet<&str> = asked.iter().map(|one| one.name.as_str()).collect();
        // Two of 16 may be the same by chance: one of 64 000 ports, one of 2 048 cases.
        assert!(ports.len() >= 14, "{asked:?}");
        assert!(cases.len() >= 14, "{asked:?}");
    });
}

#[test]
fn after_three_wrong_answers_the_question_goes_over_tcp() {
    let nodes = Nodes::new();
    nodes.run(async || {
        for (nth, wrong, ways) in [(0, 2, (2, 0)), (1, 3, (2, 2)), (2, 100, (2, 2))] {
            let server = nodes.outside(nth, Manner::Guessed(wrong), zone);
            let resolver = resolver(&[&server]);
            assert_eq!(addresses(&resolver, "both.example").await, BOTH, "{wrong}");
            assert_eq!(server.ways(), ways, "{wrong} wrong answers came first");
        }
    });
}

#[test]
fn an_answer_from_another_port_of_the_server_is_not_one() {
    let nodes = Nodes::new();
    nodes.run(async || {
        for nth in [0, 2] {
            let server = nodes.outside(nth, Manner::Elsewhere(100), zone);
            let resolver = resolver(&[&server]);
            assert_eq!(addresses(&resolver, "both.example").await, BOTH);
            assert_eq!(server.ways(), (2, 0), "the kernel drops them");
        }
    });
}

#[test]
fn a_server_that_does_not_keep_the_case_is_asked_over_tcp_from_then_on() {
    let nodes = Nodes::new();
    nodes.run(async || {
        let server = nodes.outside(0, Manner::LowerCase, zone);
        let resolver = resolver(&[&server]);
        assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        let (udp, _) = server.ways();
        assert!(udp > 0);
        assert_eq!(addresses(&resolver, "both.example").await, BOTH);
        assert_eq!(server.ways(), (udp, 4));
    });
}

#[test]
fn a_server_on_this_node_is_asked_over_tcp_alone() {
    let nodes = Nodes::new();
    nodes.run(async || {
        for at in [
            "127.0.0.53:53",
            "[::1]:53",
            "203.0.113.1:53",
            "[2001:db8:1::1]:53",
        ] {
            let at = at.parse().unwrap();
            let server = Server::start(&nodes.node, at, Manner::Plain, zone);
            let resolver = resolver(&[&server]);
            assert_eq!(addresses(&resolver, "both.example").await, BOTH, "{at}");
            assert_eq!(server.ways(), (0, 2), "{at}");
        }
    });
}
