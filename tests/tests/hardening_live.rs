//! The gate after changes, and what the agent reports and repairs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_agent::kernel;
use egress_tests::hosts::Echo;
use egress_tests::lab::{host, v4, v6};
use egress_tests::load::Counts;
use egress_tests::{Lab, LabOptions, Load, pinned, readiness, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

fn entry(host: &str, port: u16, protocol: &str) -> String {
    let name = host.replace('.', "-");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
         hosts: [{host}]\n  ports: [{{number: {port}, name: p, protocol: {protocol}}}]\n  resolution: DNS\n"
    )
}

fn lab(flags: &[&str]) -> Lab {
    Lab::start_with(LabOptions::flags(flags)).unwrap()
}

fn number(lab: &Lab, pointer: &str) -> u64 {
    readiness::number(&lab.status().unwrap(), pointer).unwrap()
}

fn hold(lab: &Lab, last: u8) -> Load {
    Load::start(&lab.client_place(), &["hold", &format!("{}:7", v4(last))]).unwrap()
}

/// One TCP connect of a workload; the error number, if it failed.
fn once(lab: &Lab, last: u8, port: u16) -> Option<i32> {
    let to = SocketAddr::new(v4(last), port);
    lab.attempt("tcp", to).unwrap().errno
}

fn errors(counts: &Counts) -> Vec<&str> {
    counts
        .keys()
        .map(String::as_str)
        .filter(|name| *name != "hold.ok")
        .collect()
}

/// Two echo hosts, each in a file of its own.
fn two_echoes(lab: &Lab) -> Echo {
    let other = lab.world().echo(&[v4(40), v6(40)], 7).unwrap();
    lab.dns.set("other.example", &[v4(40), v6(40)], 30);
    lab.rules("echo.yaml", &entry("echo.example", 7, "TCP"))
        .unwrap();
    lab.rules("other.yaml", &entry("other.example", 7, "TCP"))
        .unwrap();
    other
}

#[test]
fn a_removed_rule_ends_its_flows_at_once_and_no_others() {
    let lab = lab(&[]);
    let _other = two_echoes(&lab);
    let (removed, kept) = (hold(&lab, host::ECHO), hold(&lab, 40));
    lab.remove_rules("echo.yaml").unwrap();
    wait_until("the flow is ended", SOON, || {
        (number(&lab, "/rules/flowsEnded") == 1).then_some(())
    })
    .unwrap();
    // A change that lists both still raises the generation.
    lab.rules("more.yaml", &entry("httpbin.org", 80, "HTTP"))
        .unwrap();
    let (removed, kept) = (removed.stop().unwrap(), kept.stop().unwrap());
    assert_eq!(
        errors(&removed),
        ["hold.errno103"],
        "ECONNABORTED: {removed:?}"
    );
    assert_eq!(errors(&kept), [""; 0], "{kept:?}");
    assert!(kept["hold.ok"] > removed["hold.ok"], "{kept:?} {removed:?}");
    assert_eq!(number(&lab, "/rules/flowsEnded"), 1);
    assert_eq!(once(&lab, host::ECHO, 7), Some(libc::EPERM));
}

#[test]
fn the_address_of_a_running_flow_stays_listed_and_no_longer() {
    let lab = lab(&["--dns-min-ttl", "1s", "--dns-grace", "1s"]);
    let _hosts = [40, 41].map(|n| lab.world().echo(&[v4(n)], 7).unwrap());
    lab.dns.set("moved.example", &[v4(40)], 1);
    lab.rules("moved.yaml", &entry("moved.example", 7, "TCP"))
        .unwrap();
    let leases = |count: u64| move |lab: &Lab| number(lab, "/rules/leases") == count;
    let wait = |what: &str, leases: &dyn Fn(&Lab) -> bool| {
        wait_until(what, 4 * SOON, || leases(&lab).then_some(())).unwrap();
    };
    wait("the first address has a lease", &leases(1));
    let flow = hold(&lab, 40);
    lab.dns.set("moved.example", &[v4(41)], 1);
    wait("the second address has a lease", &leases(2));
    // Without the flow the first lease would end 2 s after the last answer with it.
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        assert!(leases(2)(&lab), "the lease ended while a flow used it");
    }
    assert_eq!(once(&lab, 40, 7), None, "a new connection is allowed too");
    let counts = flow.stop().unwrap();
    assert_eq!(errors(&counts), [""; 0], "{counts:?}");
    wait("the first lease ends", &leases(1));
    assert_eq!(once(&lab, 40, 7), Some(libc::EPERM));
    assert_eq!(once(&lab, 41, 7), None);
}

