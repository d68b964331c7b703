//! The privileges of the running agent follow its settings, and those of the unit in `deploy/systemd` are sufficient.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_agent::kernel;
use egress_tests::lab::{host, v4};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Lab, LabOptions, Load, wait_until};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Capabilities of every running agent; see `docs/privileges.md`.
const ALWAYS: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::DAC_READ_SEARCH);
/// Capabilities for other network namespaces.
const NAMESPACES: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE);

fn lab(flags: &[&str]) -> Lab {
    let lab = Lab::without_agent(LabOptions::flags(flags));
    let lab = lab.unwrap();
    lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    lab
}

/// A set of `/proc/PID/task/TID/status`, of every thread of the agent.
fn sets(lab: &mut Lab, name: &str) -> Vec<CapabilitySet> {
    let pid = lab.agent().unwrap().pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let set = |task: fs::DirEntry| {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let bits = u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap();
        Some(CapabilitySet::from_bits_retain(bits))
    };
    let found: Vec<_> = tasks.filter_map(|task| set(task.unwrap())).collect();
    assert!(found.len() > 2);
    found
}

fn serves_and_refuses(lab: &Lab, when: &str) {
    let listed = lab.curl(&["http://httpbin.org/get"]).unwrap();
    assert_eq!(listed.code, 200, "{when}: {listed:?}");
    let unlisted = lab.curl(&["https://bystander.example/"]).unwrap();
    assert!(unlisted.refused(), "{when}: {unlisted:?}");
}

#[test]
fn an_agent_that_enters_no_namespaces_keeps_nothing_to_enter_them_with() {
    let mut lab = lab(&["--enter-namespaces=false"]);
    lab.start_agent().unwrap();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        for set in sets(&mut lab, name) {
            assert_eq!(set, ALWAYS, "{name}");
        }
    }
    for set in sets(&mut lab, "CapInh") {
        assert!(set.is_empty());
    }
    serves_and_refuses(&lab, "given up");
}

#[test]
fn an_agent_that_enters_them_keeps_these_two_more_and_no_others() {
    let mut lab = lab(&[]);
    lab.start_agent().unwrap();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        for set in sets(&mut lab, name) {
            assert_eq!(set, ALWAYS | NAMESPACES, "{name}");
        }
    }
}

/// `CapabilityBoundingSet=` of the unit.
fn of_the_unit() -> CapabilitySet {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/egress-agent.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = unit
        .lines()
        .find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
    let named = |name: &str| {
        CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap()).expect("a capability")
    };
    line.unwrap().split_whitespace().map(named).collect()
}

/// Runs `work` so that programs that it executes have at most `set`, as in a unit.
fn below_a_unit<T: Send>(set: CapabilitySet, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for left_out in (CapabilitySet::all() - set).iter() {
                let bits = left_out.bits();
                if bits.is_power_of_two() {
                    // Capabilities that the kernel does not know do not exist anyway.
                    let _ = remove_capability_from_bounding_set(left_out);
                }
            }
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn what_the_unit_gives_is_enough_from_the_start_to_the_end() {
    let unit = of_the_unit();
    assert!(!unit.intersects(NAMESPACES), "{unit:?}");
    let mut lab = lab(&["--enter-namespaces=false", "--canary-interval", "1s"]);
    below_a_unit(unit, || lab.start_agent()).unwrap();
    for set in sets(&mut lab, "CapBnd") {
        assert_eq!(set - unit, CapabilitySet::empty());
    }
    serves_and_refuses(&lab, "started");

    // The running agent attaches again.
    kernel::detach_links(lab.bpf_dir()).unwrap();
    let agent = lab.agent().unwrap();
    agent
        .wait_line(0, SOON, "it is closed again", |l| {
            l.contains("attached again")
        })
        .unwrap();
    serves_and_refuses(&lab, "attached again");

    // Flows of a removed rule.
    lab.rules("echo.yaml", ECHO).unwrap();
    let target = format!("{}:7", v4(host::ECHO));
    let hold = Load::start(&lab.client_place(), &["hold", &target]).unwrap();
    let mark = lab.agent().unwrap().mark();
    lab.remove_rules("echo.yaml").unwrap();
    let agent = lab.agent().unwrap();
    agent
        .wait_line(mark, SOON, "its flow is ended", |l| {
            l.contains("no rule of its workload lists it any more")
        })
        .unwrap();
    let counts = hold.stop().unwrap();
    assert_eq!(counts["hold.errno103"], 1, "ECONNABORTED: {counts:?}");

    // The next agent adopts the pins.
    lab.agent().unwrap().kill().unwrap();
    below_a_unit(unit, || lab.start_agent()).unwrap();
    serves_and_refuses(&lab, "adopted");
    let socket = lab.admin_socket();
    let wait = ["wait", "--admin-socket", socket.to_str().unwrap()];
    assert_eq!(lab.verb(&wait).unwrap().exit, 0);
    lab.agent().unwrap().terminate().unwrap();
    wait_until("a refusal", SOON, || {
        let denied = lab.curl(&["https://bystander.example/"]).ok()?;
        denied.refused().then_some(())
    })
    .unwrap();
}
