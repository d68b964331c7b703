//! The policies whose cgroups have another one: verdicts that sockets stored under them must be judged again.
//!
//! That needs a wait for running programs, since one that looked up the former owner must not store its verdict under the
//! generation that comes next. One wait at a time serves all cgroups that moved before it began, and the engine goes on
//! meanwhile: the cgroups' new connections are under their new policy already.

use crate::kernel::Grace;
use egress_ebpf::ids::PolicyId;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// See the module.
pub(super) struct Rejudge {
    grace: Arc<Grace>,
    /// Policies that cgroups left since the present wait began.
    next: BTreeSet<PolicyId>,
    wait: Option<Wait>,
}

/// A wait, and the policies that cgroups left before it.
struct Wait {
    policies: BTreeSet<PolicyId>,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Rejudge {
    /// None.
    pub(super) fn new(grace: Grace) -> Self {
        Self {
            grace: Arc::new(grace),
            next: BTreeSet::new(),
            wait: None,
        }
    }

    /// Cgroups left these policies: their owners are written.
    pub(super) fn left(&mut self, policies: impl IntoIterator<Item = PolicyId>) {
        self.next.extend(policies);
    }

    /// Whether nothing is left to be judged again but what [`Self::due`] or [`Self::all`] returned.
    pub(super) fn is_settled(&self) -> bool {
        self.next.is_empty() && self.wait.is_none()
    }

    /// Waits for the policies whose sockets can be judged again from here on. Dropping the future loses none.
    pub(super) async fn due(&mut self) -> anyhow::Result<BTreeSet<PolicyId>> {
        if self.wait.is_none() && !self.next.is_empty() {
            let grace = Arc::clone(&self.grace);
            self.wait = Some(Wait {
                policies: std::mem::take(&mut self.next),
                ended: tokio::task::spawn_blocking(move || grace.wait()),
            });
        }
        let Some(wait) = &mut self.wait else {
            return std::future::pending().await;
        };
        let ended = (&mut wait.ended).await;
        let policies = self.wait.take().map(|wait| wait.policies);
        ended??;
        Ok(policies.unwrap_or_default())
    }

    /// Waits here and now. Returns all of them.
    pub(super) fn all(&mut self) -> anyhow::Result<BTreeSet<PolicyId>> {
        let mut policies = std::mem::take(&mut self.next);
        policies.extend(self.wait.take().into_iter().flat_map(|wait| wait.policies));
        if !policies.is_empty() {
            self.grace.wait()?;
        }
        Ok(policies)
    }
}
