//! Redirected flows arrive at their clients' destinations, and nowhere else.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, client, pinned, wait_until};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BUSY: &str = env!("CARGO_BIN_EXE_busy");
/// Enough hosts that the proxy's connections to one of them never run out of ports.
const HOSTS: std::ops::Range<u8> = 100..140;
const CONNECTS: usize = 10_000;

/// One host with every address of both families. With resolution NONE the proxy dials the client's destination, so the
/// origin shows which destination the proxy used.
fn many(addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: many}\nspec:\n  \
         hosts: [many.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  \
         resolution: NONE\n  addresses:\n",
    );
    for address in addresses {
        writeln!(text, "  - '{address}'").unwrap();
    }
    text
}

fn mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(v4.to_ipv6_mapped().into()),
        IpAddr::V6(_) => None,
    }
}

#[test]
fn ten_thousand_connects_with_ports_reused_each_reach_their_own_destination() {
    let mut lab = Lab::without_agent(egress_tests::LabOptions::default()).unwrap();
    let addresses: Vec<IpAddr> = HOSTS.flat_map(|last| [v4(last), v6(last)]).collect();
    let origin = lab.world().http(&addresses, 80).unwrap();
    // Eight clients share 400 ports for 10 000 connections to the one address of the proxy.
    lab.node()
        .sysctl("ipv4/ip_local_port_range", "40000 40399")
        .unwrap();
    lab.node().sysctl("ipv4/tcp_tw_reuse", "1").unwrap();
    lab.write_rules("many.yaml", &many(&addresses)).unwrap();
    lab.start_agent().unwrap();

    let mut arguments = vec!["hammer".to_owned(), "--host".into(), "many.example".into()];
    arguments.extend([
        "--count".into(),
        CONNECTS.to_string(),
        "--threads".into(),
        "8".into(),
    ]);
    let dialled = addresses
        .iter()
        .copied()
        .chain(addresses.iter().filter_map(|a| mapped(*a)));
    arguments.extend(dialled.map(|ip| SocketAddr::new(ip, 80).to_string()));
    let mut command = lab.command(BUSY).unwrap();
    command.args(&arguments);
    let report = client::run(command, Duration::from_mins(3)).unwrap();
    println!("{} {}", report.stdout.trim(), report.stderr.trim());

    let wrong: Vec<_> = origin
        .requests()
        .into_iter()
        .filter_map(|seen| {
            let dialled: IpAddr = seen.target.split_once("dialled=")?.1.parse().ok()?;
            let attempt = seen.header("x-envoy-attempt-count").map(str::to_owned);
            (dialled.to_canonical() != seen.local.ip().to_canonical())
                .then_some((dialled, seen.local, attempt))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} at the wrong address, first {:?}",
        wrong.len(),
        wrong.first()
    );
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(
        report["ok"].as_u64().unwrap() + report["reset"].as_u64().unwrap(),
        CONNECTS as u64
    );
    wait_until(
        "no handshake is left in the flow table",
        Duration::from_secs(5),
        || (pinned::flows(lab.bpf_dir()).unwrap() == 0).then_some(()),
    )
    .unwrap();
}

#[test]
fn the_agents_own_connects_are_not_redirected_into_itself() {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for address in [v4(host::HTTPBIN), v6(host::HTTPBIN)] {
        let before = lab.httpbin.connections();
        for _ in 0..20 {
            let resolve = format!("httpbin.org:80:{address}");
            let reply = lab
                .curl(&["--resolve", &resolve, "http://httpbin.org/get"])
                .unwrap();
            assert_eq!(reply.code, 200, "{reply:?}");
        }
        // If a connect of the agent came back to the agent, there would be a second hop in the sidecar's headers, or a
        // connection that never reaches the origin.
        assert_eq!(lab.httpbin.connections() - before, 20);
        let seen = lab.httpbin.last_request().unwrap();
        assert_eq!(seen.header("x-envoy-attempt-count"), Some("1"));
        assert!(!seen.peer.ip().is_loopback(), "{}", seen.peer);
    }
    // From the agent's own cgroup, the same destination is reached without the proxy.
    let url = format!("http://{}/get", v4(host::HTTPBIN));
    let reply = client::curl(&lab.agent_place(), &[&url]).unwrap();
    assert_eq!(reply.code, 200, "{reply:?}");
    assert_eq!(
        lab.httpbin
            .last_request()
            .unwrap()
            .header("x-envoy-attempt-count"),
        None
    );
}

#[test]
fn the_proxy_cannot_be_dialled_past_the_kernel() {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for target in [
        "127.0.0.1",
        "127.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "203.0.113.1",
        "0.0.0.0",
    ] {
        let reply = lab
            .curl(&[
                "-H",
                "Host: httpbin.org",
                &format!("http://{target}:15001/get"),
            ])
            .unwrap();
        assert!(reply.refused(), "{target}: {reply:?}");
    }
    // Outside the enforced cgroup nothing denies the connect, but the proxy closes connections without an origin.
    let reply = client::curl(
        &lab.agent_place(),
        &["-H", "Host: httpbin.org", "http://127.0.0.1:15001/get"],
    )
    .unwrap();
    assert!(reply.code == 0 && reply.exit != 0, "{reply:?}");
    assert_eq!(lab.httpbin.connections(), 0);
}

#[test]
fn a_redirected_socket_shows_where_it_was_going() {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for address in [v4(host::HTTPBIN), v6(host::HTTPBIN)] {
        let resolve = format!("httpbin.org:80:{address}");
        let reply = lab
            .curl(&["--resolve", &resolve, "http://httpbin.org/get"])
            .unwrap();
        assert_eq!(
            (reply.code, reply.remote.parse().ok()),
            (200, Some(address))
        );
    }
}
