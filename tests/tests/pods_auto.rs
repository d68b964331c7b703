//! `cgroups: [auto]`: the agent finds the cgroup in which the kubelet creates pods, also if the kubelet starts later.
//!
//! A node is a cgroup namespace whose root is a test's cgroup, as for a node that is a container. The test creates the
//! kubelet's cgroups.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::probe::{self, Answer, Session};
use egress_tests::readiness::{not_ready, wait_status};
use egress_tests::{Lab, LabOptions, agent};
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `boot-unit install` writes this unit to the node.
const UNIT: &str = include_str!("../../deploy/systemd/egress-gate-kubelet.service");

/// A container's cgroup below the pods' root, by both drivers.
const CGROUPFS: &str = "kubepods/burstable/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0/abc";
const SYSTEMD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice/cri-containerd-abc.scope";

/// A lab whose agent sees only `cgroup` of the hierarchy, mounted on `/mnt`.
struct Node {
    lab: Lab,
    cgroup: Cgroup,
    _turn: MutexGuard<'static, ()>,
}

/// One node at a time: a client that connects without a pause uses a whole processor.
static TURN: Mutex<()> = Mutex::new(());

impl Node {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::without_agent(LabOptions::default()).unwrap();
        let cgroup = Cgroup::new().unwrap();
        Self {
            lab,
            cgroup,
            _turn: turn,
        }
    }

    /// A cgroup that the kubelet or the runtime makes.
    fn make(&self, path: &str) {
        fs::create_dir_all(self.cgroup.path().join(path)).unwrap();
    }

    /// A command of the agent, started in the cgroup `path` of the node.
    fn command(&self, path: &str, words: &[OsString]) -> Command {
        let place = Place {
            cgroup: Some(&self.cgroup),
            ..self.lab.agent_place()
        };
        let mut command = place.command("unshare").unwrap();
        command.args([
            "--cgroup",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
        ]);
        // The shell stays process 1, whose namespaces are the node's.
        let script = "mount --make-rprivate / && mount -t cgroup2 none /mnt && \
                      sh -c 'echo 0 > \"/mnt/$0/cgroup.procs\" && exec \"$@\"' \"$@\"; exit $?";
        command.args(["sh", "-c", script, "node", path]);
        command.arg(agent::binary().unwrap()).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// An agent that finds the pods' root, started in the cgroup `path` of the node.
    fn agent(&self, path: &str) -> Guarded {
        let mut words = Vec::new();
        let mut given = self.lab.agent_arguments().into_iter();
        while let Some(word) = given.next() {
            match word.to_str().unwrap() {
                "--cgroup" => words.extend([word, "auto".into()]),
                "--agent-cgroup" => {}
                _ => {
                    words.push(word);
                    continue;
                }
            }
            given.next();
        }
        Guarded::spawn(&mut self.command(path, &words)).unwrap()
    }

    /// A connect to a destination that nothing lists.
    fn attempt(&self, path: &str) -> Answer {
        let cgroup = self.cgroup.path().join(path).join("probe");
        fs::create_dir_all(&cgroup).unwrap();
        let cgroup = Cgroup::adopt(&cgroup);
        let place = Place {
            cgroup: Some(&cgroup),
            ..self.lab.client_place()
        };
        probe::attempt(&place, "tcp", SocketAddr::new(v4(host::BYSTANDER), 80)).unwrap()
    }

    fn members(&self, path: &str) -> usize {
        let file = self.cgroup.path().join(path).join("cgroup.procs");
        fs::read_to_string(file).unwrap_or_default().lines().count()
    }
}

fn ready(node: &Node) -> serde_json::Value {
    wait_status(&node.lab, "ready", |s| s["ready"] == true).unwrap()
}

#[test]
fn a_pods_root_that_appears_later_is_closed_whichever_driver_made_it() {
    let node = Node::new();
    node.make("system.slice");
    let agent = node.agent("system.slice");
    let why = not_ready(&node.lab, "no pods' root was found").unwrap();
    assert!(why.contains("/mnt/kubepods, /mnt/kubepods.slice"), "{why}");
    node.make(CGROUPFS);
    ready(&node);
    assert!(node.attempt(CGROUPFS).denied());
    // Another kubelet, with the other driver.
    node.make(SYSTEMD);
    wait_status(&node.lab, "both are closed", |_| {
        node.attempt(SYSTEMD).denied()
    })
    .unwrap();
    assert!(node.attempt(CGROUPFS).denied());
    ready(&node);
    assert!(node.attempt("system.slice").passed(), "not a pod");
    drop(agent);
}

#[test]
fn an_agent_in_a_pod_closes_its_own_pods_root_and_leaves_it() {
    let in_kind = format!("kubelet.slice/kubelet-{SYSTEMD}");
    for (own, root) in [
        (SYSTEMD, "/mnt/kubepods.slice"),
        (CGROUPFS, "/mnt/kubepods"),
        (&in_kind, "/mnt/kubelet.slice/kubelet-kubepods.slice"),
    ] {
        let node = Node::new();
        node.make(own);
        let agent = node.agent(own);
        let status = ready(&node);
        assert_eq!(status["roots"], serde_json::json!([root]), "{own}");
        assert_eq!(node.members("egress-agent"), 1, "{own}");
        assert_eq!(node.members(own), 0, "{own}");
        assert!(node.attempt(own).denied(), "{own}");
        drop(agent);
    }
}

/// The command line of the unit that the chart installs, with the pins of the test.
fn boot_command(node: &Node) -> Vec<OsString> {
    let start = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = start.unwrap().split(' ');
    assert!(
        words.next().unwrap().ends_with("/egress-agent"),
        "{start:?}"
    );
    let mut words: Vec<OsString> = words.map(OsString::from).collect();
    words.extend(["--bpf-dir".into(), node.lab.bpf_dir().into()]);
    words
}

#[test]
fn both_places_are_closed_at_boot_and_the_agent_adopts_the_one_in_use() {
    let node = Node::new();
    node.make("system.slice");
    let close = boot_command(&node);
    for _ in 0..2 {
        let closed = node.command("system.slice", &close).output().unwrap();
        let said = String::from_utf8_lossy(&closed.stdout).into_owned();
        assert!(closed.status.success(), "{closed:?}");
        assert_eq!(said, "closed: /mnt/kubepods\nclosed: /mnt/kubepods.slice\n");
    }
    for path in [CGROUPFS, SYSTEMD] {
        assert!(node.attempt(path).denied(), "{path}");
    }
    // A pod that the kubelet starts before the agent.
    let cgroup = node.cgroup.path().join(SYSTEMD).join("early");
    fs::create_dir_all(&cgroup).unwrap();
    let cgroup = Cgroup::adopt(&cgroup);
    let place = Place {
        cgroup: Some(&cgroup),
        ..node.lab.client_place()
    };
    let unlisted = SocketAddr::new(v4(host::BYSTANDER), 80);
    let early = Session::connects(&place, unlisted).unwrap();
    let agent = node.agent(SYSTEMD);
    let status = ready(&node);
    assert_eq!(status["adopted"], true, "{status}");
    let tally = early.tally().unwrap();
    println!("from the unit to a ready agent: {tally:?}");
    assert!(tally.all_denied(50), "{tally:?}");
    assert_eq!(node.lab.bystander.connections(), 0, "a leak");
    for path in [CGROUPFS, SYSTEMD] {
        assert!(node.attempt(path).denied(), "{path}");
    }
    drop(agent);
}
