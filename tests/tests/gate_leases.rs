//! A restart while no name server answers: listed names with known addresses stay reachable, and nothing else becomes
//! reachable.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Fault;
use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Lab, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

fn lab() -> Lab {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    lab
}

fn file(lab: &Lab) -> PathBuf {
    lab.admin_socket().with_extension("leases")
}

/// The client has the address of the name and makes no DNS query.
fn through_the_proxy(lab: &Lab) -> egress_tests::Reply {
    let addresses = format!("{},[{}]", v4(host::HTTPBIN), v6(host::HTTPBIN));
    let resolve = format!("httpbin.org:80:{addresses}");
    lab.curl(&["--resolve", &resolve, "http://httpbin.org/get"])
        .unwrap()
}

/// The errno over IPv4 and over IPv6.
fn straight(lab: &Lab) -> [Option<i32>; 2] {
    let both = [v4(host::ECHO), v6(host::ECHO)].map(|ip| SocketAddr::new(ip, 7));
    both.map(|to| lab.attempt("tcp-echo", to).unwrap().errno)
}

/// Listed names, and those of them without an address.
fn names(lab: &Lab) -> [u64; 2] {
    let status = lab.status().unwrap();
    ["names", "namesWithoutAddress"].map(|key| status["rules"][key].as_u64().unwrap())
}

/// How often the agent reports that it continues without the missing answers.
fn waited(lab: &mut Lab) -> usize {
    let lines = lab.agent().unwrap().log_since(0);
    let gave_up = |line: &&String| line.contains("no DNS answer yet");
    lines.iter().filter(gave_up).count()
}

const PASSES: [Option<i32>; 2] = [None; 2];
const REFUSED: [Option<i32>; 2] = [Some(libc::EPERM); 2];

#[test]
fn what_is_listed_and_was_known_stays_reachable_when_no_name_server_answers_after_a_restart() {
    let mut lab = lab();
    assert_eq!(through_the_proxy(&lab).code, 200);
    assert_eq!(straight(&lab), PASSES);

    assert_eq!(names(&lab), [2, 0]);

    lab.dns.fail(Fault::Silent);
    lab.agent().unwrap().terminate().unwrap();
    let mode = fs::metadata(file(&lab)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lab.start_agent().unwrap();
    assert_eq!(waited(&mut lab), 0, "names with leases are not waited for");
    assert_eq!(names(&lab), [2, 0]);
    assert_eq!(through_the_proxy(&lab).code, 200);
    assert_eq!(straight(&lab), PASSES);

    // The next agent gets the leases from an agent that never had an answer itself. Names that are no longer listed do
    // not come back.
    lab.agent().unwrap().terminate().unwrap();
    fs::remove_file(lab.rules_dir().join("echo.yaml")).unwrap();
    lab.start_agent().unwrap();
    assert_eq!(through_the_proxy(&lab).code, 200);
    assert_eq!(straight(&lab), REFUSED);
}

#[test]
fn an_agent_that_was_killed_has_left_them_and_without_the_file_they_are_refused() {
    let mut lab = lab();
    wait_until("the leases are written", Duration::from_secs(10), || {
        let text = fs::read_to_string(file(&lab)).ok()?;
        ["httpbin.org ", "echo.example "]
            .iter()
            .all(|name| text.contains(name))
            .then_some(())
    })
    .unwrap();
    lab.dns.fail(Fault::Silent);
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
    assert_eq!(straight(&lab), PASSES);

    lab.agent().unwrap().kill().unwrap();
    fs::write(file(&lab), "not an agent's").unwrap();
    lab.start_agent().unwrap();
    assert_eq!(straight(&lab), REFUSED);
    assert_eq!(waited(&mut lab), 1, "a name without a lease is waited for");
    assert_eq!(names(&lab), [2, 2]);
    let told = lab.agent().unwrap().log_since(0);
    let not_taken = told
        .iter()
        .filter(|line| line.contains("cannot use the DNS leases"));
    assert_eq!(not_taken.count(), 1, "{told:?}");
}
