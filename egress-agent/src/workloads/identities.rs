//! The identity of a cgroup's workload, as the log, `status` and `--workload` spell it:
//! `NAMESPACE/SERVICE-ACCOUNT`. Owns the spelling, and which cgroups have an identity. The entries of
//! `workloads` define them.

use egress_core::registry::scope::Workload;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// The spelling of an identity.
pub fn spelling(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.service_account)
}

/// Identities by the cgroup's path in the hierarchy. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Identities(Arc<RwLock<BTreeMap<String, Arc<str>>>>);

impl Identities {
    /// Sets the workload of a cgroup, or removes it.
    pub(super) fn set(&self, cgroup: &str, workload: Option<&Workload>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match workload {
            Some(workload) => {
                known.insert(cgroup.to_owned(), spelling(workload).into());
            }
            None => drop(known.remove(cgroup)),
        }
    }

    /// The workload that a cgroup belongs to: its own, or that of the nearest cgroup above that has one.
    pub fn of(&self, cgroup: &str) -> Option<Arc<str>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut upwards = Path::new(cgroup).ancestors();
        upwards.find_map(|path| known.get(path.to_str()?).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_named_cgroup_at_or_above_says_who_it_is() {
        let identities = Identities::default();
        let workload = |namespace: &str| Workload {
            namespace: namespace.into(),
            service_account: "web".into(),
            ..Workload::default()
        };
        identities.set("/pods/a", Some(&workload("shop")));
        identities.set("/pods/a/b", Some(&workload("blog")));
        let of = |cgroup| identities.of(cgroup).map(|who| who.to_string());
        assert_eq!(of("/pods/a"), Some("shop/web".into()));
        assert_eq!(of("/pods/a/c/d"), Some("shop/web".into()));
        assert_eq!(of("/pods/a/b/c"), Some("blog/web".into()));
        assert_eq!(of("/pods/ab"), None);
        assert_eq!((of("/"), of(""), of("id:7")), (None, None, None));
        identities.set("/pods/a/b", None);
        assert_eq!(of("/pods/a/b/c"), Some("shop/web".into()));
    }
}
