//! Which workload a cgroup is: by an entry of the config, else by the pod of the Kubernetes API that it is of.
//!
//! Decides about one cgroup at a time. `pods` says how long a pod is known.

use super::identities::Identities;
use super::names;
use super::pod::{Pod, PodNews};
use super::pods::Pods;
use super::sharers;
use crate::config::{CgroupGlob, Mode, PodsEntry, WorkloadEntry};
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::path::Path;

/// See the module.
pub(super) struct Naming {
    entries: Vec<WorkloadEntry>,
    pods: Pods,
    /// The cgroups of pods, by uid: id and path in the hierarchy.
    cgroups: BTreeMap<String, (CgroupId, String)>,
    identities: Identities,
    /// The pods for the next agent changed since the last [`Self::pods_changed`].
    changed: bool,
}

impl Naming {
    /// `restored` are the pods of the previous agent.
    pub(super) fn new(
        entries: Vec<WorkloadEntry>,
        restored: Vec<Pod>,
        identities: Identities,
    ) -> Self {
        Self {
            entries,
            pods: Pods::restored(restored),
            cgroups: BTreeMap::new(),
            identities,
            changed: false,
        }
    }

    /// Whether the pods for the next agent changed since the last call.
    pub(super) fn pods_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Replaces the entries.
    pub(super) fn set_entries(&mut self, entries: Vec<WorkloadEntry>) {
        self.entries = entries;
    }

    /// The pods of the API.
    pub(super) const fn pods(&self) -> &Pods {
        &self.pods
    }

    /// The cgroup of a pod was found.
    pub(super) fn found(&mut self, uid: &str, id: CgroupId, path: &str) {
        self.cgroups.insert(uid.to_owned(), (id, path.to_owned()));
        self.pods.cgroup_found(uid);
        self.show(uid);
    }

    /// The cgroup of a pod is gone.
    pub(super) fn gone(&mut self, uid: &str) {
        if let Some((_, path)) = self.cgroups.remove(uid) {
            self.identities.pod_gone(&path);
        }
        self.changed |= self.pods.cgroup_gone(uid);
    }

    /// Takes news of pods. Returns the cgroups that may be another workload than before.
    pub(super) fn take(&mut self, news: Vec<PodNews>) -> Vec<CgroupId> {
        let mut changed = Vec::new();
        for news in news {
            let cgroups = &self.cgroups;
            self.changed |= self
                .pods
                .take(news, |uid| cgroups.contains_key(uid), &mut changed);
        }
        for uid in &changed {
            self.show(uid);
        }
        let cgroup = |uid: &String| Some(self.cgroups.get(uid)?.0);
        changed.iter().filter_map(cgroup).collect()
    }

    /// Passes a pod's names on to the log.
    fn show(&self, uid: &str) {
        if let (Some((_, path)), Some(pod)) = (self.cgroups.get(uid), self.pods.get(uid)) {
            self.identities.set_pod(path, pod);
        }
    }

    /// The workload of a cgroup, which is that of the pod with this uid.
    pub(super) fn named(&self, below: &str, pod: Option<&str>) -> Option<Workload> {
        let parts = CgroupGlob::parts(below);
        let own = own_folder(below).filter(|(_, made)| parts.len() > *made);
        let fits = |pattern: &CgroupGlob| match own {
            Some((folder, _)) => pattern.names_folder(&parts, folder),
            None => pattern.fits_parts(&parts),
        };
        let by_pattern = self.entries.iter().find_map(|entry| match entry {
            WorkloadEntry::Cgroup(entry) if fits(&entry.cgroup) => Some(entry.into()),
            WorkloadEntry::Cgroup(_) | WorkloadEntry::Pods(_) => None,
        });
        by_pattern.or_else(|| {
            let mut workload = self.pods.get(pod?)?.workload();
            workload.audit = self.mode_of(&workload).map(|mode| mode == Mode::Audit);
            Some(workload)
        })
    }

    /// The mode that the first entry with `pods` gives to a pod.
    fn mode_of(&self, pod: &Workload) -> Option<Mode> {
        self.entries.iter().find_map(|entry| match entry {
            WorkloadEntry::Pods(PodsEntry { pods, mode }) => {
                let selects = pods.selects(&pod.namespace, &pod.labels);
                selects.then_some(*mode)
            }
            WorkloadEntry::Cgroup(_) => None,
        })
    }
}

/// The number of the folder in a path that is a pod or a service itself, and how many parts the path of a cgroup has at
/// most that none of its processes made: the runtime makes the containers of a pod. A pattern for a cgroup that a process
/// may have made must name that folder: otherwise the process would choose the workload that it is.
fn own_folder(below: &str) -> Option<(usize, usize)> {
    let own = sharers::sharer(below);
    let folder = own.components().count().checked_sub(1)?;
    let is_pod = names::read(&own.to_string_lossy()).pod.is_some();
    Some((folder, folder + 1 + usize::from(is_pod)))
}

