//! Answers and resolver configurations that occur, but seldom: aliases of aliases, many addresses, answers over TCP only,
//! search lists, and name servers that are dead.

use crate::setting::{WILD, addresses, ask, ask_all, lab};
use egress_tests::hosts::Fault;
use egress_tests::lab::{host, v4};
use egress_tests::queries::NO_ERROR;
use egress_tests::rules::ECHO;
use egress_tests::{Lab, wait_until};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn echo_lab(flags: &[&str]) -> Lab {
    let lab = lab(flags);
    lab.rules("echo.yaml", ECHO).unwrap();
    lab
}

/// The addresses that a client gets over TCP, once the agent has those of the zone.
fn all(lab: &Lab, way: &str, expected: &[IpAddr]) -> Vec<IpAddr> {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let place = lab.client_place();
    let found = wait_until("all addresses", SOON, || {
        let mut found = addresses(&ask(&place, way, "echo.example", "192.0.2.1"));
        found.sort_unstable();
        (found == expected).then_some(found)
    });
    found.unwrap()
}

fn connects(lab: &Lab, to: IpAddr) {
    let answer = lab.attempt("tcp", SocketAddr::new(to, 7)).unwrap();
    // A host without a server refuses the connection, so the gate has let it out.
    assert!(
        matches!(answer.errno, None | Some(libc::ECONNREFUSED)),
        "{to}: {answer:?}"
    );
}

#[test]
fn a_chain_of_eight_aliases_leads_to_an_address_that_is_allowed() {
    let lab = echo_lab(&[]);
    let far = v4(140);
    lab.dns.set("a8.cdn.example", &[far], 1);
    for nth in (1..8).rev() {
        lab.dns.alias(
            &format!("a{nth}.cdn.example"),
            &format!("a{}.cdn.example", nth + 1),
            1,
        );
    }
    lab.dns.alias("echo.example", "a1.cdn.example", 1);
    lab.world().echo(&[far], 7).unwrap();
    let (answer, place) = (all(&lab, "connected", &[far]), lab.client_place());
    connects(&lab, answer[0]);
    // A client may follow the aliases itself. Other names beside them stay unlisted.
    lab.dns.set("b.cdn.example", &[far], 1);
    for (name, answered) in [("a8.cdn.example", true), ("b.cdn.example", false)] {
        let code = ask(&place, "connected", name, "192.0.2.1")["code"].clone();
        assert_eq!(code == NO_ERROR, answered, "{name}: {code}");
    }
}

#[test]
fn a_name_with_a_thousand_addresses_and_an_answer_of_40_kb_are_whole_over_tcp() {
    let lab = echo_lab(&[]);
    lab.node()
        .ip("route add 198.18.0.0/15 via 203.0.113.254")
        .unwrap();
    lab.outside()
        .ip("route add local 198.18.0.0/15 dev lo")
        .unwrap();
    let four = |n: u16| IpAddr::from([198, 18, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    let six = |n: u16| IpAddr::from([0x2001, 0xdb8, 2, 0, 1, 0, 0, n]);
    let every: [Vec<IpAddr>; 2] = [(0..1000).map(four).collect(), (0..1450).map(six).collect()];
    lab.dns.set("echo.example", &every.concat(), 5);
    for (every, way, kind, length) in [
        (&every[0], "ahostsv4", "A", 16_000),
        (&every[1], "ahostsv6", "AAAA", 40_000),
    ] {
        let found = all(&lab, &format!("tcp:{kind}"), every);
        let whole = ask(
            &lab.client_place(),
            &format!("tcp:{kind}"),
            "echo.example",
            "192.0.2.1",
        );
        assert!(
            whole["length"].as_u64() > Some(length),
            "{}",
            whole["length"]
        );
        // Every 100th address, and the last one, are allowed.
        for address in found.iter().step_by(100).chain(found.last()) {
            connects(&lab, *address);
        }
        let cut = ask(
            &lab.client_place(),
            &format!("connected:{kind}"),
            "echo.example",
            "192.0.2.1",
        );
        assert_eq!(cut["cut"], true, "{cut}");
        // glibc repeats the question over TCP by itself.
        let ended = lab.run("getent", &[way, "echo.example"]).unwrap();
        let lines = ended.stdout.lines();
        let lines: BTreeSet<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(lines.len(), every.len(), "{}", ended.stderr);
    }
}

#[test]
fn every_query_of_a_client_that_sends_many_over_one_connection_is_answered() {
    let lab = lab(&[]);
    lab.rules("wild.yaml", WILD).unwrap();
    lab.dns.set("one.wild.example", &[v4(host::ECHO)], 30);
    // The first of them wait for the same answer.
    lab.dns.fail(Fault::Late(Duration::from_millis(300)));
    let names = ["one.wild.example"];
    let answers = ask_all(&lab.client_place(), "pipelined", &names, "192.0.2.1");
    let ids: BTreeSet<u64> = answers.iter().filter_map(|a| a["id"].as_u64()).collect();
    assert_eq!(ids.len(), 200);
    assert!(answers.iter().all(|a| addresses(a) == [v4(host::ECHO)]));
}

#[test]
fn a_name_server_that_answers_over_tcp_only_is_asked_over_tcp() {
    let lab = lab(&[]);
    lab.dns.fail(Fault::Truncated);
    lab.rules("echo.yaml", ECHO).unwrap();
    let found = all(&lab, "connected", &[v4(host::ECHO)]);
    connects(&lab, found[0]);
}

#[test]
fn a_search_list_with_ndots_5_costs_no_query_and_no_line() {
    let domains = [
        "shop.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "corp.example",
    ];
    let flags = domains.map(|domain| format!("--dns-search={domain}"));
    let mut lab = echo_lab(&flags.each_ref().map(String::as_str));
    let servers = "nameserver 192.0.2.66\nnameserver 198.51.100.53\n";
    let text = format!(
        "search {}\noptions ndots:5 timeout:5\n{servers}",
        domains.join(" ")
    );
    std::fs::write(lab.resolver().path().join("resolv.conf"), text).unwrap();
    let mark = lab.agent().unwrap().mark();
    let mut shortest = Duration::MAX;
    for _ in 0..20 {
        let ended = lab.run("getent", &["ahosts", "echo.example"]).unwrap();
        assert!(ended.stdout.contains("198.51.100.30"), "{}", ended.stderr);
        shortest = shortest.min(ended.elapsed);
    }
    // The first server does not exist. Its timeout is 5 s.
    assert!(shortest < Duration::from_secs(5), "{shortest:?}");
    // A denial after them shows that the lines before it are written.
    let ended = lab.run("dig", &["+short", "unlisted.example"]).unwrap();
    assert_eq!(ended.stdout, "");
    let agent = lab.agent().unwrap();
    agent
        .wait_line(mark, SOON, "the denial", |line| {
            line.contains("\"unlisted.example\"")
        })
        .unwrap();
    let lines = agent.log_since(mark);
    let noise: Vec<&String> = lines
        .iter()
        .filter(|line| {
            line.contains("denied") && domains.iter().any(|domain| line.contains(domain))
        })
        .collect();
    assert!(noise.is_empty(), "{noise:#?}");
    let names: BTreeSet<String> = lab
        .dns
        .queries()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["echo.example"]);
}
