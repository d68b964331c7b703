//! The DaemonSet as a node's kubelet would run it: its manifest read and turned into a container,
//! with the folders of the node replaced by the lab's.

use super::api::{
    CONTAINER, Capability, ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NODE, NamespaceOption, POD,
    PodSandboxConfig, SecurityProfile,
};
use super::image::{self, workspace};
use super::node::{Node, Pod};
use anyhow::{Context as _, Result};
use egress_tests::Lab;
use egress_tests::folder::folder;
use egress_tests::lab::{host, v4};
use serde::Deserialize as _;
use serde_yaml::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where the manifest mounts the node's cgroups.
const NODE_CGROUPS: &str = "/node";

/// What the pod is made of.
pub struct Deployed {
    pub pod: Pod,
    // Mounted into the container.
    _files: TempDir,
}

/// Runs the agent on a node as its pod number `number`, below the enforced root like all pods.
pub fn deploy(lab: &Lab, node: &Node, number: u16) -> Result<Deployed> {
    let manifest = manifest("DaemonSet")?;
    let pod = &manifest["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let files = folder("deploy")?;
    let namespaces = NamespaceOption {
        network: POD,
        pid: if pod["hostPID"] == Value::Bool(true) {
            NODE
        } else {
            CONTAINER
        },
        ipc: POD,
    };
    let sandbox = PodSandboxConfig {
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces.clone()),
            }),
            ..node.config(number).linux.context("a Linux pod")?
        }),
        ..node.config(number)
    };
    let security = &container["securityContext"];
    let config = ContainerConfig {
        args: words(&container["args"]),
        mounts: mounts(lab, pod, container, files.path())?,
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                capabilities: Some(Capability {
                    add_capabilities: words(&security["capabilities"]["add"]),
                    drop_capabilities: words(&security["capabilities"]["drop"]),
                }),
                namespace_options: Some(namespaces),
                readonly_rootfs: security["readOnlyRootFilesystem"] == Value::Bool(true),
                no_new_privs: security["allowPrivilegeEscalation"] == Value::Bool(false),
                // RuntimeDefault.
                seccomp: Some(SecurityProfile::default()),
            }),
        }),
        ..Node::container(image::AGENT, &[])
    };
    Ok(Deployed {
        pod: node.run(&sandbox, config)?,
        _files: files,
    })
}

/// The probe of the manifest: what the kubelet would run to see whether the agent is ready.
pub fn readiness() -> Result<Vec<String>> {
    let manifest = manifest("DaemonSet")?;
    let container = &manifest["spec"]["template"]["spec"]["containers"][0];
    Ok(words(&container["readinessProbe"]["exec"]["command"]))
}

/// The only object of this kind in the manifests.
fn manifest(kind: &str) -> Result<Value> {
    for entry in fs::read_dir(workspace().join("deploy/kubernetes"))? {
        let text = fs::read_to_string(entry?.path())?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document)?;
            if object["kind"].as_str() == Some(kind) {
                return Ok(object);
            }
        }
    }
    anyhow::bail!("no {kind} in deploy/kubernetes")
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_sequence().into_iter().flatten();
    words.filter_map(|w| Some(w.as_str()?.to_owned())).collect()
}

fn mounts(lab: &Lab, pod: &Value, container: &Value, files: &Path) -> Result<Vec<Mount>> {
    let volumes = pod["volumes"].as_sequence().context("volumes")?;
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"]
        .as_sequence()
        .context("volumeMounts")?
    {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .context("a mount without its volume")?;
        mounts.push(Mount {
            container_path: mount["mountPath"].as_str().context("mountPath")?.to_owned(),
            host_path: source(lab, volume, files)?.display().to_string(),
            readonly: mount["readOnly"] == Value::Bool(true),
        });
    }
    Ok(mounts)
}

/// Where a volume is on this machine.
fn source(lab: &Lab, volume: &Value, files: &Path) -> Result<PathBuf> {
    let own = files.join(volume["name"].as_str().context("a name")?);
    match volume["hostPath"]["path"].as_str() {
        Some("/sys/fs/bpf") => return Ok(lab.bpf_dir().to_owned()),
        // The node's own is this machine's.
        Some(path) if path.starts_with("/run/") => {
            fs::create_dir(&own)?;
            return Ok(own);
        }
        Some(path) => return Ok(path.into()),
        None => {}
    }
    match volume["configMap"]["name"].as_str() {
        Some("egress-rules") => Ok(lab.rules_dir().to_owned()),
        Some(name) => {
            fs::create_dir(&own)?;
            anyhow::ensure!(name == "egress-agent-config", "config map {name}");
            fs::write(own.join("agent.yaml"), settings(lab)?)?;
            Ok(own)
        }
        None => {
            fs::create_dir(&own)?;
            Ok(own)
        }
    }
}

/// The agent's settings as the manifest has them, with the lab's cgroups and DNS server.
fn settings(lab: &Lab) -> Result<String> {
    let map = manifest("ConfigMap")?;
    let text = map["data"]["agent.yaml"].as_str().context("agent.yaml")?;
    let mut settings: Value = serde_yaml::from_str(text)?;
    let agent = lab.agent_place().cgroup.context("the agent's cgroup")?;
    let on_node = |path: &Path| Value::from(format!("{NODE_CGROUPS}{}", path.display()));
    settings["cgroups"] = Value::Sequence(vec![on_node(lab.workloads().path())]);
    settings["agentCgroup"] = on_node(agent.path());
    settings["allowPrivateAnswers"] = true.into();
    // There is no API server.
    settings["kubernetes"] = Value::Null;
    settings["dns"]["servers"] = Value::Sequence(vec![v4(host::DNS).to_string().into()]);
    // For a person who reads the log of a failed test.
    settings["log"]["format"] = "text".into();
    Ok(serde_yaml::to_string(&settings)?)
}
