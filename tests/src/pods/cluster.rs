//! A lab's node in a cluster: pods without a container runtime, whose objects an API server has.
//!
//! Owns the objects' form. The tests decide which pod has one, and when.

use super::{Pod, Pods};
use crate::api::FakeApi;
use crate::folder::folder;
use crate::lab::{Lab, LabOptions};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// The node's name in the API.
pub const NODE: &str = "node-1";

/// See the module.
pub struct Cluster {
    // Dropped in this order: the agent before its server.
    /// The node.
    pub lab: Lab,
    /// The API server, which listens in the node's network namespace.
    pub api: FakeApi,
    /// Makes pods; `None` if a container runtime does.
    pods: Option<Pods>,
    _kubeconfig: TempDir,
}

impl Cluster {
    /// A node whose agent follows the API, with further flags. It is not started yet.
    pub fn without_agent(flags: &[&str]) -> Result<Self> {
        let dir = folder("kubeconfig")?;
        let path = dir.path().join("kubeconfig");
        let mut all = vec![
            "--kubernetes-node",
            NODE,
            "--kubernetes-cluster-ranges=false",
            "--kubeconfig",
        ];
        let file = path.display().to_string();
        all.push(&file);
        all.extend(flags);
        let lab = Lab::without_agent(LabOptions::flags(&all))?;
        let api = FakeApi::start_in(lab.node())?;
        fs::copy(api.kubeconfig()?, path)?;
        Ok(Self {
            lab,
            api,
            pods: None,
            _kubeconfig: dir,
        })
    }

    /// The same with a running agent, for a container runtime.
    pub fn for_runtime(flags: &[&str]) -> Result<Self> {
        let mut cluster = Self::without_agent(flags)?;
        cluster.lab.start_agent()?;
        Ok(cluster)
    }

    /// A node that makes pods itself, with a running agent.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let mut cluster = Self::without_agent(flags)?.with_pods()?;
        cluster.lab.start_agent()?;
        Ok(cluster)
    }

    /// Makes the node ready for pods.
    pub fn with_pods(mut self) -> Result<Self> {
        self.pods = Some(Pods::on(&self.lab)?);
        Ok(self)
    }

    /// Creates a pod without an object.
    pub fn unknown_pod(&self) -> Result<Pod> {
        let pods = self.pods.as_ref().context("a node that makes pods")?;
        pods.create(&self.lab)
    }

    /// Creates a pod with its object.
    pub fn pod(&self, namespace: &str, name: &str, labels: &Value) -> Result<Pod> {
        let pod = self.unknown_pod()?;
        self.api
            .put("pods", object(&pod.uid, namespace, name, labels))?;
        Ok(pod)
    }
}

/// A running pod of a Deployment, as the API has it.
pub fn object(uid: &str, namespace: &str, name: &str, labels: &Value) -> Value {
    let mut labels = labels.clone();
    labels["pod-template-hash"] = json!("5d4f6c7b89");
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "labels": labels,
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-02T03:04:05Z"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d4f6c7b89"),
                "uid": "5f5f5f5f-1111-4222-8333-444455556666", "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": NODE, "serviceAccountName": name, "restartPolicy": "Always",
            "containers": [{"name": "main", "image": "registry.example/main:1"}],
        },
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "main", "ready": true, "restartCount": 0, "image": "registry.example/main:1",
            "containerID": format!("containerd://{}", container_id(uid)), "state": {"running": {}},
        }]},
    })
}

/// The id of a pod's container: [`Pods`] derives it from the pod's number, as it does with the uid.
fn container_id(uid: &str) -> String {
    let number = u16::from_str_radix(uid.get(4..8).unwrap_or_default(), 16);
    super::id(b'c', number.unwrap_or_default())
}
