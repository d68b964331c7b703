//! The pods of one node from the API: decodes the used fields, and reports each pod under the uid that is in its cgroup's
//! path.

use super::client::ApiClient;
use super::meta::{Metadata, Object, or_default};
use super::selection::{Freshness, Kind, Selection};
use super::standing::Standing;
use super::watch::{News, follow};
use crate::workloads::{Pod, PodNews};
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// The kubelet's annotation of a mirror pod (`pkg/kubelet/types/constants.go`): the uid of the static pod, which is a
/// hash of its manifest.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Digits of that hash (`pkg/kubelet/config/common.go`: MD5). The uid of any other pod is a UUID, with dashes.
const HASH_DIGITS: usize = 32;
/// The label that a Deployment gives its ReplicaSets and their pods.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// News between the follower and this file.
const QUEUE: usize = 16;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct PodObject {
    metadata: Metadata,
    spec: Spec,
    #[serde(deserialize_with = "or_default")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    service_account_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the names in the API")]
struct Status {
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    init_container_statuses: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    ephemeral_container_statuses: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    /// `RUNTIME://ID`; empty until the container was created.
    #[serde(rename = "containerID", deserialize_with = "or_default")]
    id: String,
}

impl Object for PodObject {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Follows the pods of a node until nobody receives the news.
pub async fn follow_pods(
    api: ApiClient,
    node: String,
    standing: Standing,
    news: mpsc::Sender<PodNews>,
) {
    let selection = Selection {
        fields: Some(format!("spec.nodeName={node}")),
        // The kubelet of each node asks in the same way. The cache has an index by node.
        freshness: Freshness::Cached,
        ..Selection::all(Kind::PODS)
    };
    let (sender, mut objects) = mpsc::channel(QUEUE);
    let mut here = Here::new(node);
    let told = async move {
        while let Some(object) = objects.recv().await {
            if let Some(told) = here.take(object)
                && news.send(told).await.is_err()
            {
                return;
            }
        }
    };
    tokio::join!(follow(api, selection, standing, sender), told);
}

/// The pods of this node, by `metadata.uid`.
struct Here {
    node: String,
    /// Uids in cgroups' paths that differ from the pod's own.
    mirrors: BTreeMap<String, String>,
}

impl Here {
    const fn new(node: String) -> Self {
        Self {
            node,
            mirrors: BTreeMap::new(),
        }
    }

    fn take(&mut self, news: News<PodObject>) -> Option<PodNews> {
        match news {
            News::Put(object) => self.put(object).map(|pod| PodNews::Put(Box::new(pod))),
            News::Removed { uid, .. } => {
                Some(PodNews::Removed(self.mirrors.remove(&uid).unwrap_or(uid)))
            }
            News::Synced => Some(PodNews::Synced),
            News::NotServed => None,
        }
    }

    /// `None` for a pod that is not this node's, or that pretends to be another one.
    fn put(&mut self, object: PodObject) -> Option<Pod> {
        let metadata = &object.metadata;
        if object.spec.node_name != self.node || metadata.uid.is_empty() {
            return None;
        }
        let uid = match static_uid(metadata, &self.node) {
            None => metadata.uid.clone(),
            Some(hash) => {
                let mut others = self.mirrors.iter().filter(|(own, _)| **own != metadata.uid);
                if let Some((first, _)) = others.find(|(_, of)| *of == hash) {
                    let pod = metadata.key();
                    tracing::warn!(%pod, static_pod = hash, first, "ignored a second mirror pod of a static pod");
                    return None;
                }
                self.mirrors.insert(metadata.uid.clone(), hash.to_owned());
                hash.to_owned()
            }
        };
        let status = object.status;
        let containers = [
            status.container_statuses,
            status.init_container_statuses,
            status.ephemeral_container_statuses,
        ];
        let id = |container: Container| {
            let (_, id) = container.id.split_once("://")?;
            Some((id.to_owned(), container.name))
        };
        Some(Pod {
            uid,
            owner: owner(metadata),
            containers: containers.into_iter().flatten().filter_map(id).collect(),
            namespace: object.metadata.namespace,
            name: object.metadata.name,
            service_account: object.spec.service_account_name,
            labels: object.metadata.labels,
        })
    }
}

/// The uid of the static pod that an object mirrors. Anyone who creates pods can set the annotation. So it must have the
/// form that no other pod's uid has, and the node must own the object, as the kubelet makes it.
fn static_uid<'a>(metadata: &'a Metadata, node: &str) -> Option<&'a str> {
    let hash = metadata.annotations.get(MIRROR)?;
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let mut owners = metadata.owner_references.iter();
    let is_owned = owners.any(|owner| owner.kind == "Node" && owner.name == node);
    (is_hash && is_owned).then_some(hash)
}

