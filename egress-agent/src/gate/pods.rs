//! Where the kubelet creates pods, for `cgroups: [auto]`. Reads and attaches nothing.

use super::started::Started;
use std::path::{Component, Path, PathBuf};

/// The word in place of an enforced root.
pub const AUTO: &str = "auto";
/// The kubelet's config file, where kubeadm and most distributions write it.
pub const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// The last part of the pods' root (`defaultNodeAllocatableCgroupName` in pkg/kubelet/cm).
const PODS: &str = "kubepods";

/// The pods' root, if this process was started in a pod: the pods of this node are all below it. Otherwise the
/// two places where the kubelet may create it. `kubelet` is the text of the kubelet's config file.
///
/// Of these two the kubelet uses one. Its config does not say which: from version 1.31 on it asks the container
/// runtime for the cgroup driver, whatever `cgroupDriver` says.
pub fn places(mount: &Path, started: &Started, kubelet: Option<&str>) -> Vec<PathBuf> {
    if let Some(own) = started.pods_root() {
        return vec![mount.join(own.strip_prefix("/").unwrap_or(own))];
    }
    let config: Option<serde_yaml::Value> =
        kubelet.and_then(|text| serde_yaml::from_str(text).ok());
    let root = config
        .as_ref()
        .and_then(|config| config["cgroupRoot"].as_str());
    let parts = Path::new(root.unwrap_or("/")).components();
    let mut parts: Vec<&str> = parts
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        })
        .collect();
    parts.push(PODS);
    vec![by_systemd(mount, &parts), mount.join(parts.join("/"))]
}

/// The folder of a slice. systemd nests slices by the dashes in their names, so the kubelet replaces a dash
/// inside a part (`escapeSystemdCgroupName` in pkg/kubelet/cm).
fn by_systemd(mount: &Path, parts: &[&str]) -> PathBuf {
    let mut folder = mount.to_owned();
    let mut slice = String::new();
    for part in parts {
        if !slice.is_empty() {
            slice.push('-');
        }
        slice.push_str(&part.replace('-', "_"));
        folder.push(format!("{slice}.slice"));
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, kubelet: Option<&str>) -> Vec<String> {
        let places = places(Path::new("/cg"), &Started::read(own), kubelet);
        places
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    const SERVICE: &str = "0::/system.slice/egress-agent.service\n";
    const UID: &str = "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0";

    #[test]
    fn a_pod_knows_its_nodes_pods_root() {
        let dashed = UID.replace('_', "-");
        for (own, root) in [
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/cri-containerd-x.scope\n"
                ),
                "/cg/kubepods.slice",
            ),
            (
                format!("4:memory:/x\n0::/kubepods/besteffort/pod{dashed}/abc\n"),
                "/cg/kubepods",
            ),
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID}.slice/cri-containerd-x.scope\n"
                ),
                "/cg/kubelet.slice/kubelet-kubepods.slice",
            ),
        ] {
            // The kubelet's file can be that of another kubelet.
            assert_eq!(found(&own, Some("cgroupRoot: /other\n")), [root], "{own}");
        }
    }

    #[test]
    fn outside_a_pod_the_places_of_both_drivers_are_named() {
        assert_eq!(found(SERVICE, None), ["/cg/kubepods.slice", "/cg/kubepods"]);
        for (config, systemd, cgroupfs) in [
            (
                "cgroupDriver: systemd\n",
                "/cg/kubepods.slice",
                "/cg/kubepods",
            ),
            (
                "cgroupRoot: /kubelet\n",
                "/cg/kubelet.slice/kubelet-kubepods.slice",
                "/cg/kubelet/kubepods",
            ),
            (
                "cgroupRoot: /a-b/../c\n",
                "/cg/a_b.slice/a_b-c.slice/a_b-c-kubepods.slice",
                "/cg/a-b/c/kubepods",
            ),
            ("cgroupRoot: [\n", "/cg/kubepods.slice", "/cg/kubepods"),
        ] {
            assert_eq!(
                found(SERVICE, Some(config)),
                [systemd, cgroupfs],
                "{config}"
            );
        }
    }
}
