//! Workloads in deeply nested cgroups: each has its policy down to the deepest level that the kernel judges. Deeper
//! cgroups are denied and reported.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup::{Cgroup, mount_point};
use egress_tests::lab::{host, v4, v6};
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, probe, wait_until};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The deepest level of cgroups that the kernel judges, counted from the hierarchy's root.
const LIMIT: usize = 32;
/// The level of the first cgroups below the lab's enforced root.
const FIRST: usize = 3;
/// How long the agent may take to recognise a new cgroup.
const SOON: Duration = Duration::from_secs(10);

/// The root's default lists both; a workload of `shop` lists only the first.
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: listed}
spec:
  hosts: [listed.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.30}, {address: '2001:db8:2::30'}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide}
spec:
  hosts: [wide.example]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.99}, {address: '2001:db8:2::99'}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress: [{hosts: ['*/listed.example']}]
";

/// Levels of a cgroup below the hierarchy's root.
fn level(cgroup: &Path) -> usize {
    let below = cgroup.strip_prefix(mount_point().unwrap()).unwrap();
    below.components().count()
}

/// Names of nested cgroups from below the enforced root down to a level.
fn path(prefix: &str, to: usize) -> String {
    let names: Vec<String> = (FIRST..=to).map(|at| format!("{prefix}{at}")).collect();
    names.join("/")
}

/// Nested cgroups of these names.
fn nest(lab: &Lab, names: &str) -> Vec<Cgroup> {
    let mut made: Vec<Cgroup> = Vec::new();
    for name in names.split('/') {
        let above = made.last().unwrap_or_else(|| lab.workloads());
        made.push(above.child(name).unwrap());
    }
    assert_eq!(level(made[0].path()), FIRST);
    made
}

/// The errno for the destination that all list, and for the one that only the default lists, over IPv4 and IPv6.
fn tries(lab: &Lab, cgroup: &Cgroup) -> [[Option<i32>; 2]; 2] {
    let place = Place {
        cgroup: Some(cgroup),
        ..lab.client_place()
    };
    let both = |last, port| {
        [v4(last), v6(last)].map(|ip| {
            let to = SocketAddr::new(ip, port);
            probe::attempt(&place, "tcp", to).unwrap().errno
        })
    };
    [both(host::ECHO, 7), both(host::BYSTANDER, 80)]
}

const PASSES: [Option<i32>; 2] = [None; 2];
const DENIED: [Option<i32>; 2] = [Some(libc::EPERM); 2];
const DEFAULT: [[Option<i32>; 2]; 2] = [PASSES, PASSES];
const NARROW: [[Option<i32>; 2]; 2] = [PASSES, DENIED];

/// Waits for an outcome. The error has the actual one.
fn eventually(
    lab: &Lab,
    cgroup: &Cgroup,
    want: [[Option<i32>; 2]; 2],
    what: &str,
) -> Result<(), String> {
    let mut last = None;
    let found = wait_until(what, SOON, || {
        last = Some(tries(lab, cgroup));
        (last == Some(want)).then_some(())
    });
    found.map_err(|_| format!("{what}: {last:?}, not {want:?}"))
}

/// A lab with workloads of `shop` at these levels, each in its own chain of cgroups.
fn lab(levels: &[usize]) -> Lab {
    let entries = levels.iter().map(|to| {
        let cgroup = path(&format!("w{to}-"), *to);
        format!("{{cgroup: {cgroup}, namespace: shop}}")
    });
    let options = LabOptions {
        agent: entries.flat_map(|e| ["--workload".to_owned(), e]).collect(),
        ..LabOptions::default()
    };
    let lab = Lab::start_with(options).unwrap();
    lab.rules("depth.yaml", RULES).unwrap();
    lab
}

#[test]
fn a_workload_and_all_below_it_have_its_policy_at_every_level_that_the_kernel_judges() {
    // The level of each workload, and the levels of processes in it.
    let lines: [(usize, &[usize]); 4] = [
        (8, &[8, 9, 12]),
        (3, &[3, 14]),
        (18, &[18, 19, 24]),
        (LIMIT - 1, &[LIMIT - 1, LIMIT]),
    ];
    let lab = lab(&lines.map(|(named, _)| named));
    let mut wrong = Vec::new();
    for (named, levels) in lines {
        let deepest = *levels.last().unwrap();
        let made = nest(&lab, &path(&format!("w{named}-"), deepest));
        for at in levels {
            let what = format!("named at {named}, process at {at}");
            wrong.extend(eventually(&lab, &made[at - FIRST], NARROW, &what).err());
        }
        if named > FIRST {
            let what = format!("above the one named at {named}");
            wrong.extend(eventually(&lab, &made[0], DEFAULT, &what).err());
        }
    }
    let other = nest(&lab, &path("other", LIMIT));
    let what = format!("named by nobody, process at {LIMIT}");
    wrong.extend(eventually(&lab, &other[LIMIT - FIRST], DEFAULT, &what).err());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let status = lab.status().unwrap();
    assert_eq!(status["rules"]["tooDeep"]["cgroups"], 0, "{status}");
}

#[test]
fn what_lies_deeper_is_denied_with_its_reason_and_told_of() {
    let mut lab = lab(&[3]);
    let names = path("w3-", 3) + "/" + &path("x", LIMIT + 3)["x3/".len()..];
    for start in ["the running agent", "another one"] {
        let made = nest(&lab, &names);
        if start == "another one" {
            lab.start_agent().unwrap();
        }
        eventually(&lab, &made[LIMIT - FIRST], NARROW, "the deepest judged").unwrap();
        let beyond = made[LIMIT + 1 - FIRST].path().display().to_string();
        for at in [LIMIT + 1, LIMIT + 3] {
            assert_eq!(tries(&lab, &made[at - FIRST]), [DENIED; 2], "level {at}");
        }
        let agent = lab.agent().unwrap();
        for (what, word) in [
            ("the denial", r#"denied reason="cgroup-depth""#),
            ("the cgroup", &beyond),
        ] {
            let line = agent
                .wait_line(0, SOON, what, |line| line.contains(word))
                .unwrap();
            println!("{start}: {line}");
        }
        let status = lab.status().unwrap();
        let told = &status["rules"]["tooDeep"];
        assert_eq!(
            (&told["cgroups"], &told["first"]),
            (&1.into(), &beyond.into())
        );
        drop(made);
        wait_until("status tells that it is gone", SOON, || {
            let status = lab.status().ok()?;
            (status["rules"]["tooDeep"]["cgroups"] == 0).then_some(())
        })
        .unwrap();
    }
}
