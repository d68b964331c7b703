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
const MAX_WATCHES: usize = 128;
/// Changes that wait.
const MAX_PENDING: usize = 16;

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
    let (send, mut changes) = mpsc::channel::<Change>(MAX_PENDING);
    let mut followed: BTreeMap<CredentialName, JoinSet<()>> = BTreeMap::new();
    let mut secrets = Secrets::new();
    loop {
        tokio::select! {
            woken = wanted.changed() => {
                if woken.is_err() {
                    return;
                }
                let held = followed.keys().cloned().collect();
                let names = chosen(&wanted.borrow_and_update(), &held);
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

/// The Secrets and ConfigMaps that are followed, those with the authorities of a Secret included. If there are too many,
/// each namespace has one, then a second one and so on: whoever writes rules for one namespace must not take the Secrets of
/// another. Those that are followed already come first.
fn chosen(
    names: &BTreeSet<CredentialName>,
    followed: &BTreeSet<CredentialName>,
) -> BTreeSet<CredentialName> {
    // Authorities of a Secret may be in one of their own.
    let mut namespaces: BTreeMap<&str, Vec<(bool, BTreeSet<CredentialName>)>> = BTreeMap::new();
    for name in names {
        let both: BTreeSet<CredentialName> = name.of_authorities().collect();
        let is_new = !both.is_subset(followed);
        let of_namespace = namespaces.entry(&*name.namespace).or_default();
        of_namespace.push((is_new, both));
    }
    let mut turns = Vec::with_capacity(names.len());
    for mut of_namespace in namespaces.into_values() {
        of_namespace.sort_by_key(|(is_new, _)| *is_new);
        let numbered = (0_usize..).zip(of_namespace);
        turns.extend(numbered.map(|(turn, (is_new, both))| ((turn, is_new), both)));
    }
    turns.sort_by_key(|(order, _)| *order);
    let mut all = BTreeSet::new();
    let mut left_out = 0;
    for (_, both) in turns {
        let more = both.difference(&all).count();
        if all.len() + more <= MAX_WATCHES {
            all.extend(both);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let count = names.len();
        tracing::error!(
            count,
            left_out,
            "rules name too many Secrets and ConfigMaps: only {MAX_WATCHES} are read from the Kubernetes API; connections that need the others are denied"
        );
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
    let (told, mut news) = mpsc::channel(MAX_PENDING);
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

    fn of(namespace: &str, names: std::ops::Range<usize>) -> BTreeSet<CredentialName> {
        let all = names.map(|n| CredentialName {
            namespace: namespace.into(),
            ..name(&format!("n{n}"))
        });
        all.collect()
    }

    #[test]
    fn the_number_of_watches_is_bounded() {
        let names = of("shop", 0..200);
        assert_eq!(chosen(&names, &BTreeSet::new()).len(), MAX_WATCHES);
        let one = chosen(&BTreeSet::from([name("a")]), &BTreeSet::new());
        assert_eq!(one, BTreeSet::from([name("a"), name("a-cacert")]));
    }

    #[test]
    fn a_namespace_that_names_many_takes_none_of_another() {
        let (own, many) = (of("shop", 0..10), of("attic", 0..1000));
        let all: BTreeSet<_> = own.union(&many).cloned().collect();
        let pairs = |names: &BTreeSet<CredentialName>| chosen(names, &BTreeSet::new());
        for followed in [BTreeSet::new(), pairs(&own), pairs(&many)] {
            let chosen = chosen(&all, &followed);
            assert!(chosen.is_superset(&pairs(&own)));
            assert_eq!(chosen.len(), MAX_WATCHES);
        }
    }

    #[test]
    fn those_that_are_followed_stay_while_their_namespace_has_its_share() {
        // In the order of names the new ones come first.
        let (held, new) = (of("shop", 500..564), of("shop", 0..500));
        let followed = chosen(&held, &BTreeSet::new());
        let all: BTreeSet<_> = held.union(&new).cloned().collect();
        assert_eq!(chosen(&all, &followed), followed);
        // Each of more namespaces than there are watches has one.
        let each = |n: usize| of(&format!("s{n:03}"), 0..1);
        let held: BTreeSet<_> = (200..264).flat_map(each).collect();
        let all: BTreeSet<_> = (0..300).flat_map(each).collect();
        let followed = chosen(&held, &BTreeSet::new());
        assert_eq!(chosen(&all, &followed), followed);
    }

    #[test]
    fn a_secret_is_followed_with_its_authorities_or_not_at_all() {
        let names: BTreeSet<_> = (0..41).flat_map(|n| of(&format!("s{n}"), 0..3)).collect();
        let chosen = chosen(&names, &BTreeSet::new());
        for name in &chosen {
            let is_pair = |first: &CredentialName| {
                let both: BTreeSet<_> = first.of_authorities().collect();
                both.contains(name) && chosen.is_superset(&both)
            };
            assert!(names.iter().any(is_pair), "{name}");
        }
    }
}