#[test]
fn flows_of_a_removed_rule_go_on_where_they_are_kept() {
    let lab = lab(&["--on-removal", "keep"]);
    let _other = two_echoes(&lab);
    let flow = hold(&lab, host::ECHO);
    lab.remove_rules("echo.yaml").unwrap();
    assert_eq!(
        once(&lab, host::ECHO, 7),
        Some(libc::EPERM),
        "what is new is refused"
    );
    assert_eq!(once(&lab, 40, 7), None);
    let counts = flow.stop().unwrap();
    assert_eq!(errors(&counts), [""; 0], "{counts:?}");
    assert_eq!(number(&lab, "/rules/flowsEnded"), 0);
}

#[test]
fn a_proxied_flow_ends_with_the_name_that_it_asked_for() {
    let lab = lab(&[]);
    // Two names with one address, so the kernel's tables do not change.
    lab.dns.set(
        "second.example",
        &[v4(host::HTTPBIN), v6(host::HTTPBIN)],
        30,
    );
    lab.rules("first.yaml", &entry("httpbin.org", 80, "HTTP"))
        .unwrap();
    lab.rules("second.yaml", &entry("second.example", 80, "HTTP"))
        .unwrap();
    let slow = |name: &str| {
        let url = format!("http://{name}/delay/3");
        let reply = lab.curl(&[&url]).unwrap();
        (reply.exit, reply.code, reply.elapsed)
    };
    std::thread::scope(|scope| {
        let (ended, kept) = (
            scope.spawn(|| slow("httpbin.org")),
            scope.spawn(|| slow("second.example")),
        );
        wait_until("both are at the origin", SOON, || {
            (lab.httpbin.requests().len() == 2).then_some(())
        })
        .unwrap();
        lab.remove_rules("first.yaml").unwrap();
        let (exit, _, elapsed) = ended.join().unwrap();
        assert!(matches!(exit, 52 | 56), "closed without an answer: {exit}");
        assert!(elapsed < Duration::from_millis(2500), "{elapsed:?}");
        let (exit, code, _) = kept.join().unwrap();
        assert_eq!((exit, code), (0, 200));
    });
}

#[test]
fn an_audit_lets_pass_and_records() {
    let mut lab = lab(&["--mode", "audit"]);
    let unlisted = format!("{}:80", v4(host::BYSTANDER));
    assert_eq!(once(&lab, host::BYSTANDER, 80), None);
    let line = |line: &str| line.contains("would_deny") && line.contains(&unlisted);
    lab.agent()
        .unwrap()
        .wait_line(0, SOON, "the record", line)
        .unwrap();
    let status = lab.status().unwrap();
    assert_eq!(status["rules"]["mode"], "audit");
    assert_eq!(status["ready"], true);
    assert_eq!(status["counters"]["denied"], 0);
    assert!(status["counters"]["wouldDeny"].as_u64().unwrap() > 0);
}

#[test]
fn a_refusal_fails_with_the_errno_of_the_settings() {
    for (name, errno) in [
        ("ECONNREFUSED", libc::ECONNREFUSED),
        ("EACCES", libc::EACCES),
        ("ENETUNREACH", libc::ENETUNREACH),
    ] {
        let lab = lab(&["--deny-errno", name]);
        assert_eq!(once(&lab, host::BYSTANDER, 80), Some(errno));
        assert_eq!(lab.bystander.connections(), 0);
    }
}

