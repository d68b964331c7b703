//! The Secrets that rules may name, as their sources have them at the moment.
//!
//! A source publishes all of its Secrets at each change; connections look them up when they are made. It parses nothing.

use arc_swap::ArcSwap;
use egress_core::istio::{Secret, SecretName, Secrets};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct SecretStore(ArcSwap<Secrets>);

impl SecretStore {
    /// Replaces all Secrets. One that did not change stays the same in memory.
    pub fn publish(&self, mut secrets: Secrets) {
        let before = self.0.load();
        for (name, secret) in &mut secrets {
            if let Some(same) = before.get(name).filter(|old| *old == secret) {
                *secret = Arc::clone(same);
            }
        }
        self.0.store(Arc::new(secrets));
    }

    /// A Secret.
    pub fn get(&self, name: &SecretName) -> Option<Arc<Secret>> {
        self.0.load().get(name).cloned()
    }
}
