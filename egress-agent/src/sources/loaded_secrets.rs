//! The Secrets and ConfigMaps of the rule files: which ones are in force.
//!
//! One is in force if one document has it, or several that are equal. One whose file cannot be read at the moment
//! stays. Nothing of them is kept on disk.

use super::files::Reading;
use super::judge::Judged;
use super::rule_set::Line;
use egress_core::istio::{CredentialName, Secrets};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LoadedSecrets {
    in_force: Secrets,
    /// The file of each.
    files: BTreeMap<CredentialName, Arc<Path>>,
    /// Those that documents give differently.
    twice: BTreeSet<CredentialName>,
}

impl LoadedSecrets {
    /// Takes the Secrets of these files.
    pub(super) fn load<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a Arc<Path>, &'a Judged)>,
        reading: &Reading,
    ) {
        let before = std::mem::take(self);
        let mut broken = BTreeSet::new();
        for (path, judged) in files {
            if !judged.errors.is_empty() {
                broken.insert(Arc::clone(path));
            }
            for secret in &judged.secrets {
                let name = &secret.name;
                match self.in_force.get(name) {
                    Some(other) if other != secret => {
                        self.twice.insert(name.clone());
                    }
                    Some(_) => {}
                    None => {
                        self.files.insert(name.clone(), Arc::clone(path));
                        self.in_force.insert(name.clone(), Arc::clone(secret));
                    }
                }
            }
        }
        for (name, secret) in before.in_force {
            let Some(path) = before.files.get(&name) else {
                continue;
            };
            let mut failed = reading.failed.iter();
            let unread = failed.any(|(failed, _)| path.starts_with(failed));
            if (unread || broken.contains(path)) && !self.in_force.contains_key(&name) {
                self.files.insert(name.clone(), Arc::clone(path));
                self.in_force.insert(name, secret);
            }
        }
        for name in &self.twice {
            self.in_force.remove(name);
        }
    }

    pub(super) fn in_force(&self) -> Secrets {
        self.in_force.clone()
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = Line> {
        self.twice.iter().map(|name| {
            format!("{name} is given more than once, each time differently: remove all but one; connections that need it are denied").into()
        })
    }
}
