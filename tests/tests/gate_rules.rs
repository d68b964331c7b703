//! Rules change while traffic runs: changes are in force at once, and flows that stay listed are not disturbed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::hosts::Fault;
use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::HTTPBIN;
use egress_tests::{Background, Lab, LabOptions, wait_until};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BUSY: &str = env!("CARGO_BIN_EXE_busy");

/// The bystander's TLS port as plain TCP, so that a connect shows the kernel's verdict.
const BYSTANDER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bystander}
spec:
  hosts: [bystander.example]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.99}, {address: '2001:db8:2::99'}]
";

fn now() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros(),
    )
    .unwrap()
}

fn watch(lab: &Lab, target: SocketAddr) -> Background {
    let mut command = lab.command(BUSY).unwrap();
    command.args(["watch", &target.to_string()]);
    Background::start(command).unwrap()
}

/// The time from `since` until `probe` first saw `outcome`, in microseconds.
fn seen_after(probe: &Background, outcome: &str, since: u64) -> u64 {
    let line = probe
        .wait_line(outcome, Duration::from_secs(10), |l| {
            l["outcome"] == outcome && l["at"].as_u64() > Some(since)
        })
        .unwrap();
    line["at"].as_u64().unwrap() - since
}

#[test]
fn an_edit_is_in_force_within_200_ms_for_new_connections() {
    let lab = Lab::start().unwrap();
    for address in [v4(host::BYSTANDER), v6(host::BYSTANDER)] {
        let probe = watch(&lab, SocketAddr::new(address, 443));
        seen_after(&probe, "PermissionDenied", 0);
        let mut delays = Vec::new();
        for _ in 0..5 {
            let written = now();
            lab.write_rules("bystander.yaml", BYSTANDER).unwrap();
            delays.push(("listed", seen_after(&probe, "connected", written)));
            let removed = now();
            fs::remove_file(lab.rules_dir().join("bystander.yaml")).unwrap();
            delays.push(("removed", seen_after(&probe, "PermissionDenied", removed)));
        }
        println!("{address}: microseconds from write to effect: {delays:?}");
        // The median counts, because the machine may be busy during one edit.
        delays.sort_by_key(|(_, delay)| *delay);
        assert!(delays[delays.len() / 2].1 < 200_000, "{delays:?}");
        probe.end().unwrap();
    }
}

#[test]
fn edits_fail_no_request_to_a_host_that_stays_listed() {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for address in [v4(host::HTTPBIN), v6(host::HTTPBIN)] {
        let target = SocketAddr::new(address, 80).to_string();
        let done = AtomicBool::new(false);
        let (report, edits) = std::thread::scope(|scope| {
            let edits = scope.spawn(|| {
                let mut edits = 0;
                while !done.load(Ordering::SeqCst) {
                    lab.rules("bystander.yaml", BYSTANDER).unwrap();
                    lab.remove_rules("bystander.yaml").unwrap();
                    edits += 2;
                }
                edits
            });
            let arguments = [
                "requests",
                "--host",
                "httpbin.org",
                "--count",
                "2000",
                "--threads",
                "4",
                &target,
            ];
            let report = lab.run(BUSY, &arguments);
            done.store(true, Ordering::SeqCst);
            (report.unwrap(), edits.join().unwrap())
        });
        println!(
            "{target}: {} with {edits} edits meanwhile",
            report.stdout.trim()
        );
        let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        assert_eq!(
            (&report["ok"], &report["failed"]),
            (&2000.into(), &0.into()),
            "{report}"
        );
        assert!(edits >= 2, "no edit took place");
    }
}

#[test]
fn a_mistake_in_a_file_changes_nothing_and_says_where() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for (text, place, reason) in [
        ("kind: [", "bad.yaml:", ""),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec:\n  ports: []\n",
            "bad.yaml",
            "host",
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec:\n  hosts: [a.example]\n  resolution: dns\n",
            "bad.yaml:6",
            "spec.resolution",
        ),
    ] {
        // The mark comes first, because the report may come before the write returns.
        let mark = lab.agent().unwrap().mark();
        lab.write_rules("bad.yaml", text).unwrap();
        let agent = lab.agent().unwrap();
        let line = agent
            .wait_line(
                mark,
                Duration::from_secs(5),
                "the mistake is reported",
                |l| l.contains("rule not applied"),
            )
            .unwrap();
        assert!(line.contains(place) && line.contains(reason), "{line}");
        assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
        fs::remove_file(lab.rules_dir().join("bad.yaml")).unwrap();
        lab.agent()
            .unwrap()
            .wait_line(
                mark,
                Duration::from_secs(5),
                "the files are valid again",
                |l| l.contains("are valid again"),
            )
            .unwrap();
    }
}

