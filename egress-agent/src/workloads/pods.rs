//! The node's pods by uid, from the Kubernetes API or from the previous agent.
//!
//! A pod stays known until both its object and its cgroup are gone: the processes of a deleted pod run on for a while,
//! and must not fall under another policy. Does not know cgroups, except which pod has one.

use super::pod::{Pod, PodNews};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most pods. A kubelet runs 110 by default, and no node has thousands.
const MAX_PODS: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Pods {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    pod: Arc<Pod>,
    /// Whether the API has it, as far as is known.
    object: Object,
    /// Whether it has a cgroup.
    cgroup: bool,
}

/// Whether a pod's object exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    /// The API reported it.
    Exists,
    /// The previous agent knew it. A complete list decides.
    Unproven,
    /// It was deleted.
    Gone,
}

impl Pods {
    /// Begins with the pods of the previous agent.
    pub fn restored(pods: Vec<Pod>) -> Self {
        let known = pods.into_iter().take(MAX_PODS).map(|pod| {
            let known = Known {
                pod: Arc::new(pod),
                object: Object::Unproven,
                cgroup: false,
            };
            (known.pod.uid.clone(), known)
        });
        Self {
            known: known.collect(),
        }
    }

    /// A pod.
    pub(super) fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.known.get(uid).map(|known| &known.pod)
    }

    /// All pods, for the next agent.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.known.values().map(|known| &known.pod)
    }

    /// A pod's cgroup was found.
    pub(super) fn cgroup_found(&mut self, uid: &str) {
        if let Some(known) = self.known.get_mut(uid) {
            known.cgroup = true;
        }
    }

    /// A pod's cgroup is gone. Returns whether the pod is forgotten.
    pub(super) fn cgroup_gone(&mut self, uid: &str) -> bool {
        let Some(known) = self.known.get_mut(uid) else {
            return false;
        };
        known.cgroup = false;
        known.object == Object::Gone && self.known.remove(uid).is_some()
    }

    /// Takes news. `has_cgroup` says which pods have a cgroup. Adds the uids of pods that are new or other than before
    /// to `changed`. Returns whether [`Self::all`] has another content.
    pub(super) fn take(
        &mut self,
        news: PodNews,
        has_cgroup: impl Fn(&str) -> bool,
        changed: &mut Vec<String>,
    ) -> bool {
        match news {
            PodNews::Put(pod) => self.put(*pod, has_cgroup, changed),
            PodNews::Removed(uid) => self.forget_if(|known| known.pod.uid == uid),
            PodNews::Synced => self.forget_if(|known| known.object == Object::Unproven),
        }
    }

    fn put(
        &mut self,
        pod: Pod,
        has_cgroup: impl Fn(&str) -> bool,
        changed: &mut Vec<String>,
    ) -> bool {
        if let Some(known) = self.known.get_mut(&pod.uid) {
            known.object = Object::Exists;
            if *known.pod == pod {
                return false;
            }
            changed.push(pod.uid.clone());
            known.pod = Arc::new(pod);
            return true;
        }
        if self.known.len() >= MAX_PODS {
            return false;
        }
        changed.push(pod.uid.clone());
        let known = Known {
            cgroup: has_cgroup(&pod.uid),
            pod: Arc::new(pod),
            object: Object::Exists,
        };
        self.known.insert(known.pod.uid.clone(), known);
        true
    }

    /// The objects of these pods are gone: forgets those without a cgroup.
    fn forget_if(&mut self, gone: impl Fn(&Known) -> bool) -> bool {
        let before = self.known.len();
        self.known.retain(|_, known| {
            if gone(known) {
                known.object = Object::Gone;
            }
            known.object != Object::Gone || known.cgroup
        });
        before != self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, team: &str) -> Pod {
        Pod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            labels: [("team".to_owned(), team.to_owned())].into(),
            ..Pod::default()
        }
    }

    fn take(pods: &mut Pods, news: PodNews) -> Vec<String> {
        let mut changed = Vec::new();
        pods.take(news, |_| false, &mut changed);
        changed
    }

    fn uids(pods: &Pods) -> Vec<&str> {
        pods.all().map(|pod| pod.uid.as_str()).collect()
    }

    #[test]
    fn a_pod_that_is_as_before_is_no_change() {
        let mut pods = Pods::default();
        assert_eq!(take(&mut pods, PodNews::Put(pod("a", "x").into())), ["a"]);
        let mut started = pod("a", "x");
        started
            .containers
            .insert("7d".to_owned(), "main".to_owned());
        assert_eq!(take(&mut pods, PodNews::Put(started.clone().into())), ["a"]);
        assert_eq!(**pods.get("a").unwrap(), started);
        assert!(take(&mut pods, PodNews::Put(started.into())).is_empty());
    }

    #[test]
    fn a_deleted_pod_is_known_until_its_cgroup_is_gone() {
        let mut pods = Pods::default();
        for uid in ["a", "b"] {
            take(&mut pods, PodNews::Put(pod(uid, "x").into()));
        }
        pods.cgroup_found("a");
        for uid in ["a", "b"] {
            take(&mut pods, PodNews::Removed(uid.to_owned()));
        }
        assert_eq!(uids(&pods), ["a"]);
        assert!(pods.cgroup_gone("a"));
        assert!(uids(&pods).is_empty());
        // The cgroup may go first, too.
        take(&mut pods, PodNews::Put(pod("c", "x").into()));
        pods.cgroup_found("c");
        assert!(!pods.cgroup_gone("c"));
        assert_eq!(uids(&pods), ["c"]);
        take(&mut pods, PodNews::Removed("c".to_owned()));
        assert!(uids(&pods).is_empty());
    }

    #[test]
    fn pods_of_the_previous_agent_are_known_until_a_complete_list_lacks_them() {
        let mut pods = Pods::restored(vec![pod("a", "x"), pod("b", "x"), pod("c", "x")]);
        pods.cgroup_found("b");
        assert!(take(&mut pods, PodNews::Put(pod("a", "x").into())).is_empty());
        take(&mut pods, PodNews::Synced);
        assert_eq!(uids(&pods), ["a", "b"], "b still runs");
        assert!(pods.cgroup_gone("b"));
        assert_eq!(uids(&pods), ["a"]);
    }
}
