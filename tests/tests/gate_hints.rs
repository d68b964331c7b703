//! The log line of a denial says what to change.

use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::rules::{ECHO, GOOGLE_ENTRY};
use egress_tests::{Lab, wait_until};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_denied_address_that_is_not_public_names_its_host_and_the_setting_in_log_and_status() {
    let mut lab = Lab::start_with(LabOptions::flags(&["--allow-private-answers=false"])).unwrap();
    let private: IpAddr = "10.9.8.7".parse().unwrap();
    lab.dns.set("echo.example", &[private], 30);
    lab.rules("echo.yaml", ECHO).unwrap();
    let answer = lab.attempt("tcp", SocketAddr::new(private, 7)).unwrap();
    assert_eq!(answer.errno, Some(libc::EPERM));
    let denied = |line: &str| line.contains("denied") && line.contains("10.9.8.7:7");
    let agent = lab.agent().unwrap();
    let line = agent.wait_line(0, SOON, "the denial", denied).unwrap();
    for part in [
        "echo.example lists port 7",
        "allowPrivateAnswers",
        r#"names="echo.example""#,
    ] {
        assert!(line.contains(part), "{line}");
    }
    let failing = lab.status().unwrap()["rules"]["failing"].to_string();
    assert!(
        failing.contains("10.9.8.7") && failing.contains("allowPrivateAnswers"),
        "{failing}"
    );
}

#[test]
fn a_private_network_that_is_accepted_for_one_host_lists_its_addresses_alone() {
    let lab = Lab::start_with(LabOptions::flags(&[
        "--allow-private-answers=false",
        "--private-answer=echo.example=10.9.8.0/24",
    ]))
    .unwrap();
    let near: IpAddr = "10.9.8.7".parse().unwrap();
    let far: IpAddr = "10.9.9.7".parse().unwrap();
    lab.dns.set("echo.example", &[near, far], 30);
    lab.dns.set("www.google.com", &[near], 30);
    lab.rules("echo.yaml", ECHO).unwrap();
    lab.rules("google.yaml", GOOGLE_ENTRY).unwrap();
    let errno = |ip, port| lab.attempt("tcp", SocketAddr::new(ip, port)).unwrap().errno;
    // The gate allows it, but the node has no route.
    assert_eq!(errno(near, 7), Some(libc::ENETUNREACH));
    assert_eq!(errno(far, 7), Some(libc::EPERM));
    assert_eq!(errno(near, 443), Some(libc::EPERM));
}

#[test]
fn a_private_network_that_is_accepted_no_more_is_denied_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    fs::write(&file, "privateAnswers: ['echo.example=10.9.8.0/24']\n").unwrap();
    let flags = [
        "--allow-private-answers=false",
        "--config",
        file.to_str().unwrap(),
    ];
    let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let private: IpAddr = "10.9.8.7".parse().unwrap();
    lab.dns.set("echo.example", &[private], 30);
    lab.rules("echo.yaml", ECHO).unwrap();
    let errno = || {
        lab.attempt("tcp", SocketAddr::new(private, 7))
            .unwrap()
            .errno
    };
    // The gate allows it, but the node has no route.
    assert_eq!(errno(), Some(libc::ENETUNREACH));
    for (accepted, want) in [
        ("[]", libc::EPERM),
        ("['echo.example=10.9.8.7/32']", libc::ENETUNREACH),
    ] {
        fs::write(&file, format!("privateAnswers: {accepted}\n")).unwrap();
        wait_until(accepted, SOON, || (errno() == Some(want)).then_some(())).unwrap();
    }
}

#[test]
fn a_denied_address_of_a_port_whose_host_rotates_names_the_setting() {
    let mut lab = Lab::start().unwrap();
    lab.dns.set("www.google.com", &[v4(host::GOOGLE)], 1);
    lab.rules("google.yaml", GOOGLE_ENTRY).unwrap();
    let asked = || {
        let queries = lab.dns.queries();
        queries
            .iter()
            .filter(|(name, _)| name == "www.google.com")
            .count()
    };
    for last in 101..=104 {
        lab.dns.set("www.google.com", &[v4(last)], 1);
        let before = asked();
        // A and AAAA.
        wait_until("it is asked again", SOON, || {
            (asked() >= before + 2).then_some(())
        })
        .unwrap();
    }
    let mut last = 200;
    let hint = wait_until("a denial has a hint", SOON, || {
        // Each denial has another address, because a repetition within a second would only be counted.
        last += 1;
        let mark = lab.agent().unwrap().mark();
        let other = SocketAddr::new(v4(last), 443);
        lab.attempt("tcp", other).unwrap();
        let denied = |line: &str| line.contains("denied") && line.contains(&other.to_string());
        let agent = lab.agent().unwrap();
        let line = agent.wait_line(mark, SOON, "the denial", denied).unwrap();
        line.contains("unlistedAddress: byName").then_some(line)
    })
    .unwrap();
    assert!(
        hint.contains("port 443 is listed for www.google.com"),
        "{hint}"
    );
}

#[test]
fn a_tls_route_to_nothing_registered_is_the_reason() {
    let mut lab = Lab::start().unwrap();
    lab.rules("google.yaml", GOOGLE_ENTRY).unwrap();
    let route = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: away}
spec:
  hosts: [www.google.com]
  tls:
  - match: [{port: 443, sniHosts: [www.google.com]}]
    route: [{destination: {host: gone.example}}]
";
    lab.rules("route.yaml", route).unwrap();
    let reply = lab.curl(&["https://www.google.com/"]).unwrap();
    assert_ne!(reply.exit, 0, "{reply:?}");
    let agent = lab.agent().unwrap();
    let told =
        |line: &str| line.contains("the route leads to gone.example, which is not registered");
    agent.wait_line(0, SOON, "the reason", told).unwrap();
}
