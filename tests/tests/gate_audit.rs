//! Audit: both the kernel and the proxy let unlisted flows pass and record them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup;
use egress_tests::lab::{host, v4, v6};
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, Reply, client, wait_until};
use std::time::Duration;

const HTTPBIN: &str = include_str!("../../examples/httpbin-serviceentry.yaml");
const GOOGLE: &str = include_str!("../../examples/google.yaml");
const SOON: Duration = Duration::from_secs(5);

fn lab(flags: &[&str]) -> Lab {
    let lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("google.yaml", GOOGLE).unwrap();
    lab
}

/// Requests a URL at one of the hosts, over IPv4 and over IPv6.
fn at(place: &Place<'_>, last: u8, url: &str, host_and_port: &str) -> [Reply; 2] {
    [v4(last).to_string(), format!("[{}]", v6(last))].map(|ip| {
        let resolve = format!("{host_and_port}:{ip}");
        client::curl(place, &["--insecure", "--resolve", &resolve, url]).unwrap()
    })
}

#[test]
fn an_unlisted_name_at_a_listed_address_reaches_what_was_dialled() {
    let mut lab = lab(&["--mode", "audit"]);
    let place = lab.client_place();
    for (last, url, host_and_port) in [
        (
            host::HTTPBIN,
            "http://other.example/get",
            "other.example:80",
        ),
        (host::GOOGLE, "https://other.example/", "other.example:443"),
    ] {
        for reply in at(&place, last, url, host_and_port) {
            assert_eq!(reply.code, 200, "{reply:?}");
        }
    }
    assert_eq!(lab.httpbin.requests().len(), 2);
    let status = lab.status().unwrap();
    assert_eq!(status["proxy"]["denied"], 0);
    assert_eq!(status["proxy"]["wouldDeny"], 4);
    let line = |line: &str| line.contains("would_deny") && line.contains("other.example");
    let agent = lab.agent().unwrap();
    agent.wait_line(0, SOON, "the record", line).unwrap();
}

#[test]
fn a_workload_may_be_audited_while_the_others_are_held() {
    let entry = "{cgroup: audited, mode: audit}";
    let mut lab = lab(&["--workload", entry, "--canary-interval", "1s"]);
    let audited = lab.workloads().child("audited").unwrap();
    let place = Place {
        cgroup: Some(&audited),
        ..lab.client_place()
    };
    let url = ("http://other.example/", "other.example:80");
    // Refused until the agent has seen the cgroup.
    wait_until("the workload is audited", SOON, || {
        let replies = at(&place, host::BYSTANDER, url.0, url.1);
        replies.iter().all(|r| r.code == 200).then_some(())
    })
    .unwrap();
    for reply in at(&place, host::HTTPBIN, url.0, url.1) {
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    for reply in at(&lab.client_place(), host::BYSTANDER, url.0, url.1) {
        assert!(reply.refused(), "{reply:?}");
    }
    for reply in at(&lab.client_place(), host::HTTPBIN, url.0, url.1) {
        assert_eq!(reply.code, 502, "{reply:?}");
    }
    let status = lab.status().unwrap();
    assert_eq!(status["ready"], true);
    assert_eq!(status["rules"]["mode"], "enforce");
    let workloads = status["workloads"].as_array().unwrap();
    let ours = workloads.iter().find(|w| w["mode"] == "audit").unwrap();
    let path = ours["cgroup"].as_str().unwrap();
    let mount = cgroup::mount_point().unwrap();
    assert_eq!(mount.join(&path[1..]), audited.path());
    let line = |line: &str| line.contains("would_deny") && line.contains("other.example");
    let agent = lab.agent().unwrap();
    agent.wait_line(0, SOON, "the record", line).unwrap();
}
