//! Questions of workloads for which a name server is asked at this moment.

use super::cache::Asked;
use super::server::Server;
use super::waiting::Waiting;
use crate::lock::lock;
use std::mem::ManuallyDrop;

/// A question for which a name server is asked. However that ends, further queries ask again.
pub(super) struct UnderWay<'a> {
    pub(super) server: &'a Server,
    pub(super) asked: &'a Asked,
}

impl UnderWay<'_> {
    /// The queries that wait for it.
    pub(super) fn end(self) -> Vec<Waiting> {
        // Once removed, the entry may be that of the next query.
        let own = ManuallyDrop::new(self);
        let waiting = lock(&own.server.under_way).remove(own.asked);
        waiting.unwrap_or_default()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.server.under_way).remove(self.asked);
    }
}
