//! Queries of workloads go to the agent, whichever server they ask: over UDP and TCP, connected and not, IPv4 and IPv6. The
//! client sees the answer from the server that it asked.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Fault;
use egress_tests::lab::{LabOptions, host, v4, v6};
use egress_tests::queries::{self, NO_ERROR, REFUSED, SERVER_FAILURE};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Lab, pinned, wait_until};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Names that workloads learn by themselves.
const BELOW: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: below}
spec:
  hosts: ['*.below.example']
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
";

fn lab() -> Lab {
    let lab = Lab::start_with(LabOptions::flags(&["--dns-intercept=auto"])).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    lab
}

/// The answers that a client got.
fn ask(lab: &Lab, way: &str, name: &str, servers: &[&str]) -> Vec<Value> {
    queries::ask(&lab.client_place(), way, name, servers).unwrap()
}

fn addresses(answer: &Value) -> Vec<IpAddr> {
    queries::addresses(answer).unwrap()
}

#[test]
fn every_way_of_asking_gets_the_answer_from_the_server_that_was_asked() {
    let lab = lab();
    let mut wrong = Vec::new();
    for (way, servers) in [
        ("unconnected", vec!["198.51.100.53"]),
        ("unconnected", vec!["2001:db8:2::53"]),
        ("unconnected", vec!["::ffff:198.51.100.53"]),
        (
            "connected",
            vec!["198.51.100.53", "2001:db8:2::53", "::ffff:198.51.100.53"],
        ),
        ("connected", vec!["127.0.0.53", "::1", "192.0.2.1"]),
        (
            "unconnected",
            vec!["198.51.100.53", "192.0.2.7", "127.0.0.1"],
        ),
        (
            "unconnected",
            vec!["2001:db8:2::53", "2001:db8::7", "::1", "::ffff:192.0.2.1"],
        ),
        (
            "reused",
            vec![
                "192.0.2.1",
                "192.0.2.2",
                "192.0.2.3",
                "192.0.2.4",
                "192.0.2.5",
                "192.0.2.6",
            ],
        ),
        (
            "tcp",
            vec!["198.51.100.53", "2001:db8:2::53", "127.0.0.53", "192.0.2.7"],
        ),
    ] {
        let answers = ask(&lab, way, "httpbin.org", &servers);
        let each = match way {
            "reused" => 3,
            "tcp" => 2,
            _ => 1,
        };
        let mut from: Vec<&str> = answers
            .iter()
            .map(|a| a["from"].as_str().unwrap())
            .collect();
        let mut asked = servers.repeat(each);
        from.sort_unstable();
        asked.sort_unstable();
        let right = answers.iter().all(|answer| {
            answer["code"] == NO_ERROR
                && answer["port"] == 53
                && addresses(answer) == [v4(host::HTTPBIN)]
        });
        if from != asked || !right {
            wrong.push((way, servers, answers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (kind, ip) in [("A", v4(host::HTTPBIN)), ("AAAA", v6(host::HTTPBIN))] {
        let answers = ask(
            &lab,
            &format!("connected:{kind}"),
            "HTTPBin.org",
            &["192.0.2.9"],
        );
        assert_eq!(addresses(&answers[0]), [ip]);
    }
}

#[test]
fn a_name_that_no_rule_lists_is_denied_and_leaves_no_trace_at_any_server() {
    let lab = lab();
    let before = lab.dns.queries().len();
    for (way, kind) in [
        ("unconnected", "A"),
        ("connected", "AAAA"),
        ("tcp", "TXT"),
        ("connected", "NULL"),
        ("connected", "MX"),
        ("tcp", "HTTPS"),
    ] {
        for name in [
            "secret.evil.example",
            "SECRET.bystander.example",
            "a.httpbin.org",
        ] {
            for answer in ask(&lab, &format!("{way}:{kind}"), name, &["198.51.100.53"]) {
                assert_eq!(answer["code"], REFUSED, "{way} {kind} {name}");
            }
        }
    }
    let queries = lab.dns.queries();
    let strange = queries[before..]
        .iter()
        .filter(|(name, _)| !["httpbin.org", "echo.example"].contains(&name.as_str()));
    assert_eq!(strange.count(), 0, "{queries:?}");
    let status = lab.status().unwrap();
    assert!(
        status["agent"]["queriesDenied"].as_u64() >= Some(18),
        "{status}"
    );
}

#[test]
fn the_agents_own_ports_answer_nobody_who_was_not_redirected() {
    let lab = lab();
    let dialled = ask(&lab, "connected", "httpbin.org", &["192.0.2.9"]);
    assert_eq!(dialled[0]["code"], NO_ERROR);
    let ports = pinned::dns_ports(lab.bpf_dir()).unwrap();
    assert_eq!(ports.len(), 4);
    for port in ports {
        for at in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let answer = ask(&lab, "direct", "httpbin.org", &[at, &port.to_string()]);
            assert_eq!(answer[0]["errno"], libc::EPERM, "{at} {port}");
        }
    }
}

#[test]
fn real_resolvers_resolve_and_connect() {
    let lab = lab();
    for (program, arguments) in [
        ("getent", &["ahosts", "httpbin.org"][..]),
        ("busybox", &["nslookup", "httpbin.org"]),
        ("dig", &["+short", "httpbin.org", "A"]),
        ("dig", &["+short", "+tcp", "httpbin.org", "A"]),
    ] {
        let ended = lab.run(program, arguments).unwrap();
        let text = ended.stdout;
        assert!(
            text.contains("198.51.100.10"),
            "{program}: {text} {}",
            ended.stderr
        );
    }
    let reply = lab.curl(&["http://httpbin.org/get"]).unwrap();
    assert_eq!(reply.code, 200);
    assert!(
        !lab.run("getent", &["hosts", "evil.example"])
            .unwrap()
            .stdout
            .contains('.')
    );
}

#[test]
fn an_address_that_is_new_is_allowed_before_the_client_has_it() {
    let lab = lab();
    for round in 0..100_u8 {
        let new = IpAddr::from([198, 51, 100, 100 + round]);
        lab.world().echo(&[new], 7).unwrap();
        lab.dns.set("echo.example", &[new], 1);
        let answer = wait_until("the new address", Duration::from_secs(5), || {
            let answers = ask(&lab, "connected", "echo.example", &["192.0.2.1"]);
            (addresses(&answers[0]) == [new]).then_some(())
        });
        answer.unwrap();
        let tried = lab.attempt("tcp-echo", SocketAddr::new(new, 7)).unwrap();
        assert!(tried.passed(), "round {round}: {tried:?}");
    }
}

#[test]
fn while_no_server_answers_clients_get_the_addresses_that_are_leased() {
    let lab = lab();
    lab.dns.set("httpbin.org", &[v4(host::HTTPBIN)], 1);
    lab.rules("below.yaml", BELOW).unwrap();
    let before = ask(&lab, "connected", "a.below.example", &["192.0.2.9"]);
    assert_ne!(before[0]["code"], REFUSED, "{before:?}");
    let stale = || {
        lab.status().unwrap()["agent"]["queriesStale"]
            .as_u64()
            .unwrap()
    };
    for fault in [Fault::ServerFailure, Fault::Silent] {
        lab.dns.fail(fault);
        let before = stale();
        wait_until("the kept answer is over", Duration::from_secs(40), || {
            let answer = ask(&lab, "connected", "httpbin.org", &["192.0.2.9"]).remove(0);
            assert_eq!(answer["code"], NO_ERROR, "{answer}");
            assert_eq!(addresses(&answer), [v4(host::HTTPBIN)]);
            (stale() > before).then_some(())
        })
        .unwrap();
        let url = "http://httpbin.org/get";
        assert_eq!(lab.curl(&[url]).unwrap().code, 200);
    }
    // A name that the agent does not ask for by itself has no such answer.
    lab.dns.fail(Fault::ServerFailure);
    let answer = ask(&lab, "connected", "b.below.example", &["192.0.2.9"]);
    assert_eq!(answer[0]["code"], SERVER_FAILURE);
}

#[test]
fn while_the_first_server_is_silent_clients_get_the_answers_of_the_second() {
    let servers = [198, 199].map(v4).map(|ip| format!("--dns-server={ip}"));
    let flags = ["--dns-intercept=auto", &servers[0], &servers[1]];
    let mut lab = Lab::without_agent(LabOptions::flags(&flags)).unwrap();
    let [first, second] = [198, 199].map(|last| lab.world().dns(&[v4(last)]).unwrap());
    for dns in [&first, &second] {
        dns.set("echo.example", &[v4(100)], 1);
    }
    lab.start_agent().unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    first.fail(Fault::Silent);
    let mut slow = Vec::new();
    for last in 101..121 {
        second.set("echo.example", &[v4(last)], 1);
        wait_until("the new address", Duration::from_secs(10), || {
            let answer = ask(&lab, "connected", "echo.example", &["192.0.2.1"]).remove(0);
            assert_eq!(answer["code"], NO_ERROR, "{answer}");
            if answer["took"].as_u64() >= Some(600) {
                slow.push(answer.clone());
            }
            (addresses(&answer) == [v4(last)]).then_some(())
        })
        .unwrap();
    }
    // The agent's own questions and those for workloads find out separately that the server is silent.
    assert!(slow.len() <= 1, "{slow:#?}");
    assert_eq!(lab.status().unwrap()["agent"]["queriesStale"], 0);
}

#[test]
fn the_answer_that_comes_after_leased_addresses_is_kept() {
    let lab = lab();
    lab.dns.set("httpbin.org", &[v4(host::HTTPBIN)], 1);
    let counted = |what: &str| lab.status().unwrap()["agent"][what].as_u64().unwrap();
    let asked = || ask(&lab, "connected", "httpbin.org", &["192.0.2.9"]).remove(0);
    lab.dns.fail(Fault::Silent);
    wait_until("an answer from leases", Duration::from_secs(40), || {
        asked();
        (counted("queriesStale") > 0).then_some(())
    })
    .unwrap();
    // Answers at once while the name server is asked.
    let answer = asked();
    assert!(answer["took"].as_u64() < Some(600), "{answer}");
    let kept = || lab.status().unwrap()["dns"]["cacheBytes"].clone();
    let before = kept();
    lab.dns.set("httpbin.org", &[v4(100), v4(101)], 60);
    lab.dns.fail(Fault::None);
    // It has another size. The agent's own answers are not among those.
    wait_until("an answer that is kept", Duration::from_secs(10), || {
        (kept() != before).then_some(())
    })
    .unwrap();
    let before = counted("queriesForwarded");
    assert_eq!(addresses(&asked()), [v4(100), v4(101)]);
    assert_eq!(counted("queriesForwarded"), before);
}

#[test]
fn queries_for_a_name_with_private_addresses_alone_are_recorded_and_flood_nothing() {
    let flags = ["--dns-intercept=auto", "--allow-private-answers=false"];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    lab.rules("below.yaml", BELOW).unwrap();
    let name = "db.below.example";
    lab.dns.set(name, &["10.9.8.7".parse().unwrap()], 0);
    let mark = lab.agent().unwrap().mark();
    let answers = ask(
        &lab,
        "connected",
        &vec![name; 1000].join(","),
        &["192.0.2.9"],
    );
    assert_eq!(answers.len(), 1000);
    for answer in &answers {
        assert_eq!(answer["code"], NO_ERROR, "{answer}");
        // SOA.
        assert_eq!(answer["kinds"], serde_json::json!([6]), "{answer}");
    }
    let asked = lab.dns.queries();
    let asked = asked.iter().filter(|(other, _)| other == name).count();
    assert!(asked <= 20, "{asked} upstream questions");
    let lines = lab.agent().unwrap().log_since(mark);
    let own: Vec<_> = lines.iter().filter(|line| line.contains(name)).collect();
    assert!((1..=20).contains(&own.len()), "{} lines", own.len());
    for part in [
        "denied",
        "dns-not-public",
        "privateAnswers: ['db.below.example=10.0.0.0/8']",
        "workload",
    ] {
        assert!(own[0].contains(part), "{part}: {}", own[0]);
    }
    let denied = lab.status().unwrap()["agent"]["queriesDenied"].as_u64();
    assert!(denied >= Some(1), "{denied:?}");
}

#[test]
fn without_an_agent_queries_fail() {
    let mut lab = lab();
    lab.agent().unwrap().kill().unwrap();
    let arguments = ["connected", "httpbin.org", "198.51.100.53"];
    let ended = queries::python(&lab.client_place(), "dns.py", &arguments).unwrap();
    assert!(ended.stderr.contains("PermissionError"), "{}", ended.stderr);
    lab.start_agent().unwrap();
    assert_eq!(
        ask(&lab, "connected", "httpbin.org", &["192.0.2.9"])[0]["code"],
        NO_ERROR
    );
}
