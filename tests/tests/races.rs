//! Threads share sockets: whatever they do at the same time, nothing arrives at an unlisted destination.
//!
//! `EGRESS_RACE_SECONDS` is the duration of each of the eight runs (3 if not set).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::beside;
use egress_tests::hosts::Echo;
use egress_tests::lab::{v4, v6};
use egress_tests::{Lab, client, wait_until};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const ALPHA: u8 = 41;
const BETA: u8 = 42;
const GAMMA: u8 = 43;

/// Listed are datagrams to alpha:1001 and beta:1002, streams to alpha:1002 without the proxy, and streams to beta:1001
/// through the proxy. Datagrams to alpha:1002 and beta:1001 would be mixtures of listed destinations. Nothing of gamma
/// is listed.
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: alpha}
spec:
  hosts: [alpha.example]
  ports:
  - {number: 1001, name: udp-one, protocol: UDP}
  - {number: 1002, name: tcp-two, protocol: TCP}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: beta}
spec:
  hosts: [beta.example]
  ports:
  - {number: 1002, name: udp-two, protocol: UDP}
  - {number: 1001, name: tls-one, protocol: TLS}
  resolution: DNS
";

fn seconds() -> u64 {
    std::env::var("EGRESS_RACE_SECONDS").map_or(3, |text| text.parse().unwrap())
}

struct Hosts {
    listed: Vec<(&'static str, Echo)>,
    unlisted: Vec<(&'static str, Echo)>,
}

#[test]
fn threads_that_share_sockets_reach_nothing_that_is_unlisted() {
    let lab = Lab::start().unwrap();
    let echo = |last, port| lab.world().echo(&[v4(last), v6(last)], port).unwrap();
    let hosts = Hosts {
        listed: vec![
            ("alpha:1001", echo(ALPHA, 1001)),
            ("beta:1002", echo(BETA, 1002)),
        ],
        unlisted: vec![
            ("alpha:1002", echo(ALPHA, 1002)),
            ("beta:1001", echo(BETA, 1001)),
            ("gamma:1001", echo(GAMMA, 1001)),
            ("gamma:1002", echo(GAMMA, 1002)),
        ],
    };
    for (name, last) in [("alpha.example", ALPHA), ("beta.example", BETA)] {
        lab.dns.set(name, &[v4(last), v6(last)], 30);
    }
    lab.rules("rules.yaml", RULES).unwrap();
    for (last, port) in [(ALPHA, 1001), (BETA, 1002)] {
        wait_until("the rules are in force", Duration::from_secs(5), || {
            let answer = lab.attempt("udp", SocketAddr::new(v4(last), port)).unwrap();
            answer.passed().then_some(())
        })
        .unwrap();
    }
    let (home4, home6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let mut arrived = Vec::new();
    for (family, at) in [
        ("IPv4", v4 as fn(u8) -> IpAddr),
        ("IPv6", v6 as fn(u8) -> IpAddr),
    ] {
        let home = if family == "IPv4" { home4 } else { home6 };
        let name = |ip, port| SocketAddr::new(ip, port).to_string();
        let everything = [home, at(ALPHA), at(BETA), at(GAMMA)];
        let everything = everything
            .map(|ip| [name(ip, 1001), name(ip, 1002)])
            .concat();
        // The sockets are connected to the destination of a listed stream. A port of this node and a listed address mix
        // to it.
        let duel = vec![
            "--connect".to_owned(),
            name(at(ALPHA), 1002),
            name(home, 1002),
            name(at(ALPHA), 1001),
        ];
        for (what, to) in [("everything", everything), ("duel", duel)] {
            for nobody in [true, false] {
                let before: usize = hosts.listed.iter().map(|(_, e)| e.datagrams()).sum();
                let mut command = lab
                    .client_place()
                    .command(beside("races").unwrap())
                    .unwrap();
                command.args(["--seconds", &seconds().to_string()]);
                if nobody {
                    command.arg("--nobody");
                }
                command.args(&to);
                let ended = client::run(command, Duration::from_secs(seconds() + 30)).unwrap();
                assert_eq!(ended.exit, 0, "{}", ended.stderr);
                let after: usize = hosts.listed.iter().map(|(_, e)| e.datagrams()).sum();
                let who = if nobody { "nobody" } else { "root" };
                println!(
                    "{family}, {what}, as {who}: {} listed {}",
                    ended.stdout.trim(),
                    after - before
                );
                assert!(
                    after > before,
                    "nothing listed arrives: the race proves nothing"
                );
                for (host, echo) in &hosts.unlisted {
                    arrived.push((family, what, who, *host, echo.datagrams()));
                }
            }
        }
    }
    let leaked: Vec<_> = arrived.iter().filter(|(.., count)| *count > 0).collect();
    println!("unlisted datagrams so far, by run: {leaked:?}");
    // Unlisted streams, and one whose name the proxy never learnt.
    for (host, echo) in hosts.listed.iter().chain(&hosts.unlisted[1..]) {
        assert_eq!(echo.connections(), 0, "streams to {host}");
    }
    assert!(leaked.is_empty(), "{leaked:?}");
}
