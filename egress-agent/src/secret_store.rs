//! The Secrets and ConfigMaps that rules may name, as their sources have them at the moment.
//!
//! Each source publishes all of them at each change; connections look them up when they are made. It parses
//! nothing.

use arc_swap::ArcSwap;
use egress_core::istio::{CredentialName, Secret, Secrets};
use std::sync::{Arc, Mutex, PoisonError};

/// Where they come from. Of two of the same name the one of the earlier source counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Rule files.
    Files,
    /// The Kubernetes API.
    Api,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SecretStore {
    current: ArcSwap<Secrets>,
    /// Those of each source.
    sources: Mutex<[Secrets; 2]>,
}

impl SecretStore {
    /// Replaces all of a source. One that did not change stays the same in memory.
    pub fn publish(&self, source: Source, secrets: Secrets) {
        let sources = self.sources.lock();
        let mut sources = sources.unwrap_or_else(PoisonError::into_inner);
        match source {
            Source::Files => sources[0] = secrets,
            Source::Api => sources[1] = secrets,
        }
        let [files, api] = &*sources;
        let mut merged = api.clone();
        merged.extend(
            files
                .iter()
                .map(|(name, secret)| (name.clone(), Arc::clone(secret))),
        );
        let before = self.current.load();
        for (name, secret) in &mut merged {
            if let Some(same) = before.get(name).filter(|old| *old == secret) {
                *secret = Arc::clone(same);
            }
        }
        self.current.store(Arc::new(merged));
    }

    /// A Secret or ConfigMap.
    pub fn get(&self, name: &CredentialName) -> Option<Arc<Secret>> {
        self.current.load().get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_core::istio::decode;

    fn secrets(value: &str) -> Secrets {
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: a, namespace: shop}}\nstringData: {{ca.crt: {value}}}\n"
        );
        let (_, secret) = decode("f", &text).secrets.pop().unwrap();
        Secrets::from([(secret.name.clone(), Arc::new(secret))])
    }

    #[test]
    fn a_secret_of_a_file_outweighs_that_of_the_api_and_one_that_stays_is_the_same_in_memory() {
        let store = SecretStore::default();
        let name = secrets("x").into_keys().next().unwrap();
        let value = |store: &SecretStore| {
            let secret = store.get(&name)?;
            let value = secret.authorities().unwrap().0.to_vec();
            Some(String::from_utf8(value).unwrap())
        };
        assert_eq!(value(&store), None);
        store.publish(Source::Api, secrets("api"));
        assert_eq!(value(&store).as_deref(), Some("api"));
        let first = store.get(&name).unwrap();
        store.publish(Source::Api, secrets("api"));
        assert!(Arc::ptr_eq(&first, &store.get(&name).unwrap()));
        store.publish(Source::Files, secrets("file"));
        store.publish(Source::Api, secrets("other"));
        assert_eq!(value(&store).as_deref(), Some("file"));
        store.publish(Source::Files, Secrets::new());
        assert_eq!(value(&store).as_deref(), Some("other"));
    }
}
