//! What stays while names and addresses come and go: the addresses of idle connections, and a neighbour's names in a flood.

use crate::setting::{WILD, addresses, ask, lab, lines, python};
use egress_tests::bench::anonymous_of;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::queries::{NO_ERROR, script};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Background, Lab, pinned, wait_until};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// Some times the grace of the first test.
const LATER: Duration = Duration::from_secs(40);

fn denied(lab: &Lab, to: IpAddr, port: u16) -> bool {
    lab.attempt("tcp", SocketAddr::new(to, port)).unwrap().errno == Some(libc::EPERM)
}

#[test]
fn a_pool_of_idle_connections_keeps_its_addresses_and_may_connect_again() {
    let lab = lab(&["--dns-min-ttl=1s", "--dns-grace=3s"]);
    let idle = [(v4(141), 7), (v4(142), 80)];
    let pool = [(v4(host::ECHO), 7), (v4(host::HTTPBIN), 80)];
    let zone = ["echo.example", "httpbin.org"];
    for (name, (used, unused)) in zone.iter().zip(pool.iter().zip(idle)) {
        lab.dns.set(name, &[used.0, unused.0], 1);
    }
    lab.rules("echo.yaml", ECHO).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for (to, port) in idle.into_iter().chain(pool) {
        wait_until("the address is allowed", SOON, || {
            (!denied(&lab, to, port)).then_some(())
        })
        .unwrap();
    }
    let mut command = lab.command("python3").unwrap();
    command.arg(script("pooled.py")).args([
        pool[0].0.to_string(),
        pool[1].0.to_string(),
        "httpbin.org".to_owned(),
    ]);
    let mut client = Background::start(command).unwrap();
    client
        .wait_line("both connections are open", SOON, |line| line == "idle")
        .unwrap();
    // The proxy dials the new address of a host, whichever one the client dialled.
    lab.world().http_as(&lab.httpbin, &[v4(144)], 80).unwrap();
    for (name, next) in zone.iter().zip([v4(143), v4(144)]) {
        lab.dns.set(name, &[next], 1);
    }
    // The time that the addresses have without connections.
    for (to, port) in idle {
        wait_until("an address that nobody uses has ended", LATER, || {
            denied(&lab, to, port).then_some(())
        })
        .unwrap();
    }
    client.say("go\n").unwrap();
    assert_eq!(client.end().unwrap(), json!([]), "what failed");
    for (to, port) in pool {
        wait_until("it ends after its last connection", LATER, || {
            denied(&lab, to, port).then_some(())
        })
        .unwrap();
    }
}

/// More addresses than a learned name has (`Bounds::addresses` of the pure crate).
const MANY: u32 = 700;

#[test]
fn a_client_gets_only_those_of_many_addresses_that_are_allowed() {
    let lab = lab(&[]);
    lab.rules("wild.yaml", WILD).unwrap();
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    let all: Vec<IpAddr> = (0..MANY)
        .map(|n| Ipv4Addr::from(first + n).into())
        .collect();
    lab.dns.set("many.wild.example", &all, 1);
    let answer = ask(&lab.client_place(), "tcp", "many.wild.example", "192.0.2.1");
    let given = addresses(&answer);
    assert!(
        given.len() > 100 && given.len() < all.len(),
        "{}",
        given.len()
    );
    // The node has no route there: only the gate answers with EPERM.
    for to in given.iter().rev().take(20).chain(given.iter().take(20)) {
        assert!(!denied(&lab, *to, 7), "{to}");
    }
    let left_out = all.iter().filter(|ip| !given.contains(ip));
    for to in left_out.take(5) {
        assert!(denied(&lab, *to, 7), "{to}");
    }
}

/// Names of a flood: more than a policy may have below one host.
const FLOOD: usize = 1_536;
/// The most names of a workload below one host (`Bounds::of_workload` of the pure crate), and a few of the neighbour.
const LEARNED: u64 = 1024 + 8;
/// What further floods may add to the agent's memory in all, in bytes: much less than what their names take.
const MORE: u64 = 8 << 20;

