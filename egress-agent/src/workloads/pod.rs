//! A pod of this node as the Kubernetes API describes it: the fields that the agent uses.

use egress_core::registry::scope::Workload;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// As in the path of its cgroup.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The workload that it belongs to, such as `Deployment/client`.
    pub owner: Option<String>,
    /// The names of its containers, by id.
    pub containers: BTreeMap<String, String>,
}

impl Pod {
    /// `NAMESPACE/NAME`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its identity for rules, without a mode of its own.
    pub(super) fn workload(&self) -> Workload {
        Workload {
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            service_account: self.service_account.clone(),
            audit: None,
        }
    }
}

/// A change of the node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNews {
    /// A pod is there, or changed.
    Put(Box<Pod>),
    /// The object of the pod with this uid is gone. Its processes may still run.
    Removed(String),
    /// All pods of the node were reported.
    Synced,
}
