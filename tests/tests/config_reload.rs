//! The config file of a running agent: fields that can change take effect, the others are reported, and a file with an
//! error changes nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4};
use egress_tests::{Lab, LabOptions, wait_until};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn unlisted_passes(lab: &Lab) -> bool {
    let to = SocketAddr::new(v4(host::BYSTANDER), 80);
    lab.attempt("tcp", to).unwrap().passed()
}

fn becomes(lab: &Lab, passes: bool) {
    wait_until("the config is in force", SOON, || {
        (unlisted_passes(lab) == passes).then_some(())
    })
    .unwrap();
}

#[test]
fn a_changed_config_is_in_force_without_a_restart_and_a_wrong_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    fs::write(&file, "mode: enforce\n").unwrap();
    let flags = [
        "--config",
        file.to_str().unwrap(),
        "--canary-interval",
        "1s",
    ];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    assert!(!unlisted_passes(&lab));

    // The agent notices the change itself.
    fs::write(&file, "mode: audit\ndenyErrno: ECONNREFUSED\n").unwrap();
    becomes(&lab, true);
    assert_eq!(lab.status().unwrap()["rules"]["mode"], "audit");

    let mark = lab.agent().unwrap().mark();
    fs::write(&file, "mode: enforce\nproxyPort: 15902\nmod: x\n").unwrap();
    lab.agent().unwrap().signal(Signal::HUP).unwrap();
    let told = |lab: &mut Lab, what: &str| {
        let agent = lab.agent().unwrap();
        agent
            .wait_line(mark, SOON, what, |line| line.contains(what))
            .unwrap()
    };
    assert!(told(&mut lab, "config not applied").contains("mod"));
    assert!(unlisted_passes(&lab), "the previous config stays in force");

    fs::write(
        &file,
        "proxyPort: 15902\nworkloads: [{cgroup: client, mode: audit}]\n",
    )
    .unwrap();
    lab.agent().unwrap().signal(Signal::HUP).unwrap();
    assert!(told(&mut lab, "restart the agent to change").contains("proxyPort"));
    told(&mut lab, "config applied");
    assert!(unlisted_passes(&lab), "the workload is audited");
    assert_eq!(lab.status().unwrap()["rules"]["mode"], "enforce");

    fs::write(&file, "workloads: []\n").unwrap();
    becomes(&lab, false);
    // The canary's expectation follows the config in force.
    wait_until("ready", SOON, || {
        (lab.status().unwrap()["ready"] == true).then_some(())
    })
    .unwrap();
}
