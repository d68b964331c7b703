//! The agent in the environment of a container runtime: inside the enforced root, in a cgroup namespace and a mount
//! namespace of its own.

use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, agent, probe, wait_until};
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Version 2 runtimes give a container a cgroup namespace whose root is its own cgroup.
#[test]
fn an_agent_in_a_cgroup_namespace_of_its_own_leaves_the_enforced_root() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    let own: Cgroup = lab.workloads().child("podofagent").unwrap();
    let place = Place {
        cgroup: Some(&own),
        ..lab.agent_place()
    };
    // Process 1 of its process ids is in the namespace of before, as the node's is for a pod with
    // `hostPID`; a mount of its own part stands beside the node's.
    let script = "mount --make-rprivate / && mount -t tmpfs none /mnt && mkdir /mnt/own \
                  && unshare --cgroup sh -c 'mount -t cgroup2 none /mnt/own && exec \"$0\" \"$@\"' \"$0\" \"$@\"; :";
    let mut command = place.command("unshare").unwrap();
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]);
    command.args(["sh", "-c", script]);
    command
        .arg(agent::binary().unwrap())
        .args(lab.agent_arguments());
    let mut agent = Guarded::spawn(command.stdin(Stdio::null())).unwrap();
    let socket = lab.admin_socket();
    let status = ["status", "--admin-socket", socket.to_str().unwrap()];
    wait_until("the agent is ready", Duration::from_secs(20), || {
        assert_eq!(agent.try_wait().unwrap(), None, "the agent ended");
        (lab.verb(&status).unwrap().exit == 0).then_some(())
    })
    .unwrap();
    let there = lab.agent_place().cgroup.unwrap().members().unwrap();
    let [pid] = there[..] else {
        panic!("one process, the agent: {there:?}")
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "egress-agent");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
    assert_eq!(namespace(&pid.to_string()), namespace("self"));
    let to = std::net::SocketAddr::new(v4(host::BYSTANDER), 80);
    assert!(
        probe::attempt(&lab.client_place(), "tcp", to)
            .unwrap()
            .denied()
    );
}
