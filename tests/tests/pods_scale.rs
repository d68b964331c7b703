//! Many workloads on one node: their cost for the agent, and the time until a new one is governed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4};
use egress_tests::{Lab, LabOptions, Session, pinned, probe, wait_until};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

const WORKLOADS: usize = 500;
const POLICIES: usize = 50;
/// The number of new workloads that are measured.
const SAMPLES: usize = 21;
const SOON: Duration = Duration::from_secs(5);
/// How often a client's cgroup is replaced by another.
const CHANGES: usize = 1000;

/// A host of its own for each namespace, which no other one sees.
fn rules() -> String {
    let mut text = String::new();
    for n in 0..POLICIES {
        writeln!(
            text,
            "apiVersion: networking.istio.io/v1\n\
             kind: ServiceEntry\n\
             metadata: {{name: own, namespace: ns-{n}}}\n\
             spec:\n\
             \x20 hosts: [own-{n}.example]\n\
             \x20 exportTo: ['.']\n\
             \x20 addresses: [198.51.100.{}]\n\
             \x20 ports: [{{number: 443, name: tls, protocol: TLS}}, {{number: 5432, name: tcp, protocol: TCP}}]\n\
             \x20 resolution: STATIC\n\
             \x20 endpoints: [{{address: 198.51.100.{}}}]\n---",
            100 + n,
            100 + n
        )
        .unwrap();
    }
    text
}

/// Cgroups `nsN-*` are workloads of the namespace `ns-N`.
fn lab() -> Lab {
    let entries = (0..POLICIES).map(|n| format!("{{cgroup: ns{n}-*, namespace: ns-{n}}}"));
    let lab = Lab::start_with(LabOptions {
        agent: entries
            .flat_map(|entry| ["--workload".to_owned(), entry])
            .collect(),
        ..LabOptions::default()
    })
    .unwrap();
    lab.rules("rules.yaml", &rules()).unwrap();
    lab
}

#[test]
fn five_hundred_workloads_cost_little_and_a_new_one_is_governed_at_once() {
    let mut lab = lab();
    let bpf = lab.bpf_dir().to_owned();
    let owners = || pinned::owners(&bpf).unwrap();
    let proxies = || pinned::proxies(&bpf).unwrap();
    let links = || pinned::attached(&bpf).unwrap().len();
    let resident = |lab: &mut Lab| lab.agent().unwrap().resident_beside_program().unwrap();
    let (alone, attached) = (resident(&mut lab), links());

    let mut cgroups = Vec::new();
    let mut running = Vec::new();
    for n in 0..WORKLOADS {
        let cgroup = lab
            .workloads()
            .child(&format!("ns{}-{n}", n % POLICIES))
            .unwrap();
        let place = egress_tests::place::Place {
            cgroup: Some(&cgroup),
            ..lab.agent_place()
        };
        let mut command = place.command("unshare").unwrap();
        command
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null());
        running.push(Guarded::spawn(&mut command).unwrap());
        cgroups.push(cgroup);
    }
    wait_until(
        "each has its policy and its proxy",
        Duration::from_mins(1),
        || (owners() == WORKLOADS && proxies() == WORKLOADS + 1).then_some(()),
    )
    .unwrap();
    let all = resident(&mut lab);
    assert_eq!(links(), attached, "programs are attached to the roots only");

    // Ten workloads of each namespace see its host and no other.
    let place = egress_tests::place::Place {
        cgroup: Some(&cgroups[3]),
        ..lab.agent_place()
    };
    for n in 0..6 {
        let to = SocketAddr::new(v4(100 + n), 5432);
        let answer = probe::attempt(&place, "tcp", to).unwrap();
        assert_eq!(answer.denied(), n != 3, "{to}: {answer:?}");
    }

    let mut times = Vec::new();
    for n in 0..SAMPLES {
        // The engine answers after the removal before, which ends with a wait for running programs.
        lab.status().unwrap();
        let folder = lab
            .workloads()
            .path()
            .join(format!("ns{}-new{n}", n % POLICIES));
        let before = owners();
        fs::create_dir(&folder).unwrap();
        let start = Instant::now();
        while owners() == before {
            assert!(start.elapsed() < Duration::from_secs(5), "not governed");
        }
        times.push(start.elapsed());
        fs::remove_dir(&folder).unwrap();
        wait_until("it is forgotten", Duration::from_secs(5), || {
            (owners() == before).then_some(())
        })
        .unwrap();
    }
    times.sort_unstable();
    let (median, longest) = (times[SAMPLES / 2], times[SAMPLES - 1]);
    println!(
        "{WORKLOADS} workloads, {POLICIES} policies: {} MiB resident ({} MiB alone), {attached} links, governed in {median:?} (longest {longest:?} of {SAMPLES})",
        all >> 20,
        alone >> 20,
    );
    assert!(all < 32 << 20, "{all} bytes");
    assert!(median < Duration::from_millis(20), "{times:?}");

    drop(running);
    wait_until(
        "the proxy has left their namespaces",
        Duration::from_secs(20),
        || (proxies() == 1).then_some(()),
    )
    .unwrap();
}

#[test]
fn what_everyone_may_reach_is_never_refused_while_workloads_come_and_go() {
    let lab = lab();
    // Nothing listens there, so the answer comes at once and no queue can be full.
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: all}\nspec:\n  \
                 hosts: [all.example]\n  resolution: STATIC\n  \
                 ports: [{number: 9, name: tcp, protocol: TCP}]\n  \
                 endpoints: [{address: 198.51.100.30}]\n";
    lab.rules("all.yaml", entry).unwrap();
    let to = SocketAddr::new(v4(host::ECHO), 9);
    let client = Session::connects(&lab.client_place(), to).unwrap();
    // The client's cgroup is removed at the moment at which another one, with another policy, is created.
    let bpf = lab.bpf_dir().to_owned();
    let owners = || pinned::owners(&bpf).unwrap();
    let mut left: Option<PathBuf> = None;
    for n in 0..CHANGES {
        let name = format!("ns{}-moving{n}", n % POLICIES);
        let folder = lab.workloads().path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), client.pid().to_string()).unwrap();
        if let Some(left) = left.replace(folder) {
            fs::remove_dir(left).unwrap();
        }
        // The test waits only after every third change, so the agent may see three changes at once.
        if n % 3 == 0 {
            wait_until("the agent has heard", SOON, || {
                (owners() == 1).then_some(())
            })
            .unwrap();
        }
    }
    let tally = client.tally().unwrap();
    let wrong = (tally.denied, tally.connected, tally.other);
    assert_eq!(wrong, (0, 0, 0), "{tally:?}");
    assert!(tally.refused > 1000, "{tally:?}");
}