/// The controller of a pod; of a ReplicaSet that a Deployment made, the Deployment.
fn owner(metadata: &Metadata) -> Option<String> {
    let mut owners = metadata.owner_references.iter();
    let controller = owners.find(|owner| owner.controller == Some(true))?;
    let of_deployment = || {
        let hash = metadata.labels.get(TEMPLATE_HASH)?;
        controller.name.strip_suffix(hash)?.strip_suffix('-')
    };
    match of_deployment().filter(|_| controller.kind == "ReplicaSet") {
        Some(deployment) => Some(format!("Deployment/{deployment}")),
        None => Some(format!("{}/{}", controller.kind, controller.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn put(here: &mut Here, object: Value) -> Option<Pod> {
        here.put(serde_json::from_value(object).unwrap())
    }

    fn mirror(uid: &str, hash: &str, owner: &str) -> Value {
        json!({
            "metadata": {
                "uid": uid, "name": "etcd-here", "namespace": "kube-system",
                "annotations": {MIRROR: hash, "kubernetes.io/config.source": "file"},
                "ownerReferences": [{"kind": "Node", "name": owner, "controller": true}],
            },
            "spec": {"nodeName": "here"},
        })
    }

    #[test]
    fn a_pod_has_the_names_of_all_its_containers_and_of_its_deployment() {
        let mut here = Here::new("here".to_owned());
        let id = "7d".repeat(32);
        let status = |name: &str, id: Option<String>| json!([{"name": name, "containerID": id, "ready": true}]);
        let pod = put(&mut here, json!({
            "metadata": {
                "uid": "u", "name": "client-5d4f-x", "namespace": "shop", "managedFields": [{"manager": "x"}],
                "labels": {"app": "client", TEMPLATE_HASH: "5d4f"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "client-5d4f", "controller": true, "uid": "r"}],
            },
            "spec": {"nodeName": "here", "serviceAccountName": "client", "containers": [{"name": "main"}]},
            "status": {
                "initContainerStatuses": status("setup", Some(format!("containerd://{id}"))),
                "containerStatuses": status("main", None),
                "ephemeralContainerStatuses": status("debug", Some("cri-o://ab".to_owned())),
            },
        }))
        .unwrap();
        assert_eq!(pod.full_name(), "shop/client-5d4f-x");
        assert_eq!(pod.owner.as_deref(), Some("Deployment/client"));
        assert_eq!(pod.service_account, "client");
        let names: Vec<_> = pod.containers.values().map(String::as_str).collect();
        assert_eq!(names, ["setup", "debug"], "main has no id yet");
        assert_eq!(pod.containers[&id], "setup");
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_in_its_cgroup() {
        let mut here = Here::new("here".to_owned());
        let pod = put(&mut here, mirror("u", HASH, "here")).unwrap();
        assert_eq!(
            (pod.uid.as_str(), pod.owner.as_deref()),
            (HASH, Some("Node/here"))
        );
        let removed = News::Removed {
            key: pod_key(),
            uid: "u".to_owned(),
        };
        assert_eq!(here.take(removed), Some(PodNews::Removed(HASH.to_owned())));
        assert!(here.mirrors.is_empty());
    }

    fn pod_key() -> crate::kubernetes::Key {
        crate::kubernetes::Key::default()
    }

    #[test]
    fn an_annotation_does_not_make_a_pod_another_one() {
        let mut here = Here::new("here".to_owned());
        let victim = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        for object in [mirror("own", victim, "here"), mirror("own", HASH, "there")] {
            assert_eq!(put(&mut here, object).unwrap().uid, "own");
        }
        put(&mut here, mirror("first", HASH, "here")).unwrap();
        assert_eq!(put(&mut here, mirror("second", HASH, "here")), None);
        assert_eq!(
            put(&mut here, mirror("first", HASH, "here")).unwrap().uid,
            HASH
        );
    }

    #[test]
    fn pods_of_other_nodes_are_not_taken() {
        let mut here = Here::new("there".to_owned());
        assert_eq!(put(&mut here, mirror("u", HASH, "here")), None);
    }
}
