//! The agent dies, restarts, or is asked to stop: the gate stays closed or opens according to the settings.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Background, Lab, LabOptions, Load, Session};
use std::net::SocketAddr;
use std::time::Duration;

/// Listed and unlisted destinations of both families.
fn both(last: u8, port: u16) -> [SocketAddr; 2] {
    [v4(last), v6(last)].map(|ip| SocketAddr::new(ip, port))
}

fn hold(lab: &Lab, to: SocketAddr) -> Load {
    Load::start(&lab.client_place(), &["hold", &to.to_string()]).unwrap()
}

fn request(lab: &Lab) -> egress_tests::Reply {
    let resolve = format!(
        "httpbin.org:80:{},[{}]",
        v4(host::HTTPBIN),
        v6(host::HTTPBIN)
    );
    lab.curl(&["--resolve", &resolve, "http://httpbin.org/get"])
        .unwrap()
}

#[test]
fn a_killed_agent_leaves_the_gate_closed_and_the_next_one_takes_over() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    let leaks =
        both(host::BYSTANDER, 443).map(|to| Session::connects(&lab.client_place(), to).unwrap());
    let direct = both(host::ECHO, 7).map(|to| hold(&lab, to));
    assert_eq!(request(&lab).code, 200);

    for round in 0..3 {
        lab.agent().unwrap().kill().unwrap();
        let reply = request(&lab);
        assert!(
            reply.refused() && reply.elapsed < Duration::from_secs(1),
            "round {round}: {reply:?}"
        );
        let denied = lab.curl(&["https://bystander.example/"]).unwrap();
        assert!(denied.refused(), "round {round}: {denied:?}");
        for to in both(host::HTTPBIN, 80) {
            assert!(lab.attempt("tcp", to).unwrap().denied(), "{to}");
        }
        for to in both(host::ECHO, 7) {
            assert!(lab.attempt("tcp-echo", to).unwrap().passed(), "{to}");
        }
        lab.start_agent().unwrap();
        assert_eq!(request(&lab).code, 200, "round {round}");
    }

    for held in direct {
        let counts = held.stop().unwrap();
        assert_eq!(counts.len(), 1, "{counts:?}");
        assert!(counts["hold.ok"] > 100, "{counts:?}");
    }
    for leak in leaks {
        let tally = leak.tally().unwrap();
        assert!(tally.all_denied(1000), "{tally:?}");
    }
    assert_eq!(lab.bystander.connections(), 0);
}

#[test]
fn an_agent_told_to_stop_keeps_the_gate_closed_until_detached() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    assert!(lab.agent().unwrap().terminate().unwrap().success());
    assert!(request(&lab).refused());
    assert!(lab.curl(&["https://bystander.example/"]).unwrap().refused());

    let bpf_dir = lab.bpf_dir().display().to_string();
    let detached = lab.verb(&["detach", "--bpf-dir", &bpf_dir]).unwrap();
    assert_eq!(
        (detached.exit, detached.stderr.as_str()),
        (0, ""),
        "{detached:?}"
    );
    assert_eq!(lab.curl(&["https://bystander.example/"]).unwrap().code, 200);
}

#[test]
fn on_exit_detach_opens_the_gate() {
    let options = LabOptions {
        agent: vec!["--on-exit".into(), "detach".into()],
        ..LabOptions::default()
    };
    let mut lab = Lab::start_with(options).unwrap();
    assert!(lab.curl(&["https://bystander.example/"]).unwrap().refused());
    assert!(lab.agent().unwrap().terminate().unwrap().success());
    assert_eq!(lab.curl(&["https://bystander.example/"]).unwrap().code, 200);
}

#[test]
fn a_request_under_way_is_finished_when_the_agent_is_told_to_stop() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let mut command = lab.command("curl").unwrap();
    command.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "{\"code\": %{http_code}}",
        "http://httpbin.org/delay/2",
    ]);
    let slow = Background::start(command).unwrap();
    egress_tests::wait_until("the request arrived", Duration::from_secs(5), || {
        (!lab.httpbin.requests().is_empty()).then_some(())
    })
    .unwrap();
    assert!(lab.agent().unwrap().terminate().unwrap().success());
    assert_eq!(slow.end().unwrap()["code"], 200);
}

#[test]
fn exec_runs_behind_the_gate_and_hands_the_exit_code_through() {
    let lab = Lab::start().unwrap();
    let (root, bpf_dir) = (
        lab.workloads().path().display().to_string(),
        lab.bpf_dir().display().to_string(),
    );
    let exec = |script: &str| {
        lab.verb(&[
            "exec",
            "--cgroup",
            &root,
            "--bpf-dir",
            &bpf_dir,
            "--",
            "sh",
            "-c",
            script,
        ])
        .unwrap()
    };
    assert_eq!(exec("exit 7").exit, 7);
    let url = format!("https://{}/", v4(host::BYSTANDER));
    let refused = exec(&format!("curl -sS {url}"));
    assert_eq!(refused.exit, 7, "{refused:?}");
    assert_eq!(lab.bystander.connections(), 0);
}