/// The uid of the pod that a cgroup is of, as a whole. Only folders that group pods may be above it: a process that
/// creates cgroups below its own must not become another pod.
pub(super) fn pod_of(below: &str) -> Option<String> {
    let name = names::read(below);
    let is_pod =
        name.whole && name.container.is_none() && sharers::sharer(below) == Path::new(below);
    Some(name.pod.filter(|_| is_pod)?.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

    #[test]
    fn a_cgroup_is_a_pod_only_where_the_kubelet_makes_pods() {
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        for (below, is_pod) in [
            (format!("kubepods/burstable/pod{UID}"), true),
            (format!("burstable/pod{UID}"), true),
            (format!("pod{UID}"), true),
            (
                format!("kubepods.slice/kubepods-burstable.slice/{slice}"),
                true,
            ),
            (
                format!("kubepods/burstable/pod{UID}/{}", "7d".repeat(32)),
                false,
            ),
            (format!("kubepods/burstable/pod{UID}/made"), false),
            (format!("app.service/kubepods/burstable/pod{UID}"), false),
            (
                format!("user.slice/user-1.slice/user@1.service/pod{UID}"),
                false,
            ),
            ("kubepods/burstable".to_owned(), false),
        ] {
            assert_eq!(pod_of(&below), is_pod.then(|| UID.to_owned()), "{below}");
        }
    }

    fn pod() -> Pod {
        Pod {
            uid: UID.to_owned(),
            namespace: "shop".to_owned(),
            name: "client".to_owned(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            ..Pod::default()
        }
    }

    #[test]
    fn entries_with_a_pattern_win_and_entries_with_pods_set_the_mode() {
        let below = format!("kubepods/pod{UID}");
        let named = |entries: &[&str]| {
            let entries = entries.iter().map(|text| text.parse().unwrap()).collect();
            let mut naming = Naming::new(entries, Vec::new(), Identities::default());
            naming.found(UID, CgroupId(7), "/kubepods/pod");
            let news = vec![PodNews::Put(Box::new(pod()))];
            assert_eq!(naming.take(news), [CgroupId(7)]);
            assert!(naming.pods_changed() && !naming.pods_changed());
            let workload = naming.named(&below, Some(UID)).unwrap();
            (workload.namespace, workload.audit)
        };
        let shop = |audit| ("shop".to_owned(), audit);
        assert_eq!(named(&[]), shop(None));
        let team = "{pods: {namespace: shop, labels: {team: a}}, mode: audit}";
        assert_eq!(named(&[team]), shop(Some(true)));
        let enforced = "{pods: {namespace: shop}, mode: enforce}";
        assert_eq!(named(&[enforced, team]), shop(Some(false)));
        assert_eq!(
            named(&["{pods: {namespace: blog}, mode: audit}"]),
            shop(None)
        );
        let pattern = "{cgroup: 'kubepods/*', namespace: vm}";
        assert_eq!(named(&[team, pattern]), ("vm".to_owned(), None));
    }

    #[test]
    fn a_cgroup_that_a_workload_made_is_no_other_workload() {
        let id = "7d".repeat(32);
        let slices = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
            UID.replace('-', "_")
        );
        let scope = format!("cri-containerd-{id}.scope");
        let user = "user.slice/user-1.slice/user@1.service";
        for (pattern, below, is_named) in [
            // A pattern that names the folder of the workload itself.
            (
                format!("**/pod{UID}"),
                format!("kubepods/burstable/pod{UID}"),
                true,
            ),
            (
                format!("**/pod{UID}/*"),
                format!("kubepods/burstable/pod{UID}/{id}"),
                true,
            ),
            (
                format!("**/pod{UID}/**"),
                format!("kubepods/pod{UID}/{id}/made"),
                true,
            ),
            (
                "app-*.service/worker".into(),
                "app-1.service/worker".into(),
                true,
            ),
            ("shop/**/web".into(), "shop/a/b/web".into(), true),
            (
                "**/web.service".into(),
                "system.slice/web.service".into(),
                true,
            ),
            (
                "*/web.service".into(),
                "system.slice/web.service".into(),
                true,
            ),
            ("**".into(), "system.slice/web.service".into(), true),
            ("*".into(), "web".into(), true),
            // The runtime makes the folders of containers.
            (format!("**/{scope}"), format!("{slices}/{scope}"), true),
            (format!("**/{id}"), format!("kubepods/pod{UID}/{id}"), true),
            (format!("**/{id}"), format!("docker/{id}"), true),
            // A process makes the others.
            (
                format!("**/{scope}"),
                format!("{slices}/{scope}/{scope}"),
                false,
            ),
            (
                format!("**/{id}"),
                format!("docker/{}/{id}", "8e".repeat(32)),
                false,
            ),
            (
                format!("**/pod{UID}"),
                format!("app.service/pod{UID}"),
                false,
            ),
            (
                format!("**/pod{UID}"),
                format!("app.service/kubepods/pod{UID}"),
                false,
            ),
            (
                format!("**/pod{UID}/*"),
                format!("{user}/pod{UID}/{id}"),
                false,
            ),
            (
                "**/web.service".into(),
                format!("{user}/web.service"),
                false,
            ),
            ("*/web".into(), "app.service/web".into(), false),
            ("**/web/**".into(), "app.service/web".into(), false),
            // The workload above it has a name.
            ("**".into(), "app.service/made".into(), false),
        ] {
            let entry = format!("{{cgroup: '{pattern}', namespace: vm}}")
                .parse()
                .unwrap();
            let naming = Naming::new(vec![entry], Vec::new(), Identities::default());
            let named = naming.named(&below, None).is_some();
            assert_eq!(named, is_named, "{pattern} {below}");
        }
    }

    #[test]
    fn a_pod_of_which_nothing_is_known_is_no_workload() {
        let naming = Naming::new(Vec::new(), vec![pod()], Identities::default());
        let other = "1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        assert_eq!(
            naming.named(&format!("kubepods/pod{other}"), Some(other)),
            None
        );
        assert_eq!(naming.named("kubepods/x", None), None);
        assert!(
            naming
                .named(&format!("kubepods/pod{UID}"), Some(UID))
                .is_some()
        );
    }
}
