//! The harness itself, on the real kernel and without the agent: what it creates works, and nothing of it remains.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup::Cgroup;
use egress_tests::hosts::Fault;
use egress_tests::lab::{host, v4, v6};
use egress_tests::netns::NetNs;
use egress_tests::{Family, Lab, LabOptions, wait_until};
use std::path::PathBuf;
use std::time::Duration;

fn lab(family: Family) -> Lab {
    Lab::without_agent(LabOptions {
        family,
        ..LabOptions::default()
    })
    .unwrap()
}

#[test]
fn hosts_answer_over_both_families() {
    for (family, address) in [
        (Family::V4, v4(host::HTTPBIN)),
        (Family::V6, v6(host::HTTPBIN)),
    ] {
        let lab = lab(family);
        let reply = lab.curl(&["http://httpbin.org/headers"]).unwrap();
        assert_eq!((reply.exit, reply.code), (0, 200), "{reply:?}");
        assert_eq!(reply.remote, address.to_string());
        assert!(
            reply.body.contains("\"Host\": \"httpbin.org\""),
            "{}",
            reply.body
        );
        let reply = lab.curl(&["https://www.google.com/"]).unwrap();
        assert!(reply.body.contains("<title>Google</title>"), "{reply:?}");
        assert_eq!((lab.google.connections(), lab.google.handshakes()), (1, 1));
        assert_eq!(lab.bystander.connections(), 0);
    }
}

#[test]
fn httpbin_answers_as_the_real_one_does() {
    let lab = lab(Family::V4);
    let cases: [(&[&str], u16, &str); 6] = [
        (&["http://httpbin.org/status/418"], 418, ""),
        (&["http://httpbin.org/get?a=1"], 200, "\"a\": \"1\""),
        (
            &["-d", "{\"k\":2}", "http://httpbin.org/post"],
            200,
            "\"k\": 2",
        ),
        (&["http://httpbin.org/stream/3"], 200, "\"id\":2"),
        (&["http://httpbin.org/bytes/5"], 200, "xxxxx"),
        (&["http://httpbin.org/nowhere"], 404, ""),
    ];
    for (arguments, code, body) in cases {
        let reply = lab.curl(arguments).unwrap();
        assert_eq!(reply.code, code, "{arguments:?}");
        assert!(reply.body.contains(body), "{arguments:?}: {}", reply.body);
    }
    let slow = lab.curl(&["http://httpbin.org/delay/1"]).unwrap();
    assert!(
        slow.elapsed >= Duration::from_secs(1) && slow.elapsed < Duration::from_secs(3),
        "{slow:?}"
    );
    assert_eq!(lab.httpbin.requests().len(), 7);
}

#[test]
fn the_zone_changes_while_the_server_runs_and_can_fail() {
    let lab = lab(Family::V4);
    lab.dns.set("httpbin.org", &[v4(host::BYSTANDER)], 1);
    assert_eq!(
        lab.curl(&["http://httpbin.org/"]).unwrap().remote,
        v4(host::BYSTANDER).to_string()
    );
    lab.dns.remove("httpbin.org");
    assert_eq!(lab.curl(&["http://httpbin.org/"]).unwrap().exit, 6);
    lab.dns.fail(Fault::ServerFailure);
    assert_eq!(lab.curl(&["https://www.google.com/"]).unwrap().exit, 6);
    assert!(
        lab.dns
            .queries()
            .contains(&("httpbin.org".into(), "A".into()))
    );
}

#[test]
fn a_closed_port_outside_is_refused_by_the_host_itself() {
    let lab = lab(Family::V4);
    let reply = lab.curl(&["http://198.51.100.77/"]).unwrap();
    assert_eq!(reply.exit, 7);
    assert!(reply.stderr.contains("onnect"), "{}", reply.stderr);
}

#[test]
fn a_client_runs_in_its_cgroup_and_its_namespace() {
    let lab = lab(Family::V4);
    let seen = lab.run("cat", &["/proc/self/cgroup"]).unwrap();
    assert!(
        seen.stdout
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with("/workloads/client")),
        "{seen:?}"
    );
    let route = lab.run("ip", &["route", "show", "default"]).unwrap();
    assert_eq!(route.stdout, "", "no way out but the cable");
    let resolv = lab.run("cat", &["/etc/resolv.conf"]).unwrap();
    assert!(resolv.stdout.contains("198.51.100.53"));
}

#[test]
fn nothing_stays_when_a_test_panics() {
    let made = std::sync::Mutex::new(Vec::<PathBuf>::new());
    let outcome = std::panic::catch_unwind(|| {
        let lab = lab(Family::V4);
        let mut sleeper = lab.command("sleep").unwrap();
        let mut sleeper = sleeper.arg("600").spawn().unwrap();
        *made.lock().unwrap() = vec![
            lab.workloads().path().to_path_buf(),
            lab.bpf_dir().to_path_buf(),
            lab.rules_dir().to_path_buf(),
            PathBuf::from(format!("/proc/{}/exe", sleeper.id())),
        ];
        let reaper = std::thread::spawn(move || sleeper.wait());
        assert!(reaper.is_finished(), "a test that fails");
    });
    assert!(outcome.is_err());
    for path in made
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        wait_until("it is gone", Duration::from_secs(5), || {
            (!path.exists()).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_thread_inside_a_namespace_does_not_change_where_the_test_is() {
    let own = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = own();
    let netns = NetNs::new().unwrap();
    let inside = netns.run(own).unwrap();
    assert_ne!(inside, before);
    assert_eq!(own(), before);
}

#[test]
fn a_cgroup_has_the_id_that_helpers_see_and_its_members() {
    let cgroup = Cgroup::new().unwrap();
    assert!(cgroup.id().unwrap() > 1);
    assert!(cgroup.members().unwrap().is_empty());
}