#[test]
fn a_pin_that_is_removed_opens_nothing_while_the_agent_lives() {
    let mut lab = lab(&["--canary-interval", "1s"]);
    let links = pinned::links(lab.bpf_dir()).unwrap();
    let pins: Vec<_> = links
        .iter()
        .flat_map(|cgroup| fs::read_dir(cgroup).unwrap())
        .map(|pin| pin.unwrap().path())
        .collect();
    for pin in &pins {
        fs::remove_file(pin).unwrap();
    }
    assert_eq!(once(&lab, host::BYSTANDER, 80), Some(libc::EPERM));
    let agent = lab.agent().unwrap();
    agent
        .wait_line(0, SOON, "it is logged", |l| l.contains("a pin was removed"))
        .unwrap();
    agent
        .wait_line(0, SOON, "it is mended", |l| l.contains("attached again"))
        .unwrap();
    for pin in &pins {
        assert!(pin.exists(), "{} is back", pin.display());
    }
    lab.agent().unwrap().kill().unwrap();
    assert_eq!(once(&lab, host::BYSTANDER, 80), Some(libc::EPERM));
}

#[test]
fn a_gate_that_is_opened_from_outside_is_noticed_and_closed_again() {
    let mut lab = lab(&["--canary-interval", "1s"]);
    kernel::detach_links(lab.bpf_dir()).unwrap();
    let agent = lab.agent().unwrap();
    agent
        .wait_line(0, SOON, "the gap is logged", |l| {
            l.contains("the gate was open")
        })
        .unwrap();
    agent
        .wait_line(0, SOON, "it is closed", |l| l.contains("attached again"))
        .unwrap();
    assert_eq!(once(&lab, host::BYSTANDER, 80), Some(libc::EPERM));
    assert_eq!(lab.status().unwrap()["ready"], true);
}

#[test]
fn readiness_follows_the_canary() {
    let lab = lab(&["--canary-interval", "1s"]);
    let socket = lab.admin_socket();
    let wait = [
        "wait",
        "--timeout",
        "5s",
        "--admin-socket",
        socket.to_str().unwrap(),
    ];
    assert_eq!(lab.verb(&wait).unwrap().exit, 0);
    // A canary that cannot run proves nothing.
    fs::write(lab.workloads().path().join("cgroup.max.descendants"), "1").unwrap();
    let trouble = wait_until("it is reported", SOON, || {
        lab.status().unwrap()["trouble"].as_str().map(str::to_owned)
    });
    assert!(trouble.unwrap().contains("egress-canary"));
    let verb = ["status", "--admin-socket", socket.to_str().unwrap()];
    let told = lab.verb(&verb).unwrap();
    assert_eq!(told.exit, 1);
    assert!(told.stdout.starts_with("NOT READY"), "{told:?}");
    fs::write(lab.workloads().path().join("cgroup.max.descendants"), "max").unwrap();
    assert_eq!(lab.verb(&wait).unwrap().exit, 0);
}

#[test]
fn no_thread_of_the_running_agent_has_more_than_it_needs() {
    let mut lab = lab(&[]);
    let pid = lab.agent().unwrap().pid();
    // CAP_DAC_READ_SEARCH 2, CAP_NET_ADMIN 12, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_BPF 39
    // (include/uapi/linux/capability.h); 19 and 21 for sockets in workloads' namespaces.
    let needed = 1_u64 << 2 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 39;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(field("CapPrm:") & !needed, 0, "{text}");
        assert_eq!(field("CapEff:") & !needed, 0, "{text}");
        assert_eq!(field("CapInh:"), 0, "{text}");
        assert_eq!(field("NoNewPrivs:"), 1, "{text}");
        threads += 1;
    }
    assert!(threads > 2);
}
