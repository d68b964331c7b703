//! Reads the pod, container and runtime from a cgroup's path. Every path is untrusted. A path of an unknown
//! form has no names.
//!
//! Forms of the kubelet (`pkg/kubelet/cm/cgroup_manager_linux.go`, both cgroup drivers) and of the
//! runtimes' scopes: `cri-containerd-ID.scope` (containerd `pkg/cri`), `crio-ID.scope` (CRI-O),
//! `docker-ID.scope` (Docker and cri-dockerd). With the cgroupfs driver, the name is the container's id. The
//! pause container is read like any other.

/// Hex digits of a pod's uid: a UUID, or the hash that names a static pod.
const UID_DIGITS: usize = 32;
/// Hex digits of a container's id (SHA-256 or as many random ones).
const CONTAINER_DIGITS: usize = 64;

/// The names in a cgroup's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupName {
    /// The pod that it belongs to.
    pub pod: Option<PodRef>,
    /// The container.
    pub container: Option<ContainerRef>,
    /// Whether it is the pod's or the container's own cgroup, and not one below it.
    pub whole: bool,
}

/// A pod as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.uid`, as the API writes it: dashes, not underscores.
    pub uid: String,
    /// The class that decides where its cgroup is.
    pub qos: Qos,
}

/// Kubernetes' quality of service classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Directly below the pods' root.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

/// A container as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Its id, without the runtime's prefix.
    pub id: String,
    /// Its runtime, if the name contains it.
    pub runtime: Option<Runtime>,
}

/// Container runtimes that put their name into a cgroup's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker, cri-dockerd.
    Docker,
}

const RUNTIMES: [(&str, Runtime); 3] = [
    ("cri-containerd", Runtime::Containerd),
    ("crio", Runtime::CriO),
    ("docker", Runtime::Docker),
];

/// Reads a path below the cgroup mount, `/` between its parts.
pub fn read(path: &str) -> CgroupName {
    let mut name = CgroupName::default();
    let mut qos = Qos::Guaranteed;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        name.whole = false;
        if name.pod.is_some() {
            if name.container.is_none() {
                name.container = container(part);
                name.whole = name.container.is_some();
            }
            continue;
        }
        // A runtime without the systemd driver that is given a systemd path creates a folder with the
        // name `SLICE:PREFIX:ID`.
        let mut whole = part.splitn(3, ':');
        let slice = whole.next().unwrap_or(part);
        if let Some(found) = pod(slice, qos) {
            name.pod = Some(found);
            name.whole = true;
            if let (Some(prefix), Some(id)) = (whole.next(), whole.next()) {
                name.container = container(&format!("{prefix}-{id}"));
            }
        } else if let Some(found) = container(part) {
            // A container without a kubelet.
            name.container.get_or_insert(found);
            name.whole = true;
        }
        qos = class(part).unwrap_or(qos);
    }
    name
}

fn class(part: &str) -> Option<Qos> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    match part.rsplit('-').next()? {
        "burstable" => Some(Qos::Burstable),
        "besteffort" => Some(Qos::BestEffort),
        _ => None,
    }
}

/// Reads `podUID` or `[...-]kubepods[-CLASS]-podUID.slice`. The name of a slice contains the class.
fn pod(part: &str, above: Qos) -> Option<PodRef> {
    let (uid, qos) = match part.strip_suffix(".slice") {
        None => (part.strip_prefix("pod")?, above),
        Some(slice) => {
            let (parent, uid) = slice.rsplit_once("-pod")?;
            let kubelet = parent.split('-').any(|part| part == "kubepods");
            (
                kubelet.then_some(uid)?,
                class(parent).unwrap_or(Qos::Guaranteed),
            )
        }
    };
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|b| *b == b'-').count();
    (digits == UID_DIGITS && digits + dashes == uid.len() && dashes <= 4)
        .then_some(PodRef { uid, qos })
}

