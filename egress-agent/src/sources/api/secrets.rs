//! The Secrets and ConfigMaps that rules in force name, from the Kubernetes API: one watch for each by its name, so that
//! the agent needs no access to others.
//!
//! Each stays as it was while the server does not answer. Nothing of a Secret is kept on disk or logged.

use super::rules::ApiRules;
use crate::kubernetes::{ApiClient, Kind, Metadata, News, Object, Selection, Standings, follow};
use crate::secret_store::{SecretStore, Source};
use egress_core::istio::{CredentialKind, CredentialName, Secret, Secrets, Strictness, decode_as};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const fn kind(plural: &'static str) -> Kind {
    Kind {
        group: "",
        versions: &["v1"],
        plural,
    }
}
/// The most Secrets and ConfigMaps, each of which is a watch. Connections that need another one are denied.
const MOST: usize = 128;
/// Changes that wait.
const WAITING: usize = 16;

/// A Secret or ConfigMap as the server sent it.
struct Raw {
    metadata: Metadata,
    data: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        // The error of a map would contain its values.
        let metadata =
            Metadata::deserialize(metadata).map_err(|_| de::Error::custom("malformed metadata"))?;
        let data = match value.get_mut("data").map(Value::take) {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        Ok(Self { metadata, data })
    }
}

impl Object for Raw {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// The content of a Secret or ConfigMap; `None` if it does not exist or cannot be used.
type Change = (CredentialName, Option<Arc<Secret>>);

/// Follows the wanted ones until the future is dropped.
pub(super) async fn follow_secrets(api: ApiClient, rules: ApiRules, store: Arc<SecretStore>) {
    let mut wanted = rules.wanted();
    wanted.mark_changed();
    let (send, mut changes) = mpsc::channel::<Change>(WAITING);
    let mut followed: BTreeMap<CredentialName, JoinSet<()>> = BTreeMap::new();
    let mut secrets = Secrets::new();
    loop {
        tokio::select! {
            woken = wanted.changed() => {
                if woken.is_err() {
                    return;
                }
                let names = with_authorities(&wanted.borrow_and_update());
                // Dropping the tasks ends them.
                followed.retain(|name, _| names.contains(name));
                secrets.retain(|name, _| names.contains(name));
                for name in names {
                    let of_name = || follow_one(&api, &name, &send);
                    followed.entry(name.clone()).or_insert_with(of_name);
                }
            }
            change = changes.recv() => match change {
                Some((name, Some(secret))) if followed.contains_key(&name) => {
                    secrets.insert(name, secret);
                }
                Some((name, _)) => {
                    secrets.remove(&name);
                }
                None => return,
            },
        }
        store.publish(Source::Api, secrets.clone());
    }
}

/// Authorities of a Secret may be in one of their own.
fn with_authorities(names: &BTreeSet<CredentialName>) -> BTreeSet<CredentialName> {
    let both = names.iter().flat_map(CredentialName::of_authorities);
    let mut all: BTreeSet<CredentialName> = both.collect();
    if all.len() > MOST {
        let count = names.len();
        tracing::error!(
            count,
            "rules name too many Secrets and ConfigMaps: only {MOST} are read from the Kubernetes API; connections that need the others are denied"
        );
        while all.len() > MOST {
            all.pop_last();
        }
    }
    all
}

fn follow_one(api: &ApiClient, name: &CredentialName, send: &mpsc::Sender<Change>) -> JoinSet<()> {
    let selection = Selection {
        namespace: Some(name.namespace.to_string()),
        fields: Some(format!("metadata.name={}", name.name)),
        ..Selection::all(match name.kind {
            CredentialKind::Secret => kind("secrets"),
            CredentialKind::ConfigMap => kind("configmaps"),
        })
    };
    let (told, mut news) = mpsc::channel(WAITING);
    let standing = Standings::default().add(&name.to_string());
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(api.clone(), selection, standing, told));
    let (name, send) = (name.clone(), send.clone());
    tasks.spawn(async move {
        while let Some(news) = news.recv().await {
            let secret = match news {
                News::Put(raw) => read(&name, &raw),
                News::Removed { .. } => None,
                News::Synced | News::NotServed => continue,
            };
            if send.send((name.clone(), secret)).await.is_err() {
                return;
            }
        }
    });
    tasks
}

/// A Secret or ConfigMap, if it is the wanted one and has certificates.
fn read(name: &CredentialName, raw: &Raw) -> Option<Arc<Secret>> {
    let found = raw.metadata.key();
    if (found.namespace.as_str(), found.name.as_str()) != (&*name.namespace, &*name.name) {
        return None;
    }
    let text = json!({
        "apiVersion": "v1",
        "kind": name.kind.as_str(),
        "metadata": {"namespace": found.namespace, "name": found.name},
        "data": raw.data,
    });
    let mut decoded = decode_as(
        "kubernetes:credential",
        &text.to_string(),
        Strictness::Files,
    );
    for message in &decoded.messages {
        let problem = &message.text;
        tracing::warn!(%name, problem, "cannot use a Secret or ConfigMap of the Kubernetes API; connections that need it are denied");
    }
    decoded.secrets.pop().map(|(_, secret)| Arc::new(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> CredentialName {
        CredentialName {
            kind: CredentialKind::Secret,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn only_the_wanted_secret_is_taken() {
        let raw = |of: &str| -> Raw {
            serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": of, "annotations": null},
                "data": {"ca.crt": "cg==", "other": "eA=="},
            }))
            .unwrap()
        };
        let secret = read(&name("a"), &raw("a")).unwrap();
        assert_eq!(secret.authorities(), Some((&b"r"[..], None)));
        assert_eq!(read(&name("a"), &raw("b")), None, "a server that lies");
        // The values of a ConfigMap are plain text.
        let of_map = CredentialName {
            kind: CredentialKind::ConfigMap,
            ..name("a")
        };
        let map = read(&of_map, &raw("a")).unwrap();
        assert_eq!(map.authorities(), Some((&b"cg=="[..], None)));
        assert_eq!(map.name, of_map);
    }

    #[test]
    fn an_error_has_no_byte_of_a_secret() {
        let text = r#"{"metadata": {"name": ["hidden"]}, "data": {"ca.crt": "hidden"}}"#;
        let Err(error) = serde_json::from_str::<Raw>(text) else {
            panic!("accepted")
        };
        assert!(!error.to_string().contains("hidden"), "{error}");
    }

    #[test]
    fn the_number_of_watches_is_bounded() {
        let names: BTreeSet<CredentialName> = (0..200).map(|n| name(&format!("a{n}"))).collect();
        assert_eq!(with_authorities(&names).len(), MOST);
        let one = with_authorities(&BTreeSet::from([name("a")]));
        assert_eq!(one, BTreeSet::from([name("a"), name("a-cacert")]));
    }
}
