//! A workload gets another policy while its connections run.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup::Cgroup;
use egress_tests::client;
use egress_tests::lab::{host, v4, v6};
use egress_tests::pinned::forget_ancestors;
use egress_tests::place::Place;
use egress_tests::{Background, Lab, LabOptions, Load, wait_until};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BUSY: &str = env!("CARGO_BIN_EXE_busy");
const SOON: Duration = Duration::from_secs(10);
/// The time after a change, in microseconds, from which the previous policy must not allow anything.
const IN_FORCE: u64 = 100_000;

/// Two hosts on one address.
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: both}
spec:
  hosts: [a.example, b.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.10}, {address: '2001:db8:2::10'}]
";

/// The workload's namespace sees one of them.
const NARROW: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress: [{hosts: ['*/a.example']}]
";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

fn asking(lab: &Lab, name: &str, target: SocketAddr) -> Background {
    let mut command = lab.command(BUSY).unwrap();
    command.args(["ask", "--host", name, &target.to_string()]);
    Background::start(command).unwrap()
}

/// A client in a cgroup of its own.
fn within<'a>(lab: &'a Lab, cgroup: &'a Cgroup) -> Place<'a> {
    Place {
        cgroup: Some(cgroup),
        ..lab.client_place()
    }
}

/// Waits with `status`, because the log's rate limit drops lines of thousands of changes.
fn wait_objects(lab: &Lab, objects: u64) {
    wait_until("the rules are in force", SOON, || {
        (lab.status().unwrap()["rules"]["objects"] == objects).then_some(())
    })
    .unwrap();
}

/// `EGRESS_POLICY_CHANGES` sets another number of changes.
#[test]
fn a_narrowed_workload_gets_no_answer_by_its_former_policy() {
    let changes = std::env::var("EGRESS_POLICY_CHANGES").ok();
    let changes: u64 = changes.map_or(12, |text| text.parse().unwrap());
    let entry = "{cgroup: client, namespace: shop}";
    let lab = Lab::start_with(LabOptions::flags(&["--workload", entry])).unwrap();
    lab.rules("both.yaml", RULES).unwrap();
    let targets = [v4(host::HTTPBIN), v6(host::HTTPBIN)].map(|ip| SocketAddr::new(ip, 80));
    let clients = targets.map(|target| {
        (
            asking(&lab, "b.example", target),
            asking(&lab, "a.example", target),
        )
    });
    for (b, a) in &clients {
        for client in [a, b] {
            client
                .wait_line("a first answer", SOON, |l| l["outcome"] == "200")
                .unwrap();
        }
    }
    // (from, until): 200 is a leak.
    let mut narrow = Vec::new();
    for _ in 0..changes.div_ceil(2) {
        let written = now();
        lab.write_rules("narrow.yaml", NARROW).unwrap();
        wait_objects(&lab, 2);
        let from = now() + IN_FORCE;
        for (b, _) in &clients {
            b.wait_line("b is denied", SOON, |l| {
                l["outcome"] == "status 502" && l["at"].as_u64() > Some(written)
            })
            .unwrap();
        }
        narrow.push((from, now()));
        let written = now();
        fs::remove_file(lab.rules_dir().join("narrow.yaml")).unwrap();
        wait_objects(&lab, 1);
        for (b, _) in &clients {
            b.wait_line("b is listed again", SOON, |l| {
                l["outcome"] == "200" && l["at"].as_u64() > Some(written)
            })
            .unwrap();
        }
    }
    for (b, a) in clients {
        // The times in which the outcome was 200: from its line to the next.
        let lines = b.lines();
        let at = |line: &serde_json::Value| line["at"].as_u64();
        for pair in lines.windows(2).filter(|pair| pair[0]["outcome"] == "200") {
            let (begin, end) = (at(&pair[0]).unwrap(), at(&pair[1]).unwrap_or(u64::MAX));
            for (from, until) in &narrow {
                assert!(
                    begin > *until || end <= *from,
                    "200 from {begin} to {end}; narrow from {from} to {until}"
                );
            }
        }
        println!("b: {} changes seen, {}", lines.len(), b.end().unwrap());
        let outcomes: Vec<_> = a.lines().iter().map(|l| l["outcome"].clone()).collect();
        assert_eq!(outcomes, ["200"], "a stays listed");
        println!("a: {}", a.end().unwrap());
    }
}