/// `ID`, `PREFIX-ID` or `PREFIX-ID.scope`.
fn container(part: &str) -> Option<ContainerRef> {
    let scope = part.strip_suffix(".scope").unwrap_or(part);
    let (runtime, id) = match scope.rsplit_once('-') {
        None => (None, scope),
        // Another prefix marks a helper beside the container, such as `crio-conmon-ID`.
        Some((prefix, id)) => {
            let (_, runtime) = RUNTIMES.iter().find(|(name, _)| *name == prefix)?;
            (Some(*runtime), id)
        }
    };
    let hex = id.bytes().all(|b| b.is_ascii_hexdigit());
    (id.len() == CONTAINER_DIGITS && hex).then(|| ContainerRef {
        id: id.to_owned(),
        runtime,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn id() -> String {
        "7d".repeat(32)
    }

    /// `@U` stands for the uid, `@_` for the uid with underscores, `@I` for a container's id.
    fn full(path: &str) -> String {
        path.replace("@U", UID)
            .replace("@_", &UID.replace('-', "_"))
            .replace("@I", &id())
    }

    #[test]
    fn every_form_of_a_pod_and_its_containers_is_read() {
        use Qos::{BestEffort, Burstable, Guaranteed};
        use Runtime::{Containerd, CriO, Docker};
        let systemd = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod@_.slice";
        let best = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod@_.slice";
        let kind = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod@_.slice";
        for (path, qos, container, runtime) in [
            (
                "kubepods/burstable/pod@U".to_owned(),
                Burstable,
                false,
                None,
            ),
            (
                "kubepods/burstable/pod@U/@I".to_owned(),
                Burstable,
                true,
                None,
            ),
            (
                "/kubepods/besteffort/pod@U/@I/".to_owned(),
                BestEffort,
                true,
                None,
            ),
            ("kubepods/pod@U/@I".to_owned(), Guaranteed, true, None),
            (
                "kubepods/pod@U/crio-@I".to_owned(),
                Guaranteed,
                true,
                Some(CriO),
            ),
            (
                "kubelet/kubepods/besteffort/pod@U/@I".to_owned(),
                BestEffort,
                true,
                None,
            ),
            (systemd.to_owned(), Burstable, false, None),
            (
                format!("{systemd}/cri-containerd-@I.scope"),
                Burstable,
                true,
                Some(Containerd),
            ),
            (
                format!("{systemd}/crio-@I.scope"),
                Burstable,
                true,
                Some(CriO),
            ),
            (
                format!("{best}/docker-@I.scope"),
                BestEffort,
                true,
                Some(Docker),
            ),
            (
                "kubepods.slice/kubepods-pod@_.slice/cri-containerd-@I.scope".to_owned(),
                Guaranteed,
                true,
                Some(Containerd),
            ),
            (
                format!("{kind}/cri-containerd-@I.scope"),
                Guaranteed,
                true,
                Some(Containerd),
            ),
            (
                "system.slice/containerd.service/kubepods-burstable-pod@_.slice:cri-containerd:@I"
                    .to_owned(),
                Burstable,
                true,
                Some(Containerd),
            ),
        ] {
            let name = read(&full(&path));
            let pod = name.pod.expect(&path);
            assert_eq!((pod.uid.as_str(), pod.qos), (UID, qos), "{path}");
            let want = container.then(|| ContainerRef { id: id(), runtime });
            assert_eq!(name.container, want, "{path}");
            assert!(name.whole, "{path}");
        }
    }

    #[test]
    fn a_static_pod_has_a_hash_for_a_uid() {
        let name = read(&format!("kubepods/burstable/pod{STATIC}"));
        assert_eq!(name.pod.unwrap().uid, STATIC);
    }

    #[test]
    fn a_cgroup_inside_a_container_is_of_it_but_not_it() {
        for below in ["init.scope", "system.slice/x.service", "kubepods/pod@U/@I"] {
            let name = read(&full(&format!("kubepods/pod@U/@I/{below}")));
            assert_eq!(name.container.unwrap().id, id(), "{below}");
            assert!(name.pod.is_some() && !name.whole, "{below}");
        }
    }

    #[test]
    fn a_container_without_a_kubelet_has_no_pod() {
        for (path, runtime) in [
            ("docker/@I", None),
            ("system.slice/docker-@I.scope", Some(Runtime::Docker)),
        ] {
            let name = read(&full(path));
            let container = name.container.expect(path);
            assert_eq!((container.id, container.runtime), (id(), runtime), "{path}");
            assert_eq!(name.pod, None, "{path}");
        }
    }

    #[test]
    fn what_fits_no_form_is_nobodys() {
        for path in [
            "",
            "kubepods",
            "kubepods/burstable",
            "kubepods.slice/kubepods-burstable.slice",
            "system.slice/podman-1234.scope",
            "user.slice/user-1000.slice/podlike.slice",
            "kubepods/pod@U0",
            "kubepods/pod",
            "kubepods/podxyz",
            "kubepods/pod----",
            "other-pod@_.slice",
            "system.slice/crio-conmon-@I.scope",
            "system.slice/crio-@I0.scope",
        ] {
            assert_eq!(read(&full(path)), CgroupName::default(), "{path}");
        }
        let conmon = read(&full("kubepods/pod@U/crio-conmon-@I"));
        assert_eq!(conmon.container, None);
        assert!(!conmon.whole);
    }
}
