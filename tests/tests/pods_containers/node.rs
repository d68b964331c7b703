//! A node of the lab with a real container runtime: containerd, runc and CNI from the system's
//! packages, in a mount namespace of their own and in the lab's network namespace. Nothing of the
//! machine is touched but cgroups below the lab's own.

use super::api::{
    CONTAINER, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceOption, POD, PodSandboxConfig, PodSandboxMetadata,
};
use super::cri::{Cri, Done};
use super::image::{self, run};
use anyhow::{Context as _, Result};
use egress_tests::cgroup::{Cgroup, hierarchies, mount_point, remove_tree};
use egress_tests::folder::folder;
use egress_tests::lab::{Lab, host, v4};
use egress_tests::place::Place;
use egress_tests::{pods, wait_until};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// containerd starts its plugins and makes its database.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// See the module. Dropping it kills everything that runs in its containers.
pub struct Node {
    containerd: Child,
    pub cri: Cri,
    /// Of the cgroups that pods are made in, the path below the mount.
    parent: PathBuf,
    runtime: Cgroup,
    dir: TempDir,
}

/// A running pod with one container.
pub struct Pod {
    pub sandbox: String,
    pub container: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Node {
    pub fn start(lab: &Lab) -> Result<Self> {
        pods::forward(lab)?;
        let dir = folder("node")?;
        let archives = [image::pod(dir.path())?, image::agent(dir.path())?];
        let socket = dir.path().join("containerd.sock");
        fs::write(dir.path().join("containerd.toml"), settings(dir.path()))?;
        fs::create_dir(dir.path().join("cni"))?;
        fs::write(dir.path().join("cni/10-pods.conflist"), network(dir.path()))?;
        let runtime = Cgroup::new()?;
        let place = Place {
            cgroup: Some(&runtime),
            netns: Some(lab.node()),
            resolver: None,
        };
        // Namespaces are mounted below /run/netns, sockets of shims lie below /run/containerd.
        let script =
            "mount --make-rprivate / && mount -t tmpfs none /run && exec containerd -c \"$0\"";
        let log = fs::File::create(dir.path().join("containerd.log"))?;
        let containerd = place
            .command("unshare")?
            .args(["--mount", "sh", "-c", script])
            .arg(dir.path().join("containerd.toml"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run unshare")?;
        let mount = mount_point()?;
        let node = Self {
            containerd,
            cri: Cri::new(&socket)?,
            parent: Path::new("/").join(lab.workloads().path().strip_prefix(mount)?),
            runtime,
            dir,
        };
        wait_until("containerd answers", UP_WITHIN, || {
            node.cri.is_up().then_some(())
        })
        .with_context(|| node.log())?;
        for archive in archives {
            let mut ctr = Command::new("ctr");
            ctr.arg("--address")
                .arg(&socket)
                .args(["-n", "k8s.io", "images", "import"]);
            run(ctr.arg(archive)).with_context(|| node.log())?;
        }
        Ok(node)
    }

    /// The end of containerd's log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn logs(&self, number: u16) -> String {
        self.dir
            .path()
            .join(format!("logs/pod-{number}"))
            .display()
            .to_string()
    }

    /// The end of what the container of a pod wrote.
    pub fn output(&self, number: u16) -> String {
        let path = self.dir.path().join(format!("logs/pod-{number}/main.log"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| format!("{}: {e}", path.display()));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A pod as the kubelet asks for one, in the burstable class.
    pub fn config(&self, number: u16) -> PodSandboxConfig {
        let uid = pods::uid(number);
        let parent = self.parent.join(format!("burstable/pod{uid}"));
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: format!("pod-{number}"),
                uid,
                namespace: "test".to_owned(),
            }),
            hostname: format!("pod-{number}"),
            log_directory: self.logs(number),
            dns_config: Some(DnsConfig {
                servers: vec![v4(host::DNS).to_string()],
            }),
            labels: [("app".to_owned(), "test".to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: parent.display().to_string(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: POD,
                        pid: CONTAINER,
                        ipc: POD,
                    }),
                }),
            }),
        }
    }

    /// A container of an image; the image's entrypoint where `command` is empty.
    pub fn container(image: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            args: Vec::new(),
            mounts: Vec::new(),
            log_path: "main.log".to_owned(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: POD,
                        pid: CONTAINER,
                        ipc: POD,
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
        }
    }

    /// Makes a pod and starts its container; `number` gives it its uid.
    pub fn pod(&self, number: u16, command: &[&str], mounts: &[(&Path, &str)]) -> Result<Pod> {
        let config = self.config(number);
        let mut container = Self::container(image::POD, command);
        container.mounts = mounts
            .iter()
            .map(|(host, inside)| Mount {
                container_path: (*inside).to_owned(),
                host_path: host.display().to_string(),
                readonly: true,
            })
            .collect();
        self.run(&config, container)
    }

    /// The same of messages that are complete.
    pub fn run(&self, config: &PodSandboxConfig, container: ContainerConfig) -> Result<Pod> {
        let sandbox = self.cri.run_sandbox(config).with_context(|| self.log())?;
        let addresses = self.cri.addresses(&sandbox)?;
        let of = |v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
        let container = self
            .cri
            .start(&sandbox, config, container)
            .with_context(|| self.log())?;
        Ok(Pod {
            sandbox,
            container,
            v4: of(true).context("a pod without IPv4")?,
            v6: of(false).context("a pod without IPv6")?,
        })
    }

    /// Runs curl in a pod; the last line of its output is the status and the time.
    pub fn curl(&self, pod: &Pod, arguments: &[&str]) -> Result<(u16, f64, Done)> {
        let mut all = vec!["curl", "-q", "-sS", "-w", "\n%{http_code} %{time_total}"];
        all.extend_from_slice(arguments);
        let mut done = self.cri.exec(&pod.container, &all)?;
        let at = done.stdout.rfind('\n').context("curl said nothing")?;
        let facts = done.stdout.split_off(at);
        let (code, time) = facts.trim().split_once(' ').context("curl's facts")?;
        Ok((code.parse()?, time.parse()?, done))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd's log ends with:\n{}", self.log());
        }
        // Shims and what runs in containers first, so that no mount of theirs is in use.
        let _ = fs::write(self.runtime.path().join("cgroup.kill"), "1");
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        // A pod that still runs holds its folders; its cgroup of version 2 outlives this guard.
        if let (Ok(mount), Ok(parent)) = (mount_point(), self.parent.strip_prefix("/")) {
            let _ = fs::write(mount.join(parent).join("cgroup.kill"), "1");
        }
        let gone = wait_until("version 1 is empty", GONE_WITHIN, || {
            remove_version_1(&self.parent).then_some(())
        });
        if let Err(error) = gone {
            eprintln!("folders of version 1 stay: {error:#}");
        }
    }
}

/// How long killed pods may take to leave their cgroups.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// On a hybrid machine runc makes the pods' folders in every hierarchy of version 1 too. Whether
/// none is left.
fn remove_version_1(parent: &Path) -> bool {
    let Some(first) = parent.iter().nth(1) else {
        return true;
    };
    let mut gone = true;
    for hierarchy in hierarchies().unwrap_or_default() {
        if hierarchy.version == 1 {
            // What is not empty is in use still.
            gone &= remove_tree(&hierarchy.mount.join(first)).is_ok();
        }
    }
    gone
}

fn settings(dir: &Path) -> String {
    let dir = dir.display();
    let pause = image::POD;
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE the pause container's score cannot be lowered.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#
    )
}

fn network(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{
  "type": "bridge", "bridge": "pods0", "isGateway": true,
  "ipam": {{"type": "host-local", "dataDir": "{dir}/addresses",
    "ranges": [[{{"subnet": "10.244.1.0/24"}}], [{{"subnet": "fd00:10:244:1::/64"}}]],
    "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}
}}]}}"#
    )
}
