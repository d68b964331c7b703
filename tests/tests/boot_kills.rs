//! The agent is killed repeatedly during reloads, with invalid objects among the rules.
//!
//! `EGRESS_KILLS` says how often (20 if not set).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4};
use egress_tests::{Lab, steady};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// Each has another error: an unknown field, a bad value, no YAML, an unknown kind.
const INVALID: [&str; 4] = [
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [bystander.example]\n  ports: [{number: 80, name: tcp, protocol: TCP}]\n  resolutoin: DNS\n",
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [bystander.example]\n  ports: [{number: 808080, name: tcp, protocol: TCP}]\n  resolution: DNS\n",
    "a: [b\n",
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntri\nmetadata: {name: bad}\nspec: {hosts: [bystander.example]}\n",
];

fn kills() -> usize {
    std::env::var("EGRESS_KILLS").map_or(20, |n| n.parse().unwrap())
}

#[test]
fn nothing_leaks_and_valid_rules_hold_while_the_agent_is_killed_in_reloads() {
    let mut lab = Lab::start().unwrap();
    let load = steady::start(&lab).unwrap();
    let kills = kills();
    for round in 0..kills {
        lab.write_rules("bad.yaml", INVALID[round % INVALID.len()])
            .unwrap();
        lab.write_rules("more.yaml", &format!("# round {round}\n"))
            .unwrap();
        // The times cover the change from before it is seen until after it is applied.
        std::thread::sleep(Duration::from_millis((round as u64 * 7) % 60));
        lab.agent().unwrap().kill().unwrap();
        if round % 5 == 4 {
            // The next agent finds no valid version of the object, and no file in the folder.
            fs::remove_file(lab.rules_dir().join("more.yaml")).unwrap();
        }
        lab.start_agent().unwrap();
        let to = SocketAddr::new(v4(host::ECHO), 7);
        assert!(
            lab.attempt("tcp-echo", to).unwrap().passed(),
            "round {round}"
        );
    }
    let counts = load.stop().unwrap();
    println!("{kills} kills: {counts:?}");
    steady::assert_held(&lab, &counts);
}
