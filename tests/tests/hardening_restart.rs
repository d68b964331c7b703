//! The gate while the agent repeatedly restarts, is killed, is stopped, is upgraded and runs out of memory, under load.
//!
//! `EGRESS_HARDENING_SECONDS` sets the duration (60 if not set; published figures are for 600).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4};
use egress_tests::memory::MemoryLimit;
use egress_tests::upgrade::upgrade;
use egress_tests::{Lab, steady};
use rustix::process::Signal;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

/// How long the agent may take until it needs more memory than it may have.
const KILLED_WITHIN: Duration = Duration::from_secs(20);

fn seconds() -> u64 {
    env::var("EGRESS_HARDENING_SECONDS").map_or(60, |s| s.parse().unwrap())
}

/// SIGSTOP, SIGCONT. Meanwhile the kernel continues to decide by itself.
fn stopped_for_a_while(lab: &mut Lab) {
    lab.agent().unwrap().signal(Signal::STOP).unwrap();
    let (direct, unlisted) = (
        SocketAddr::new(v4(host::ECHO), 7),
        SocketAddr::new(v4(host::BYSTANDER), 80),
    );
    for _ in 0..20 {
        assert!(lab.attempt("tcp-echo", direct).unwrap().passed());
        assert!(lab.attempt("tcp", unlisted).unwrap().denied());
    }
    lab.agent().unwrap().signal(Signal::CONT).unwrap();
}

/// The kernel's OOM killer ends the agent.
fn out_of_memory(lab: &mut Lab, memory: &MemoryLimit) {
    let before = memory.kills().unwrap();
    memory.lower(lab.agent().unwrap().pid()).unwrap();
    // Files with 12 MiB of comments for an agent that still lives, because reading them needs memory.
    let large = [
        "large-1.yaml",
        "large-2.yaml",
        "large-3.yaml",
        "large-4.yaml",
    ];
    for name in large {
        lab.write_rules(name, &"#".repeat(3 << 20)).unwrap();
    }
    let ended = lab.agent().unwrap().wait_end(KILLED_WITHIN).unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGKILL), "{ended}");
    // A running canary may end with it.
    assert!(
        memory.kills().unwrap() > before,
        "nobody was killed for memory"
    );
    for name in large {
        fs::remove_file(lab.rules_dir().join(name)).unwrap();
    }
    memory.lift().unwrap();
}

#[test]
fn nothing_leaks_and_no_direct_flow_is_denied_whatever_happens_to_the_agent() {
    let mut lab = Lab::start().unwrap();
    let load = steady::start(&lab).unwrap();
    let memory = MemoryLimit::around(lab.agent_place().cgroup.unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut rounds = 0_u32;
    while Instant::now() < end {
        lab.agent().unwrap().terminate().unwrap();
        lab.start_agent().unwrap();
        lab.agent().unwrap().kill().unwrap();
        lab.start_agent().unwrap();
        stopped_for_a_while(&mut lab);
        upgrade(&mut lab).unwrap();
        out_of_memory(&mut lab, &memory);
        lab.start_agent().unwrap();
        rounds += 1;
    }
    let counts = load.stop().unwrap();
    println!(
        "{rounds} restarts, kills, stops, upgrades and ends by OOM each in {} s",
        seconds()
    );
    for (name, n) in &counts {
        println!("  {name:<24} {n}");
    }
    assert!(rounds > 0);
    steady::assert_held(&lab, &counts);
}
