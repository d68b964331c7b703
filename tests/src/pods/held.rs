//! The resources that an agent holds for pods, so that a test can check that nothing is left of
//! removed pods.

use crate::lab::Lab;
use crate::{pinned, wait_until};
use anyhow::{Context as _, Result};
use std::fs;
use std::time::Duration;

/// A count of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Namespaces in which the proxy listens.
    pub proxies: usize,
    /// Cgroups under a policy of their own.
    pub owners: usize,
    /// Redirected flows before the end of their handshake.
    pub flows: usize,
    /// Links, all pins taken together.
    pub links: usize,
    /// Threads of the agent.
    pub threads: usize,
    /// Its open descriptors.
    pub descriptors: usize,
}

impl Held {
    /// The resources of the lab's running agent.
    pub fn now(lab: &mut Lab) -> Result<Self> {
        let process = format!("/proc/{}", lab.agent()?.pid());
        let count = |what: &str| -> Result<usize> {
            let path = format!("{process}/{what}");
            Ok(fs::read_dir(&path).context(path)?.count())
        };
        let bpf_dir = lab.bpf_dir();
        Ok(Self {
            proxies: pinned::proxies(bpf_dir)?,
            owners: pinned::owners(bpf_dir)?,
            flows: pinned::flows(bpf_dir)?,
            links: pinned::attached(bpf_dir)?.len(),
            threads: count("task")?,
            descriptors: count("fd")?,
        })
    }

    /// Whether both have equal parts in the kernel. Threads and descriptors also depend on what the agent does beside.
    fn equal_in_kernel(&self, other: &Self) -> bool {
        let in_kernel = |held: &Self| (held.proxies, held.owners, held.flows, held.links);
        in_kernel(self) == in_kernel(other)
    }

    /// Waits until no part of a pod is in the kernel, and returns the resources then. `self` is of a time without pods.
    ///
    /// The agent removes a pod's parts one after the other: none of them alone says that all are gone.
    pub fn wait_empty(&self, lab: &mut Lab, limit: Duration) -> Result<Self> {
        let mut last = None;
        let outcome = wait_until("no part of a pod is in the kernel", limit, || {
            let now = Self::now(lab).ok()?;
            let empty = self.equal_in_kernel(&now);
            last = Some(now.clone());
            empty.then_some(now)
        });
        outcome.with_context(|| format!("before: {self:?}, after: {last:?}"))
    }

    /// Waits until the agent holds no more than this after `pods` pods were removed.
    ///
    /// The number of threads need not be equal: the runtime keeps threads for blocking work that also runs without pods
    /// (reading files, the canary), and their number depends on how much of it ran at the same time. It is always less
    /// than half the number of pods.
    pub fn wait_back(&self, lab: &mut Lab, pods: usize, limit: Duration) -> Result<()> {
        assert!(pods >= 8, "so few pods tell nothing of threads");
        let mut last = None;
        let outcome = wait_until("nothing is left of the pods", limit, || {
            let now = Self::now(lab).ok()?;
            let fits = self.equal_in_kernel(&now)
                && now.descriptors <= self.descriptors
                && now.threads < self.threads + pods / 2;
            last = Some(now);
            fits.then_some(())
        });
        outcome.with_context(|| format!("before: {self:?}, after: {last:?}"))
    }
}
