//! The metadata of an object, without the fields that the agent does not use: `managedFields` is often larger than the
//! rest of the object.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;

/// An object of a kind that the agent follows. Its `Deserialize` keeps only the fields that are used.
pub trait Object: DeserializeOwned + Send + 'static {
    /// Its metadata.
    fn metadata(&self) -> &Metadata;
}

/// `metadata` of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Unique among the objects of a kind in a namespace.
    pub name: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Unique over the lifetime of the cluster.
    pub uid: String,
    /// Changes with each write.
    pub resource_version: String,
    /// Changes with each write of the specification.
    pub generation: i64,
    /// For selectors.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// For tools.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// The objects that it depends on.
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
    /// It is being deleted since then.
    pub deletion_timestamp: Option<String>,
}

/// An object that another one depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it manages the dependent object.
    pub controller: Option<bool>,
}

impl Metadata {
    /// The place of the object among those of its kind.
    pub fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// The namespace and the name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `null` is the same as no value: Go writes it for an empty list in some versions.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
