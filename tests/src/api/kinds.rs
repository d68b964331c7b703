//! The kinds that an agent follows, and their objects as a user of kubectl writes them.
//!
//! Owns the kinds' names in paths. It validates nothing.

use super::{FakeApi, Resource};
use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Istio's kinds and their names in paths.
pub const KINDS: [(&str, &str); 5] = [
    ("ServiceEntry", "serviceentries"),
    ("VirtualService", "virtualservices"),
    ("DestinationRule", "destinationrules"),
    ("Sidecar", "sidecars"),
    ("WorkloadEntry", "workloadentries"),
];

impl FakeApi {
    /// Serves Istio's kinds, Secrets and ConfigMaps.
    pub fn install_istio(&self) {
        for (kind, plural) in KINDS {
            self.install(Resource::istio(kind, plural));
        }
        self.install(Resource::core("Secret", "secrets", true));
        self.install(Resource::core("ConfigMap", "configmaps", true));
    }

    /// Serves the kinds that name ranges of the cluster, without `ServiceCIDR`.
    pub fn install_ranges(&self) {
        self.install(Resource::core("Node", "nodes", false));
        self.install(Resource::core("Service", "services", true));
        self.install(Resource::core("ConfigMap", "configmaps", true));
        self.install(Resource {
            group: "discovery.k8s.io".to_owned(),
            ..Resource::core("EndpointSlice", "endpointslices", true)
        });
    }

    /// Serves `ServiceCIDR`, as servers do from Kubernetes 1.33 on.
    pub fn install_service_ranges(&self) {
        self.install(Resource {
            group: "networking.k8s.io".to_owned(),
            ..Resource::core("ServiceCIDR", "servicecidrs", false)
        });
    }

    /// `kubectl apply` of a YAML text.
    pub fn apply(&self, text: &str) -> Result<()> {
        for object in objects(text)? {
            self.put(plural(&object)?, object)?;
        }
        Ok(())
    }

    /// `kubectl delete` of a YAML text.
    pub fn unapply(&self, text: &str) -> Result<()> {
        for object in objects(text)? {
            let metadata = &object["metadata"];
            let text = |key: &str| metadata[key].as_str().context("a name");
            self.delete(plural(&object)?, text("namespace")?, text("name")?)?;
        }
        Ok(())
    }
}

/// The objects of a text, in the namespace `default` if they name none.
fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let objects = documents.map(|document| -> Result<Value> {
        let mut object = Value::deserialize(document)?;
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        Ok(object)
    });
    objects.collect()
}

fn plural(object: &Value) -> Result<&'static str> {
    let kind = object["kind"].as_str().context("a kind")?;
    let mut kinds = KINDS
        .iter()
        .chain(&[("Secret", "secrets"), ("ConfigMap", "configmaps")]);
    let found = kinds.find(|(of, _)| *of == kind);
    let (_, plural) = found.with_context(|| format!("an unknown kind: {kind}"))?;
    Ok(plural)
}