#[test]
fn a_flood_below_a_wildcard_takes_bounded_memory_and_no_name_of_a_neighbour() {
    let entry = |name: &str| format!("--workload={{cgroup: '**/only-{name}', namespace: {name}}}");
    let flags = [entry("flood"), entry("neighbour")];
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend([
        "--dns-below-burst=1000000",
        "--dns-below-per-minute=1000000",
    ]);
    let mut lab = lab(&flags);
    lab.rules("wild.yaml", WILD).unwrap();
    let cgroups =
        ["flood", "neighbour"].map(|name| lab.workloads().child(&format!("only-{name}")).unwrap());
    for cgroup in &cgroups {
        let id = cgroup.id().unwrap();
        let owned = || pinned::has_owner(lab.bpf_dir(), id).unwrap().then_some(());
        wait_until("the workload has an identity", SOON, owned).unwrap();
    }
    lab.dns.set("kept.wild.example", &[v4(host::ECHO)], 1);
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let pool: Vec<IpAddr> = (0..50_000)
        .map(|n| Ipv4Addr::from(first + n).into())
        .collect();
    lab.dns.rotate("*.wild.example", &pool, 4, 1);
    let mut memory = Vec::new();
    for (round, prefix) in ["a", "b", "c", "d", "e", "f"].iter().enumerate() {
        let places = cgroups.each_ref().map(|cgroup| Place {
            cgroup: Some(cgroup),
            ..lab.client_place()
        });
        let [flood, neighbour] = &places;
        if round == 0 {
            let kept = ask(neighbour, "connected", "kept.wild.example", "192.0.2.1");
            assert_eq!(addresses(&kept), [v4(host::ECHO)]);
        }
        let codes = lines(&python(
            flood,
            "flood.py",
            &[&FLOOD.to_string(), prefix, "wild.example", "192.0.2.1"],
        ));
        assert_eq!(
            codes,
            [json!({"0": FLOOD})],
            "every name of the flood is answered"
        );
        let to = SocketAddr::new(v4(host::ECHO), 7);
        let reached = egress_tests::probe::attempt(neighbour, "tcp-echo", to).unwrap();
        assert!(
            reached.passed(),
            "the neighbour's address after the flood: {reached:?}"
        );
        let new = ask(
            neighbour,
            "connected",
            &format!("new-{prefix}.wild.example"),
            "192.0.2.1",
        );
        assert_eq!(
            (new["code"].as_u64(), addresses(&new).len()),
            (Some(NO_ERROR), 4)
        );
        let status = lab.status().unwrap();
        let learned = status["rules"]["namesLearned"].as_u64().unwrap();
        assert!((1024..=LEARNED).contains(&learned), "{learned}");
        memory.push(anonymous_of(lab.agent().unwrap().pid()).unwrap());
    }
    let kib: Vec<u64> = memory.iter().map(|bytes| bytes >> 10).collect();
    println!("memory in KiB after each {FLOOD} names: {kib:?}");
    assert!(memory[5] < memory[0] + MORE, "{kib:?}");
}

#[test]
fn clients_that_take_no_replies_use_little_memory_and_delay_no_neighbour() {
    let mut lab = lab(&[]);
    let six = |n: u16| IpAddr::from([0x2001, 0xdb8, 2, 0, 1, 0, 0, n]);
    let every: Vec<IpAddr> = (0..1450).map(six).collect();
    lab.dns.set("echo.example", &every, 60);
    lab.rules("echo.yaml", ECHO).unwrap();
    wait_until("an answer of 40 KB", SOON, || {
        let answer = ask(&lab.client_place(), "tcp:AAAA", "echo.example", "192.0.2.1");
        (answer["length"].as_u64() > Some(40_000)).then_some(())
    })
    .unwrap();
    let agent = lab.agent().unwrap().pid();
    let before = anonymous_of(agent).unwrap();
    let mut command = lab.command("python3").unwrap();
    let arguments = ["stalled:AAAA", "echo.example", "192.0.2.1"];
    command.arg(script("dns.py")).args(arguments);
    let client = Background::start(command).unwrap();
    client
        .wait_line("all queries are sent", SOON, |line| {
            line["connections"] == 128
        })
        .unwrap();
    let cgroup = lab.workloads().child("neighbour").unwrap();
    let neighbour = Place {
        cgroup: Some(&cgroup),
        ..lab.client_place()
    };
    let (until, mut most) = (Instant::now() + Duration::from_secs(4), 0);
    while Instant::now() < until {
        most = most.max(anonymous_of(agent).unwrap().saturating_sub(before));
        for way in ["connected:AAAA", "tcp:AAAA"] {
            let answer = ask(&neighbour, way, "echo.example", "192.0.2.1");
            assert_eq!(answer["code"], NO_ERROR, "{answer}");
        }
    }
    assert!(most < 32 << 20, "{} MiB", most >> 20);
}
