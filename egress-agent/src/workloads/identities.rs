//! The identity of a cgroup's workload, as the log, `status` and `--workload` spell it: `NAMESPACE/SERVICE-ACCOUNT`, and
//! the names of its pod. Owns the spelling, and which cgroups have an identity. `naming` defines them.

use super::names;
use super::pod::Pod;
use egress_core::registry::scope::Workload;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Pods whose names are kept after their cgroups are gone, for events that are read later.
const FORMER: usize = 128;

/// The spelling of an identity.
pub fn spelling(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.service_account)
}

/// Identities by the cgroup's path in the hierarchy. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Identities(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    workloads: BTreeMap<String, Arc<str>>,
    pods: BTreeMap<String, Arc<Pod>>,
    /// Paths of pods that are gone, the oldest first. They are in `pods` still.
    former: VecDeque<String>,
}

/// The names of a pod that the Kubernetes API knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Its uid, as its cgroup has it.
    pub uid: String,
    /// The container, if it is known.
    pub container: Option<String>,
    /// The workload that the pod belongs to, such as `Deployment/client`.
    pub owner: Option<String>,
}

impl Identities {
    /// Sets the workload of a cgroup, or removes it.
    pub(super) fn set(&self, cgroup: &str, workload: Option<&Workload>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match workload {
            Some(workload) => {
                let spelling = spelling(workload).into();
                known.workloads.insert(cgroup.to_owned(), spelling);
            }
            None => drop(known.workloads.remove(cgroup)),
        }
    }

    /// Sets the pod of a cgroup.
    pub(super) fn set_pod(&self, cgroup: &str, pod: &Arc<Pod>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.former.retain(|former| former != cgroup);
        known.pods.insert(cgroup.to_owned(), Arc::clone(pod));
    }

    /// The cgroup of a pod is gone.
    pub(super) fn pod_gone(&self, cgroup: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !known.pods.contains_key(cgroup) {
            return;
        }
        known.former.push_back(cgroup.to_owned());
        if known.former.len() > FORMER
            && let Some(oldest) = known.former.pop_front()
        {
            known.pods.remove(&oldest);
        }
    }

    /// The workload that a cgroup belongs to: its own, or that of the nearest cgroup above that has one.
    pub fn of(&self, cgroup: &str) -> Option<Arc<str>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut upwards = Path::new(cgroup).ancestors();
        upwards.find_map(|path| known.workloads.get(path.to_str()?).cloned())
    }

    /// The names of the pod that a cgroup belongs to.
    pub fn pod(&self, cgroup: &str) -> Option<PodNames> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut upwards = Path::new(cgroup).ancestors();
        let pod = upwards.find_map(|path| known.pods.get(path.to_str()?))?;
        let container = names::read(cgroup).container;
        Some(PodNames {
            pod: pod.full_name(),
            uid: pod.uid.clone(),
            container: container.and_then(|container| pod.containers.get(&container.id).cloned()),
            owner: pod.owner.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_named_cgroup_at_or_above_says_who_it_is() {
        let identities = Identities::default();
        let workload = |namespace: &str| Workload {
            namespace: namespace.into(),
            service_account: "web".into(),
            ..Workload::default()
        };
        identities.set("/pods/a", Some(&workload("shop")));
        identities.set("/pods/a/b", Some(&workload("blog")));
        let of = |cgroup| identities.of(cgroup).map(|who| who.to_string());
        assert_eq!(of("/pods/a"), Some("shop/web".into()));
        assert_eq!(of("/pods/a/c/d"), Some("shop/web".into()));
        assert_eq!(of("/pods/a/b/c"), Some("blog/web".into()));
        assert_eq!(of("/pods/ab"), None);
        assert_eq!((of("/"), of(""), of("id:7")), (None, None, None));
        identities.set("/pods/a/b", None);
        assert_eq!(of("/pods/a/b/c"), Some("shop/web".into()));
    }

    #[test]
    fn a_pod_and_its_containers_have_names_for_a_while_after_their_end() {
        let identities = Identities::default();
        let id = "7d".repeat(32);
        let path = |n: usize| format!("/kubepods/pod{n:08x}-4b5a-6978-8796-a5b4c3d2e1f0");
        let pod = Arc::new(Pod {
            namespace: "shop".to_owned(),
            name: "client".to_owned(),
            owner: Some("Deployment/client".to_owned()),
            containers: [(id.clone(), "main".to_owned())].into(),
            ..Pod::default()
        });
        identities.set_pod(&path(0), &pod);
        let names = |container: Option<&str>| PodNames {
            pod: "shop/client".to_owned(),
            uid: identities.pod(&path(0)).unwrap_or_default().uid,
            container: container.map(str::to_owned),
            owner: Some("Deployment/client".to_owned()),
        };
        assert_eq!(identities.pod(&path(0)), Some(names(None)));
        let inside = format!("{}/{id}/made", path(0));
        assert_eq!(identities.pod(&inside), Some(names(Some("main"))));
        assert_eq!(identities.pod(&path(1)), None);
        for n in 0..=FORMER {
            identities.set_pod(&path(n), &pod);
            identities.pod_gone(&path(n));
        }
        assert_eq!(identities.pod(&path(0)), None);
        assert!(identities.pod(&path(FORMER)).is_some());
    }
}