#[test]
fn an_invalid_object_is_left_out_at_the_start_and_at_reload_and_the_others_apply() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let bad = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: db}\nspec:\n  \
         hosts: [db.example]\n  ports: [{number: 80, name: tcp, protocol: TCP}]\n  resolutoin: DNS\n";
    let mark = lab.agent().unwrap().mark();
    lab.write_rules("bad.yaml", bad).unwrap();
    let told = |lab: &mut Lab, mark| {
        let agent = lab.agent().unwrap();
        let soon = Duration::from_secs(5);
        agent
            .wait_line(mark, soon, "the object is reported", |l| {
                l.contains("bad.yaml:7") && l.contains("resolutoin")
            })
            .unwrap();
    };
    told(&mut lab, mark);
    let unlisted = "http://203.0.113.251/";
    for round in ["at reload", "at the start"] {
        assert_eq!(
            lab.curl(&["http://httpbin.org/get"]).unwrap().code,
            200,
            "{round}"
        );
        assert!(lab.curl(&[unlisted]).unwrap().refused(), "{round}");
        if round == "at reload" {
            lab.agent().unwrap().terminate().unwrap();
            lab.start_agent().unwrap();
            told(&mut lab, 0);
        }
    }
    // A start without readable rules: the former rules stay in force.
    lab.agent().unwrap().terminate().unwrap();
    fs::write(lab.rules_dir().join("httpbin.yaml"), [0xff, 0xfe]).unwrap();
    lab.start_agent().unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    assert!(lab.curl(&[unlisted]).unwrap().refused());
    let status = lab.status().unwrap();
    let problems = status["rules"]["problems"].to_string();
    assert!(
        problems.contains("httpbin.yaml: the text is not UTF-8"),
        "{status}"
    );
    assert!(problems.contains("bad.yaml:7"), "{status}");
}

#[test]
fn a_failing_name_server_takes_nothing_away() {
    let mut lab = Lab::start_with(egress_tests::LabOptions {
        ttl: 1,
        ..Default::default()
    })
    .unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let mark = lab.agent().unwrap().mark();
    lab.dns.fail(egress_tests::hosts::Fault::ServerFailure);
    lab.agent()
        .unwrap()
        .wait_line(
            mark,
            Duration::from_secs(20),
            "the failure is reported",
            |l| l.contains("DNS lookup failed; keeping"),
        )
        .unwrap();
    let address = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    let reply = lab
        .curl(&["--resolve", &address, "http://httpbin.org/get"])
        .unwrap();
    assert_eq!(reply.code, 200, "{reply:?}");
}

#[test]
fn an_address_that_dns_adds_is_let_through_without_an_edit() {
    let lab = Lab::start_with(egress_tests::LabOptions {
        ttl: 1,
        ..Default::default()
    })
    .unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let address = format!("httpbin.org:80:{}", v4(host::BYSTANDER));
    let arguments = ["--resolve", address.as_str(), "http://httpbin.org/get"];
    assert!(lab.curl(&arguments).unwrap().refused());
    lab.dns
        .set("httpbin.org", &[v4(host::HTTPBIN), v4(host::BYSTANDER)], 1);
    wait_until(
        "the new address is let through",
        Duration::from_secs(10),
        || (lab.curl(&arguments).ok()?.code == 200).then_some(()),
    )
    .unwrap();
}

