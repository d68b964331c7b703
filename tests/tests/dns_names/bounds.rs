//! What stays while names and addresses come and go: the addresses of idle connections.

use crate::setting::{lab, script};
use egress_tests::lab::{host, v4};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Background, Lab, wait_until};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Some times the grace of the first test.
const LATER: Duration = Duration::from_secs(40);

fn denied(lab: &Lab, to: IpAddr, port: u16) -> bool {
    lab.attempt("tcp", SocketAddr::new(to, port)).unwrap().errno == Some(libc::EPERM)
}

#[test]
fn a_pool_of_idle_connections_keeps_its_addresses_and_may_connect_again() {
    let lab = lab(&["--dns-min-ttl=1s", "--dns-grace=3s"]);
    let idle = [(v4(141), 7), (v4(142), 80)];
    let pool = [(v4(host::ECHO), 7), (v4(host::HTTPBIN), 80)];
    let zone = ["echo.example", "httpbin.org"];
    for (name, (used, unused)) in zone.iter().zip(pool.iter().zip(idle)) {
        lab.dns.set(name, &[used.0, unused.0], 1);
    }
    lab.rules("echo.yaml", ECHO).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for (to, port) in idle.into_iter().chain(pool) {
        wait_until("the address is allowed", SOON, || {
            (!denied(&lab, to, port)).then_some(())
        })
        .unwrap();
    }
    let mut command = lab.command("python3").unwrap();
    command.arg(script("pooled.py")).args([
        pool[0].0.to_string(),
        pool[1].0.to_string(),
        "httpbin.org".to_owned(),
    ]);
    let mut client = Background::start(command).unwrap();
    client
        .wait_line("both connections are open", SOON, |line| line == "idle")
        .unwrap();
    // The proxy dials the new address of a host, whichever one the client dialled.
    lab.world().http_as(&lab.httpbin, &[v4(144)], 80).unwrap();
    for (name, next) in zone.iter().zip([v4(143), v4(144)]) {
        lab.dns.set(name, &[next], 1);
    }
    // The time that the addresses have without connections.
    for (to, port) in idle {
        wait_until("an address that nobody uses has ended", LATER, || {
            denied(&lab, to, port).then_some(())
        })
        .unwrap();
    }
    client.say("go\n").unwrap();
    assert_eq!(client.end().unwrap(), json!([]), "what failed");
    for (to, port) in pool {
        wait_until("it ends after its last connection", LATER, || {
            denied(&lab, to, port).then_some(())
        })
        .unwrap();
    }
}