const ECHO: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.30}, {address: '2001:db8:2::30'}]
";

/// The agent is stopped while the workload starts, so that its flows begin under the root's default.
#[test]
fn a_flow_from_before_its_workload_was_recognised_ends_where_the_workloads_policy_denies_it() {
    let entry = "{cgroup: late, namespace: shop}";
    let mut lab = Lab::start_with(LabOptions::flags(&["--workload", entry])).unwrap();
    lab.rules("both.yaml", RULES).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    lab.rules("narrow.yaml", NARROW).unwrap();
    lab.agent().unwrap().signal(Signal::STOP).unwrap();
    let late = lab.workloads().child("late").unwrap();
    let place = within(&lab, &late);
    let hold = |place: &Place<'_>, ip| {
        let to = SocketAddr::new(ip, 7).to_string();
        Load::start(place, &["hold", &to]).unwrap()
    };
    let ips = [v4(host::ECHO), v6(host::ECHO)];
    let narrowed = ips.map(|ip| hold(&place, ip));
    let kept = ips.map(|ip| hold(&lab.client_place(), ip));
    lab.agent().unwrap().signal(Signal::CONT).unwrap();
    wait_until("the flows are ended", SOON, || {
        (lab.status().unwrap()["rules"]["flowsEnded"] == 2).then_some(())
    })
    .unwrap();
    for flow in narrowed {
        let counts = flow.stop().unwrap();
        assert!(
            counts.contains_key("hold.errno103"),
            "ECONNABORTED: {counts:?}"
        );
    }
    for flow in kept {
        let counts = flow.stop().unwrap();
        assert!(counts.keys().all(|name| name == "hold.ok"), "{counts:?}");
    }
}

/// The agent is stopped while the connections are made. When it accepts them, the kernel no longer knows their
/// workload. The policy at the time of the redirect listed the host.
#[test]
fn a_redirected_flow_whose_owner_the_kernel_forgot_is_denied_with_its_reason() {
    let entry = "{cgroup: busy, namespace: shop}";
    let mut lab = Lab::start_with(LabOptions::flags(&["--workload", entry])).unwrap();
    lab.rules("both.yaml", RULES).unwrap();
    let busy = lab.workloads().child("busy").unwrap();
    for ip in [v4(host::HTTPBIN), v6(host::HTTPBIN)] {
        let to = SocketAddr::new(ip, 80).to_string();
        lab.agent().unwrap().signal(Signal::STOP).unwrap();
        let mut command = within(&lab, &busy).command(BUSY).unwrap();
        let begin = "GET / HTTP/1.1\\nHost: a.example\\n\\n";
        command.args(["hoard", "--count", "1", "--begin", begin, &to]);
        let client = Background::start(command).unwrap();
        client
            .wait_line("the connection", SOON, |l| l["connected"] == 1)
            .unwrap();
        forget_ancestors(lab.bpf_dir(), busy.id().unwrap()).unwrap();
        let agent = lab.agent().unwrap();
        let mark = agent.mark();
        agent.signal(Signal::CONT).unwrap();
        let told = |line: &str| line.contains("reason=\"unknown-owner\"") && line.contains(&to);
        agent.wait_line(mark, SOON, "the denial", told).unwrap();
        client
            .wait_line("the end", SOON, |l| l["open"] == 0)
            .unwrap();
        client.end().unwrap();
        let url = format!("http://{to}/");
        let again = client::curl(&within(&lab, &busy), &["-H", "Host: a.example", &url]).unwrap();
        assert_eq!(again.code, 200, "{again:?}");
    }
}
