//! A socket remembers its verdict under a policy's id and generation. No later policy has the same pair, even if
//! another agent wrote it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::pinned::move_owner_only;
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, Session, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Changes that give the workload's policy generations that the default policy does not have. Twice as many changes
/// after the restart would repeat all of these generations if they started again.
const CHANGES: u64 = 8;

/// The datagrams of `shop`. The default lists nothing.
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: datagrams, namespace: shop}
spec:
  hosts: [datagrams.example]
  exportTo: ['.']
  ports: [{number: 7, name: udp, protocol: UDP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.30}, {address: '2001:db8:2::30'}]
";

/// A rule that only one namespace sees. Another port makes another policy.
fn streams(namespace: &str, port: u64) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: streams, namespace: {namespace}}}
spec:
  hosts: [{namespace}.example]
  exportTo: ['.']
  ports: [{{number: {port}, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 198.51.100.99}}]
"
    )
}

/// The last generation, once this many workloads have a policy of their own.
fn generation(lab: &Lab, workloads: usize) -> u64 {
    wait_until("the workloads have their policies", SOON, || {
        let status = lab.status().ok()?;
        let all = status["workloads"].as_array()?;
        let placed = all
            .iter()
            .filter(|w| w["policy"].as_u64() > Some(0))
            .count();
        (placed == workloads).then(|| status["rules"]["generation"].as_u64())?
    })
    .unwrap()
}

#[test]
fn a_policy_after_a_restart_is_not_taken_for_the_one_that_a_socket_remembers() {
    let names = [
        "--workload",
        "{cgroup: former, namespace: shop}",
        "--workload",
        "{cgroup: client, namespace: other}",
    ];
    let mut lab = Lab::without_agent(LabOptions::flags(&names)).unwrap();
    let former = lab.workloads().child("former").unwrap();
    lab.write_rules("rules.yaml", RULES).unwrap();
    lab.start_agent().unwrap();
    for port in 1..=CHANGES {
        lab.rules("shop.yaml", &streams("shop", port)).unwrap();
    }
    let remembered = generation(&lab, 1);
    let place = Place {
        cgroup: Some(&former),
        ..lab.client_place()
    };
    let mut sockets = [v4(host::ECHO), v6(host::ECHO)]
        .map(|ip| Session::hold_udp(&place, SocketAddr::new(ip, 7)).unwrap());
    let everybody = lab.client_place().cgroup.unwrap().path();
    for socket in &sockets {
        fs::write(everybody.join("cgroup.procs"), socket.pid().to_string()).unwrap();
    }
    let mut say = |word: &str| sockets.each_mut().map(|socket| socket.say(word).unwrap());
    assert_eq!(say("listed"), ["listed"; 2]);

    // The policy with the highest generation ends with its workload.
    drop(former);
    generation(&lab, 0);
    assert_eq!(say("gone"), ["errno 1"; 2]);

    // New policies that do not list these datagrams come repeatedly.
    lab.start_agent().unwrap();
    let mut after = Vec::new();
    for port in 1..=2 * CHANGES {
        lab.rules("other.yaml", &streams("other", port)).unwrap();
        after.push(generation(&lab, 1));
        assert_eq!(
            say("other"),
            ["errno 1"; 2],
            "remembered {remembered}, now {after:?}"
        );
    }
    println!("generation {remembered} is remembered, {after:?} came after the restart");
    assert!(after.iter().all(|new| *new > remembered), "{after:?}");
}

/// `former` is in `shop` or in `other`, which lists nothing.
fn config(former: &str) -> String {
    format!(
        "onRemoval: keep
workloads:
- {{cgroup: former, namespace: {former}}}
- {{cgroup: stays, namespace: shop}}
- {{cgroup: other, namespace: other}}
"
    )
}

#[test]
fn an_agent_that_ends_while_a_workload_moves_leaves_no_verdict_of_the_former_policy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    fs::write(&file, config("shop")).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let mut lab = Lab::without_agent(LabOptions::flags(&flags)).unwrap();
    let [former, stays, other] =
        ["former", "stays", "other"].map(|name| lab.workloads().child(name).unwrap());
    lab.write_rules("rules.yaml", RULES).unwrap();
    lab.start_agent().unwrap();
    generation(&lab, 2);
    let holding = |cgroup| {
        let place = Place {
            cgroup: Some(cgroup),
            ..lab.client_place()
        };
        [v4(host::ECHO), v6(host::ECHO)]
            .map(|ip| Session::hold_udp(&place, SocketAddr::new(ip, 7)).unwrap())
    };
    let (mut moved, mut others) = (holding(&former), holding(&stays));
    let say = |sockets: &mut [Session; 2], word: &str| {
        sockets.each_mut().map(|socket| socket.say(word).unwrap())
    };
    assert_eq!(say(&mut moved, "first"), ["first"; 2]);
    assert_eq!(say(&mut others, "first"), ["first"; 2]);

    lab.agent().unwrap().kill().unwrap();
    fs::write(&file, config("other")).unwrap();
    let [former, other] = [&former, &other].map(|cgroup| cgroup.id().unwrap());
    move_owner_only(lab.bpf_dir(), former, other).unwrap();
    assert_eq!(say(&mut moved, "between"), ["between"; 2]);

    lab.start_agent().unwrap();
    assert_eq!(say(&mut moved, "after"), ["errno 1"; 2]);
    assert_eq!(say(&mut others, "after"), ["after"; 2]);

    // It is settled then: a change under `keep` leaves running flows alone, also over a kill.
    lab.rules("rules.yaml", &streams("shop", 1)).unwrap();
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
    assert_eq!(say(&mut others, "kept"), ["kept"; 2]);
}