#[test]
fn the_running_agent_explains_what_becomes_of_a_destination() {
    let lab = Lab::start().unwrap();
    let socket = lab.admin_socket().display().to_string();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let workload = lab.workloads().path().display().to_string();
    let address = format!("{}:80", v4(host::HTTPBIN));
    for (destination, allowed, part) in [
        ("http://httpbin.org/get", true, "httpbin.org"),
        ("httpbin.org:81", false, "80"),
        (address.as_str(), true, "httpbin"),
        ("192.0.2.9:443", false, ""),
    ] {
        for of in [&[][..], &["--workload", &workload][..]] {
            let verb = [
                &["explain", "--admin-socket", &socket],
                of,
                &["--", destination],
            ]
            .concat();
            let told = lab.verb(&verb).unwrap();
            assert_eq!(told.exit, i32::from(!allowed), "{verb:?}: {told:?}");
            assert!(told.stdout.contains(part), "{verb:?}: {told:?}");
        }
    }
}

/// Asked for at the start, and never answered.
const UNANSWERED: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: unanswered}
spec:
  hosts: [unanswered.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

#[test]
fn a_change_while_the_agent_starts_is_applied() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.agent().unwrap().kill().unwrap();
    lab.dns.fail(Fault::Silent);
    lab.write_rules("unanswered.yaml", UNANSWERED).unwrap();
    // An agent that takes over waits for the answer.
    let binary = agent::binary().unwrap();
    let next = Agent::spawn(&lab.agent_place(), &binary, &lab.agent_arguments()).unwrap();
    lab.swap_agent(next).unwrap();
    wait_until("the agent asks", Duration::from_secs(5), || {
        let asked = lab.dns.queries();
        asked
            .iter()
            .any(|(name, _)| name.starts_with("unanswered"))
            .then_some(())
    })
    .unwrap();
    lab.write_rules("bystander.yaml", BYSTANDER).unwrap();
    lab.agent().unwrap().wait_ready().unwrap();
    let to = SocketAddr::new(v4(host::BYSTANDER), 443);
    wait_until("the rule is in force", Duration::from_secs(10), || {
        lab.attempt("tcp", to).unwrap().passed().then_some(())
    })
    .unwrap();
}

#[test]
fn rules_that_do_not_fit_change_nothing_and_status_says_so() {
    let options = LabOptions::flags(&["--max-networks=65536"]);
    let lab = Lab::start_with(options).unwrap();
    let rules = |first: u32, n: u32| {
        let nets: Vec<_> = (first..first + n)
            .map(|n| format!("{}/31", Ipv4Addr::from_bits(0x1400_0000 + 2 * n)))
            .collect();
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: many}}\nspec:\n  \
             hosts: [many.example]\n  addresses: [{}]\n  \
             ports: [{{number: 443, name: tcp, protocol: TCP}}]\n  resolution: NONE\n",
            nets.join(", ")
        )
    };
    // An agent that works on tens of thousands of rules may answer later than its client waits.
    let status = || lab.status().ok();
    let generation = |status: &serde_json::Value| status["rules"]["generation"].as_u64().unwrap();
    let before = generation(&status().unwrap());
    lab.write_rules("many.yaml", &rules(0, 35_000)).unwrap();
    let applied = wait_until("the first are in force", Duration::from_mins(1), || {
        status().filter(|s| generation(s) > before)
    })
    .unwrap();
    assert_eq!(applied["rules"]["networks"]["used"], 35_000);
    // Other entries replace them. Half of the room is not a limit.
    lab.write_rules("many.yaml", &rules(40_000, 35_000))
        .unwrap();
    let applied = wait_until("the second are in force", Duration::from_mins(1), || {
        status().filter(|s| generation(s) > generation(&applied))
    })
    .unwrap();
    assert_eq!(applied["rules"]["networks"]["used"], 35_000);
    lab.write_rules("many.yaml", &rules(0, 70_000)).unwrap();
    let refused = wait_until("the third are refused", Duration::from_mins(1), || {
        status().filter(|s| s["rules"]["problem"].is_string())
    })
    .unwrap();
    let problem = refused["rules"]["problem"].as_str().unwrap();
    assert!(
        problem.contains("do not fit") && problem.contains("70000"),
        "{problem}"
    );
    assert_eq!(refused["rules"]["networks"]["used"], 35_000);
    assert_eq!(generation(&refused), generation(&applied));
    assert_eq!(refused["ready"], true, "the old rules are in force");
}
