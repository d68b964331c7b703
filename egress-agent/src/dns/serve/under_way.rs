//! Questions for which name servers are asked, and the queries that wait for each.

use super::cache::Asked;
use super::server::Server;
use super::waiting::{Others, Waiting};
use std::collections::HashMap;
use std::mem::{self, ManuallyDrop};
use std::sync::{MutexGuard, PoisonError};

/// A question for which a name server is asked. However that ends, further queries ask again.
pub(super) struct UnderWay<'a> {
    pub(super) server: &'a Server,
    pub(super) asked: &'a Asked,
}

impl UnderWay<'_> {
    fn all(&self) -> MutexGuard<'_, HashMap<Asked, Others>> {
        let all = self.server.under_way.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    /// The queries that wait for it. The name servers are asked on.
    pub(super) fn become_late(&self) -> Vec<Waiting> {
        let mut all = self.all();
        let Some(others) = all.get_mut(self.asked) else {
            return Vec::new();
        };
        others.late = true;
        mem::take(&mut others.waiting)
    }

    /// The queries that wait for it.
    pub(super) fn end(self) -> Vec<Waiting> {
        // Once removed, the entry may be that of the next query.
        let own = ManuallyDrop::new(self);
        let others = own.all().remove(own.asked);
        others.map_or_else(Vec::new, |others| others.waiting)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all().remove(self.asked);
    }
}
