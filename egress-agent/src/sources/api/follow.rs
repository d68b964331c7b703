//! Gets the objects of each kind from the API server: one list and one watch for each kind, whatever versions the server
//! serves.

use super::kinds::{TooLarge, Versioned};
use super::object::{self, plural};
use super::rules::ApiRules;
use crate::kubernetes::{
    ApiClient, Freshness, Key, Kind as Resource, Limits, Metadata, News, Object, Selection,
    Standing, follow,
};
use crate::sources::versions::Digest;
use egress_core::istio::{GROUP, Kind, VERSIONS};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long the objects of a kind that is not served any more stay in force. A server that starts answers so for some
/// seconds, and every listed destination would be denied.
const ABSENT: Duration = Duration::from_mins(10);
/// News of a kind that wait.
const MAX_PENDING: usize = 64;

/// What is kept of an object as the server sent it. The objects of a page are in memory together.
struct Raw {
    metadata: Metadata,
    api_version: Option<String>,
    /// See [`object::content`].
    content: String,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        let mut metadata = Metadata::deserialize(metadata).map_err(de::Error::custom)?;
        metadata.labels.clear();
        metadata.annotations.clear();
        let api_version = value.get("apiVersion").and_then(Value::as_str);
        Ok(Self {
            metadata,
            api_version: api_version.map(str::to_owned),
            content: object::content(value),
        })
    }
}

impl Object for Raw {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// A kind of rules in the Kubernetes API.
pub const fn rule_kind(kind: Kind) -> Resource {
    Resource {
        group: GROUP,
        versions: VERSIONS,
        plural: plural(kind),
    }
}

/// Follows all kinds until the future is dropped.
pub(super) async fn follow_kinds(api: ApiClient, rules: ApiRules) {
    let mut tasks = JoinSet::new();
    for (kind, standing) in rules.standings() {
        let (send, news) = mpsc::channel(MAX_PENDING);
        // As the kubelet and kube-proxy do: from the server's cache, which costs the server little. The follower never
        // goes back to an older state than it has seen.
        let selection = Selection {
            freshness: Freshness::Cached,
            limits: Limits {
                absent: ABSENT,
                ..Limits::default()
            },
            ..Selection::all(rule_kind(kind))
        };
        tasks.spawn(follow(api.clone(), selection, standing.clone(), send));
        let listener = Listener {
            kind,
            standing: standing.clone(),
            rules: rules.clone(),
            first: Some(BTreeMap::new()),
        };
        tasks.spawn(listener.listen(news));
    }
    // None of them ends.
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "following the rules of the Kubernetes API failed: restart the agent");
        }
    }
}

/// Takes the news of one kind.
struct Listener {
    kind: Kind,
    standing: Standing,
    rules: ApiRules,
    /// The objects of the first list, until it is complete: part of it must not be in force.
    first: Option<BTreeMap<PathBuf, Versioned>>,
}

impl Listener {
    async fn listen(mut self, mut news: mpsc::Receiver<News<Raw>>) {
        while let Some(news) = news.recv().await {
            let noticed = Instant::now();
            match self.take(news) {
                Ok(true) => {
                    self.rules.has_changed(noticed);
                }
                Ok(false) => {}
                Err(error) => {
                    self.standing.refused();
                    tracing::error!(kind = %self.kind, %error, "an object of the Kubernetes API is not applied");
                }
            }
        }
    }

    /// Returns whether anything is different.
    fn take(&mut self, news: News<Raw>) -> Result<bool, TooLarge> {
        match news {
            News::Put(raw) => {
                let Some(file) = self.file(raw) else {
                    return Ok(false);
                };
                match &mut self.first {
                    Some(first) => {
                        first.insert(file.file.path.clone(), file);
                        Ok(false)
                    }
                    None => self.rules.kinds().put(self.kind, file),
                }
            }
            News::Removed { key, .. } => {
                let Some(path) = self.path(&key) else {
                    return Ok(false);
                };
                match &mut self.first {
                    Some(first) => {
                        first.remove(&path);
                        Ok(false)
                    }
                    None => Ok(self.rules.kinds().remove(self.kind, &path)),
                }
            }
            News::Synced => match self.first.take() {
                Some(first) => self
                    .rules
                    .kinds()
                    .replace(self.kind, first.into_values().collect()),
                None => Ok(false),
            },
            News::NotServed => Ok(self.rules.kinds().not_served(self.kind)),
        }
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        object::path(self.kind, &key.namespace, &key.name)
    }

    fn file(&self, raw: Raw) -> Option<Versioned> {
        let key = raw.metadata.key();
        let Some(path) = self.path(&key) else {
            let name = key.to_string();
            self.standing.refused();
            tracing::warn!(kind = %self.kind, ?name, "an object of the Kubernetes API has a name that no object can have; ignored");
            return None;
        };
        // Items of a list have none for kinds that are built in.
        let version = raw.api_version.unwrap_or_else(|| format!("{GROUP}/v1"));
        let file = object::file(self.kind, &version, path, &raw.content);
        Some(Versioned {
            file: Arc::new(file),
            version: Digest::of(&raw.metadata.uid, raw.metadata.generation),
        })
    }
}
