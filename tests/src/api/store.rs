//! The objects of the server, with the history that watches read. Knows no HTTP.

use super::answers::Refusal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A kind that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its API group, empty for the core group.
    pub group: String,
    /// Served versions. Objects are the same in all of them.
    pub versions: Vec<String>,
    /// Its name in objects.
    pub kind: String,
    /// Its name in paths.
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// A kind of the core group.
    pub fn core(kind: &str, plural: &str, namespaced: bool) -> Self {
        Self {
            group: String::new(),
            versions: vec!["v1".to_owned()],
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced,
        }
    }

    /// A kind of Istio's networking group.
    pub fn istio(kind: &str, plural: &str) -> Self {
        Self {
            group: "networking.istio.io".to_owned(),
            versions: ["v1", "v1beta1", "v1alpha3"].map(str::to_owned).to_vec(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced: true,
        }
    }

    /// `Lease` of `coordination.k8s.io`.
    pub fn lease() -> Self {
        Self::of_group("coordination.k8s.io", "Lease", "leases")
    }

    /// `Event` of `events.k8s.io`.
    pub fn event() -> Self {
        Self::of_group("events.k8s.io", "Event", "events")
    }

    fn of_group(group: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            ..Self::core(kind, plural, true)
        }
    }

    /// `apiVersion` of objects in one of the versions.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}

/// Namespace and name.
pub(super) type Name = (String, String);
/// The objects of a kind at one time.
pub(super) type Objects = BTreeMap<Name, Arc<Value>>;

/// One write.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Value>>,
    /// The object; of a deletion its last state, with the deletion's version.
    pub(super) after: Arc<Value>,
    pub(super) deleted: bool,
}

/// A kind with its objects.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) resource: Resource,
    pub(super) objects: Arc<Objects>,
    pub(super) history: VecDeque<Change>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    /// The version of the last write, of all kinds.
    pub(super) version: u64,
    /// The history begins after this version.
    pub(super) compacted: u64,
    uids: u64,
    pub(super) kinds: BTreeMap<String, Stored>,
    /// Kinds that were uninstalled, with the deletions of their objects.
    pub(super) former: BTreeMap<String, Stored>,
    /// States that pages of lists continue from.
    pub(super) snapshots: BTreeMap<(String, u64), Arc<Objects>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            // etcd's revision of a cluster is never small.
            version: 1000,
            compacted: 0,
            uids: 0,
            kinds: BTreeMap::new(),
            former: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        }
    }
}

impl Store {
    pub(super) fn install(&mut self, resource: Resource) {
        let stored = Stored {
            resource: resource.clone(),
            objects: Arc::default(),
            history: VecDeque::new(),
        };
        self.former.remove(&resource.plural);
        self.kinds.entry(resource.plural).or_insert(stored);
    }

    pub(super) fn uninstall(&mut self, plural: &str) {
        let Some(stored) = self.kinds.get(plural) else {
            return;
        };
        for (namespace, name) in stored.objects.clone().keys() {
            let _ = self.delete(plural, namespace, name);
        }
        if let Some(former) = self.kinds.remove(plural) {
            self.former.insert(plural.to_owned(), former);
        }
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.snapshots.clear();
    }

    /// See [`super::FakeApi::put`].
    pub(super) fn put(&mut self, plural: &str, mut object: Value) -> Result<Value, Refusal> {
        let stored = self.kinds.get(plural).ok_or_else(Refusal::no_page)?;
        let name = name_of(&stored.resource, &object)?;
        let before = stored.objects.get(&name).cloned();
        self.version += 1;
        let version = self.version;
        if before.is_none() {
            self.uids += 1;
        }
        let own_uid = format!("0000{:04x}-1111-4222-8333-444455556666", self.uids);
        let given = object["metadata"]["uid"].as_str().map(str::to_owned);
        let old = before.as_deref().map(|before| &before["metadata"]);
        let uid = given.or_else(|| Some(old?["uid"].as_str()?.to_owned()));
        let changed = before
            .as_deref()
            .is_none_or(|before| before["spec"] != object["spec"]);
        let generation = old.and_then(|old| old["generation"].as_i64()).unwrap_or(0);
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(uid.unwrap_or(own_uid));
        metadata["resourceVersion"] = json!(version.to_string());
        metadata["generation"] = json!(generation + i64::from(changed));
        metadata["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
        metadata["managedFields"] = json!([{
            "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}},
        }]);
        let after = Arc::new(object);
        let stored = self.kinds.get_mut(plural).ok_or_else(Refusal::no_page)?;
        Arc::make_mut(&mut stored.objects).insert(name, Arc::clone(&after));
        stored.history.push_back(Change {
            version,
            before,
            after: Arc::clone(&after),
            deleted: false,
        });
        Ok((*after).clone())
    }

    pub(super) fn delete(
        &mut self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Refusal> {
        let stored = self.kinds.get_mut(plural).ok_or_else(Refusal::no_page)?;
        let key = (namespace.to_owned(), name.to_owned());
        let before = Arc::make_mut(&mut stored.objects).remove(&key);
        let before = before.ok_or_else(|| Refusal::not_found(&stored.resource, name))?;
        self.version += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Arc::new(last);
        stored.history.push_back(Change {
            version: self.version,
            before: Some(before),
            after: Arc::clone(&after),
            deleted: true,
        });
        Ok((*after).clone())
    }
}

/// The name of an object, which must be complete.
pub(super) fn name_of(resource: &Resource, object: &Value) -> Result<Name, Refusal> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    if name.is_empty() || namespace.is_empty() == resource.namespaced {
        let text = "metadata.name: Required value: name or generateName is required";
        return Err(Refusal::invalid(resource, text));
    }
    Ok((namespace.to_owned(), name.to_owned()))
}
