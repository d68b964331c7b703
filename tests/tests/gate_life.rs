//! The agent dies, comes back, or is told to go: the gate stays as it must.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::time::Duration;

use egress_tests::lab::{host, v4, v6};
use egress_tests::{Background, Lab, LabOptions};

const BUSY: &str = env!("CARGO_BIN_EXE_busy");
const HTTPBIN: &str = include_str!("../../examples/httpbin-serviceentry.yaml");
const ECHO: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: DNS
";

fn background(lab: &Lab, verb: &str, target: SocketAddr) -> Background {
    let mut command = lab.command(BUSY).unwrap();
    command.args([verb, &target.to_string()]);
    Background::start(command).unwrap()
}

fn hold(lab: &Lab, target: SocketAddr) -> Background {
    let held = background(lab, "hold", target);
    held.wait_line(
        "the direct connection stands",
        Duration::from_secs(5),
        |l| l["held"] == true,
    )
    .unwrap();
    held
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
    let unlisted = [v4(host::BYSTANDER), v6(host::BYSTANDER)].map(|a| SocketAddr::new(a, 443));
    let loops = unlisted.map(|target| background(&lab, "watch", target));
    let direct = [v4(host::ECHO), v6(host::ECHO)].map(|a| hold(&lab, SocketAddr::new(a, 7)));
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
        let another = hold(&lab, SocketAddr::new(v4(host::ECHO), 7));
        another.end().unwrap();
        lab.start_agent().unwrap();
        assert_eq!(request(&lab).code, 200, "round {round}");
    }

    for held in direct {
        let report = held.end().unwrap();
        println!("direct: {report}");
        assert!(report["echoes"].as_u64() > Some(100), "{report}");
    }
    for probe in loops {
        let report = probe.end().unwrap();
        println!("unlisted: {report}");
        assert_eq!(report["connected"], 0, "{report}");
        assert!(report["tries"].as_u64() > Some(1000), "{report}");
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
