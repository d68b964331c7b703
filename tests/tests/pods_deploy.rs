//! The files in `deploy`: the agent accepts the rules and settings of the manifests, and the DaemonSet gives a reason
//! for each privilege.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent;
use serde::Deserialize as _;
use serde_yaml::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap()
}

/// The documents of the manifests in the order in which `kubectl apply -f FOLDER` applies them.
fn applied() -> Vec<Value> {
    let folder = workspace().join("deploy/kubernetes");
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| {
            let documents = serde_yaml::Deserializer::from_str(&text);
            documents
                .map(|document| Value::deserialize(document).unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

fn is(object: &Value, kind: &str) -> bool {
    object["kind"].as_str() == Some(kind)
}

fn data(path: &str) -> Vec<(String, String)> {
    let map: Value = serde_yaml::from_str(&text(path)).unwrap();
    let pairs = map["data"].as_mapping().unwrap().iter();
    let own = |v: &Value| v.as_str().unwrap().to_owned();
    pairs.map(|(name, text)| (own(name), own(text))).collect()
}

#[test]
fn no_rule_is_deployed_and_none_is_overwritten_by_the_next_apply() {
    let objects = applied();
    let maps = objects.iter().filter(|object| is(object, "ConfigMap"));
    let names: Vec<_> = maps
        .map(|map| map["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["egress-agent-config"]);
    let set = objects
        .iter()
        .find(|object| is(object, "DaemonSet"))
        .unwrap();
    let volumes = set["spec"]["template"]["spec"]["volumes"]
        .as_sequence()
        .unwrap();
    let rules = volumes
        .iter()
        .find(|volume| volume["name"].as_str() == Some("rules"));
    let rules = &rules.unwrap()["configMap"];
    assert_eq!(rules["name"].as_str(), Some("egress-rules"));
    assert_eq!(rules["optional"], Value::Bool(true));
}

/// Otherwise the DaemonSet's controller reports that it cannot create pods.
#[test]
fn what_a_pod_needs_is_applied_before_the_daemonset() {
    let objects = applied();
    let at = |kind| objects.iter().position(|object| is(object, kind)).unwrap();
    assert_eq!(at("Namespace"), 0);
    assert!(at("ServiceAccount") < at("DaemonSet"));
    assert!(at("ConfigMap") < at("DaemonSet"));
}

/// A pod that waits is ready by the answers of the old agent, and ends if it finds that it could not run.
#[test]
fn a_new_pod_replaces_the_old_one_only_after_it_had_time_to_find_that_it_cannot_run() {
    let objects = applied();
    let set = objects.iter().find(|object| is(object, "DaemonSet"));
    let seconds = &set.unwrap()["spec"]["minReadySeconds"];
    assert!(seconds.as_u64() >= Some(5), "{seconds:?}");
}

/// A unit that must start after the gate is closed does not start without it.
#[test]
fn the_gate_is_closed_before_the_first_workload_starts() {
    for (unit, before) in [
        ("egress-gate.service", "gated.slice"),
        ("egress-gate-kubelet.service", "kubelet.service"),
    ] {
        let unit = text(&format!("deploy/systemd/{unit}"));
        let words = |key: &str| {
            let lines = unit.lines().filter_map(|l| l.strip_prefix(key));
            lines.flat_map(str::split_whitespace).collect::<Vec<_>>()
        };
        assert!(words("Before=").contains(&before), "{unit}");
        assert!(words("RequiredBy=").contains(&before), "{unit}");
        let start = words("ExecStart=");
        assert_eq!(start[1], "close", "{unit}");
        let mut help = Command::new(agent::binary().unwrap());
        let help = help.args(["close", "--help"]).output().unwrap();
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for flag in start.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{flag}");
        }
    }
}

/// Stopping the slice removes its cgroup. A unit that stayed active would not run again before the slice's next start.
#[test]
fn a_stop_of_the_gated_slice_stops_the_unit_that_closes_it_and_not_the_agent() {
    let lines = |unit: &str| text(&format!("deploy/systemd/{unit}"));
    let gate = lines("egress-gate.service");
    assert!(gate.contains("\nRemainAfterExit=yes\n"), "{gate}");
    assert!(gate.contains("\nPartOf=gated.slice\n"), "{gate}");
    let agent = lines("egress-agent.service");
    let on_gate = |key: &str| {
        let found = agent.lines().filter_map(|line| line.strip_prefix(key));
        found
            .flat_map(str::split_whitespace)
            .any(|unit| unit == "egress-gate.service")
    };
    assert!(on_gate("Wants=") && on_gate("After="), "{agent}");
    for stops in ["Requires=", "BindsTo=", "PartOf=", "Requisite="] {
        assert!(!on_gate(stops), "{stops}");
    }
}

/// The agent reads its settings before rules and cgroups, so the error shows whether it could read them.
#[test]
fn the_settings_of_both_deployments_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let [(name, pods)] = data("deploy/kubernetes/20-config.yaml").try_into().unwrap();
    assert_eq!(name, "agent.yaml");
    for (of, settings) in [("pods", pods), ("vm", text("deploy/systemd/agent.yaml"))] {
        let file = dir.path().join("agent.yaml");
        fs::write(&file, settings).unwrap();
        let mut run = Command::new(agent::binary().unwrap());
        // A root that is not a cgroup ends the agent before it changes anything.
        let output = run
            .env("NODE_NAME", "node-1")
            .args(["run", "--cgroup", "/nonexistent/cgroup", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("/nonexistent/cgroup"), "{of}: {errors}");
        assert!(!errors.contains("config file"), "{of}: {errors}");
    }
}

#[test]
fn each_capability_has_its_reason_and_nothing_is_privileged() {
    let manifest = text("deploy/kubernetes/30-agent.yaml");
    let objects = applied();
    let set = objects
        .iter()
        .find(|object| is(object, "DaemonSet"))
        .unwrap();
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["privileged"], Value::Bool(false));
    assert_eq!(security["capabilities"]["drop"][0].as_str(), Some("ALL"));
    let named = security["capabilities"]["add"].as_sequence().unwrap();
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    for name in named {
        let line = format!("- {}", name.as_str().unwrap());
        let at = lines.iter().position(|l| *l == line).unwrap();
        assert!(
            lines[at - 1].starts_with('#'),
            "{line} has no reason above it"
        );
    }
    // The unit has the same ones, except those for other network namespaces.
    let unit = text("deploy/systemd/egress-agent.service");
    let bounded = unit
        .lines()
        .find_map(|l| l.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let mut unit: Vec<&str> = bounded.split(' ').map(|c| &c["CAP_".len()..]).collect();
    let mut pod: Vec<&str> = named.iter().map(|n| n.as_str().unwrap()).collect();
    pod.retain(|name| !["SYS_ADMIN", "SYS_PTRACE"].contains(name));
    unit.sort_unstable();
    pod.sort_unstable();
    assert_eq!(unit, pod);
}

#[test]
fn the_images_root_holds_all_that_the_agent_needs() {
    let dir = tempfile::tempdir().unwrap();
    let script = workspace().join("deploy/image/rootfs.sh");
    let laid = Command::new(script)
        .arg(agent::binary().unwrap())
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(laid.success());
    // By its path: the search uses the PATH that the command gets.
    let version = Command::new("/usr/sbin/chroot")
        .arg(dir.path())
        .args(["egress-agent", "--version"])
        .env("PATH", "/usr/local/bin")
        .output()
        .unwrap();
    assert!(version.status.success(), "{version:?}");
}
