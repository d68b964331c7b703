//! The gate from a client's point of view: listed and unlisted destinations.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, wait_until};
use std::net::SocketAddr;
use std::time::Duration;

/// A host whose TCP and UDP ports the kernel allows without the proxy.
const ECHO: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  ports:
  - {number: 7, name: tcp-echo, protocol: TCP}
  - {number: 9, name: udp-echo, protocol: UDP}
  resolution: DNS
";

fn both(last: u8, port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(v4(last), port),
        SocketAddr::new(v6(last), port),
    ]
}

/// Applies a rule and waits until a connect to `to` gets through.
fn list(lab: &Lab, name: &str, text: &str, to: &[SocketAddr]) {
    lab.write_rules(name, text).unwrap();
    for to in to {
        wait_until("the rule is in force", Duration::from_secs(3), || {
            lab.attempt("tcp", *to).unwrap().passed().then_some(())
        })
        .unwrap();
    }
}

#[test]
fn without_rules_every_way_out_is_denied_at_once() {
    let lab = Lab::start().unwrap();
    for to in both(host::ECHO, 7) {
        for way in ["tcp", "tcp-echo", "udp", "udp-connected"] {
            let answer = lab.attempt(way, to).unwrap();
            assert!(answer.denied(), "{way} {to}: {answer:?}");
            assert!(
                answer.elapsed < Duration::from_millis(50),
                "{way} {to}: {answer:?}"
            );
        }
    }
    assert_eq!((lab.echo.connections(), lab.echo.datagrams()), (0, 0));
}

#[test]
fn a_listed_port_passes_and_its_neighbours_and_the_other_protocol_do_not() {
    let lab = Lab::start().unwrap();
    list(&lab, "echo.yaml", ECHO, &both(host::ECHO, 7));
    // The listed address has a second port for UDP only.
    let udp = lab
        .world()
        .echo(&[v4(host::ECHO), v6(host::ECHO)], 9)
        .unwrap();
    for (way, port) in [("tcp-echo", 7), ("udp", 9), ("udp-connected", 9)] {
        for to in both(host::ECHO, port) {
            let answer = lab.attempt(way, to).unwrap();
            assert!(answer.passed(), "{way} {to}: {answer:?}");
        }
    }
    assert_eq!(udp.datagrams(), 4);
    for (way, port) in [("udp", 7), ("tcp", 9)] {
        for to in both(host::ECHO, port) {
            assert!(lab.attempt(way, to).unwrap().denied(), "{way} {to}");
        }
    }
    for to in both(host::ECHO, 8)
        .into_iter()
        .chain(both(host::BYSTANDER, 7))
    {
        assert!(lab.attempt("tcp", to).unwrap().denied(), "{to}");
        assert!(lab.attempt("udp", to).unwrap().denied(), "{to}");
    }
}
