//! The limits of one workload in the proxy: descriptors and memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::bench::anonymous_of;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::rules::HTTPBIN;
use egress_tests::{Background, Lab, LabOptions, client, readiness, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const GOOGLE: &str = include_str!("../../examples/google.yaml");
const BUSY: &str = env!("CARGO_BIN_EXE_busy");
const SOON: Duration = Duration::from_mins(1);
const MIB: usize = 1 << 20;

/// Resident memory of the agent in bytes.
fn resident(lab: &mut Lab) -> usize {
    let bytes = lab.agent().unwrap().resident().unwrap();
    usize::try_from(bytes).unwrap()
}

fn allocated(lab: &mut Lab) -> usize {
    let bytes = anonymous_of(lab.agent().unwrap().pid()).unwrap();
    usize::try_from(bytes).unwrap()
}

fn hoard(lab: &Lab, count: usize, begin: &str, bytes: usize) -> Background {
    let target = SocketAddr::new(v4(host::HTTPBIN), 80).to_string();
    let mut command = lab.command(BUSY).unwrap();
    let (count, bytes) = (count.to_string(), bytes.to_string());
    command.args([
        "hoard", "--count", &count, "--begin", begin, "--bytes", &bytes, &target,
    ]);
    Background::start(command).unwrap()
}

#[test]
fn with_256_descriptors_a_hog_leaves_its_neighbours_and_the_agent_enough() {
    let options = LabOptions {
        descriptors: Some(256),
        ..LabOptions::default()
    };
    let mut lab = Lab::start_with(options).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let neighbour = lab.workloads().child("neighbour").unwrap();
    let hoard = hoard(&lab, 500, "GET /get HTTP/1.1\\nHost: httpbin.org\\n", 0);
    hoard
        .wait_line("all are connected", SOON, |l| l["connected"].is_number())
        .unwrap();
    let place = Place {
        cgroup: Some(&neighbour),
        ..lab.client_place()
    };
    for _ in 0..10 {
        let reply = client::curl(&place, &["http://httpbin.org/get"]).unwrap();
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    let status = lab.status().unwrap();
    assert_eq!(status["ready"], true, "{status}");
    for what in ["connections", "descriptors"] {
        let [used, limit] = ["used", "limit"].map(|of| {
            let pointer = format!("/proxyUse/{what}/{of}");
            readiness::number(&status, &pointer).unwrap()
        });
        assert!((1..=limit).contains(&used), "{what}: {status}");
        println!("{what}: {used} of {limit}");
    }
    // The agent still reads and follows the rules.
    lab.rules("google.yaml", GOOGLE).unwrap();
    let pid = lab.agent().unwrap().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(open < 240, "{open} descriptors");
    let few = |line: &serde_json::Value| line["open"].as_u64() < Some(64);
    let last = hoard.wait_line("the hog has its share", SOON, few).unwrap();
    println!("{open} descriptors open; the hog: {last}");
    let share = |line: &str| line.contains("share of the proxy's connections");
    lab.agent()
        .unwrap()
        .wait_line(0, SOON, "the reason", share)
        .unwrap();
}

/// A quarter of 16 MiB has room for 85 requests of 48 KiB.
#[test]
fn the_configured_memory_says_how_many_requests_a_workload_has_under_way() {
    const COUNT: usize = 200;
    let begin = "POST /post HTTP/1.1\\nHost: httpbin.org\\nContent-Length: 9999999\\n\\n";
    for (flags, share) in [(&["--proxy-memory", "16"][..], 20..=85), (&[], 200..=200)] {
        let mut lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
        lab.rules("httpbin.yaml", HTTPBIN).unwrap();
        let hoard = hoard(&lab, COUNT, begin, 20_000);
        let first = hoard
            .wait_line("all are connected", SOON, |l| l["connected"].is_number())
            .unwrap();
        assert_eq!(first["connected"], COUNT, "{first}");
        let lacks = *share.end() < COUNT as u64;
        if lacks {
            let says = |line: &str| line.contains("memory-limit");
            lab.agent()
                .unwrap()
                .wait_line(0, SOON, "the reason", says)
                .unwrap();
        }
        let fits = |l: &serde_json::Value| l["open"].as_u64().is_some_and(|n| share.contains(&n));
        let last = hoard.wait_line("its share", SOON, fits).unwrap();
        println!("{flags:?}: {last}");
    }
}

/// The most memory that the agent allocates under the worst load of a workload, even in a debug build. The pages of the
/// program are not counted: those of a debug build alone are 43 MB.
const MOST: usize = 84_000_000;

#[test]
fn unfinished_requests_of_a_workload_take_a_bounded_share_of_memory_and_give_it_back() {
    const COUNT: usize = 4000;
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    let before = resident(&mut lab);
    let neighbour = lab.workloads().child("neighbour").unwrap();
    for (what, begin, bytes) in [
        ("short heads", "GET /get HTTP/1.1\\nHost: httpbin.org\\n", 0),
        (
            "long heads",
            "GET /get HTTP/1.1\\nHost: httpbin.org\\nx: ",
            55_000,
        ),
        ("no more than a long method", "", 40),
        (
            "bodies",
            "POST /post HTTP/1.1\\nHost: httpbin.org\\nContent-Length: 9999999\\n\\n",
            200_000,
        ),
        (
            "responses that nobody reads",
            "GET /bytes/400000 HTTP/1.1\\nHost: httpbin.org\\n\\n",
            0,
        ),
        ("ends of lines", "\\n\\n", 0),
    ] {
        let hoard = hoard(&lab, COUNT, begin, bytes);
        let first = hoard
            .wait_line("all are connected", SOON, |l| l["connected"].is_number())
            .unwrap();
        let mut most = 0;
        let seen = hoard.lines().len();
        wait_until("longer than a request waits for memory", SOON, || {
            most = most.max(allocated(&mut lab));
            let place = Place {
                cgroup: Some(&neighbour),
                ..lab.client_place()
            };
            let reply = client::curl(&place, &["http://httpbin.org/get"]).unwrap();
            assert_eq!(reply.code, 200, "{what}: {reply:?}");
            (hoard.lines().len() > seen + 8).then_some(())
        })
        .unwrap();
        let last = hoard.lines().pop().unwrap();
        println!(
            "{what}: {first} {last}, {} MiB resident before, {} kB allocated at most",
            before / MIB,
            most / 1000
        );
        assert!(most < MOST, "{what}: {} MiB", most / MIB);
        hoard.end().unwrap();
        let mut after = 0;
        wait_until("the memory is given back", SOON, || {
            after = resident(&mut lab);
            // All of it, else the next load would be measured with the rest.
            (after <= before).then_some(())
        })
        .unwrap_or_else(|error| panic!("{what}: {} MiB: {error}", after / MIB));
        println!("{what}: {} MiB afterwards", after / MIB);
    }
}
