//! The network namespaces in which the agent serves: its own, and each that has a process of a workload.
//! Workloads that share a namespace share its listeners. The agent closes them when the last workload
//! has left.
//!
//! The agent adds a namespace's proxy port to the kernel's table once the proxy listens, and removes it
//! before the proxy closes. So a connect is either redirected to a listener or denied. `serving` has the
//! services.

use super::processes;
use super::serving::{Services, Serving};
use crate::kernel::Tables;
use crate::operate::manager;
use crate::sockets::SocketFactory;
use anyhow::Context as _;
use egress_ebpf::ids::{NetnsCookie, NetnsInode};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// See the module.
pub struct Spaces {
    sockets: Arc<SocketFactory>,
    services: Services,
    own: Space,
    /// The namespaces of workloads.
    open: BTreeMap<NetnsInode, Space>,
}

/// A namespace with listeners.
struct Space {
    netns: NetnsCookie,
    serving: Serving,
}

impl Spaces {
    /// Serves in the agent's own namespace, and in no other yet.
    pub async fn open_own(
        sockets: Arc<SocketFactory>,
        services: Services,
        tables: &mut Tables,
    ) -> anyhow::Result<Self> {
        let netns = sockets.own_netns();
        let serving = services.start_own(&sockets, tables).await?;
        tables.set_proxy(netns, Some(serving.ports))?;
        manager::keep(netns, &serving.listeners().collect::<Vec<_>>());
        Ok(Self {
            sockets,
            services,
            own: Space { netns, serving },
            open: BTreeMap::new(),
        })
    }

    /// Whether the agent serves in this namespace of a workload.
    pub fn is_open(&self, namespace: NetnsInode) -> bool {
        self.open.contains_key(&namespace)
    }

    /// How many namespaces the agent serves in, its own included.
    pub fn count(&self) -> usize {
        1 + self.open.len()
    }

    fn all(&self) -> impl Iterator<Item = &Space> {
        std::iter::once(&self.own).chain(self.open.values())
    }

    /// Serves in the namespace of a process and adds its port to the kernel's table. Does nothing if the
    /// agent serves there already.
    pub async fn open(
        &mut self,
        tables: &mut Tables,
        namespace: NetnsInode,
        pid: u32,
    ) -> anyhow::Result<()> {
        if self.is_open(namespace) {
            return Ok(());
        }
        let held = processes::hold(pid, namespace)
            .with_context(|| format!("holding the network namespace of process {pid}"))?;
        let netns = self.sockets.admit(held).await.context("entering it")?;
        match self.start(tables, netns).await {
            Ok(serving) => {
                tracing::debug!(
                    netns = netns.0,
                    pid,
                    port = serving.ports.port,
                    "proxy listens"
                );
                self.open.insert(namespace, Space { netns, serving });
                Ok(())
            }
            Err(error) => {
                self.sockets.forget(netns);
                Err(error)
            }
        }
    }

    async fn start(&self, tables: &mut Tables, netns: NetnsCookie) -> anyhow::Result<Serving> {
        let serving = self.services.start(&self.sockets, tables, netns).await?;
        tables.set_proxy(netns, Some(serving.ports))?;
        manager::keep(netns, &serving.listeners().collect::<Vec<_>>());
        Ok(serving)
    }

    /// Stops serving in the namespaces of workloads for which `keep` is false.
    pub fn close_but(
        &mut self,
        tables: &mut Tables,
        keep: impl Fn(NetnsInode) -> bool,
    ) -> anyhow::Result<()> {
        let gone: Vec<NetnsInode> = self.open.keys().copied().filter(|ns| !keep(*ns)).collect();
        for namespace in gone {
            if let Some(space) = self.open.remove(&namespace) {
                tables.set_proxy(space.netns, None)?;
                self.sockets.forget(space.netns);
                manager::forget(space.netns);
                tracing::debug!(netns = space.netns.0, "proxy left");
            }
        }
        Ok(())
    }

    /// Removes the ports of namespaces that only a previous agent served.
    pub fn remove_stale(&self, tables: &mut Tables) -> anyhow::Result<()> {
        let open: BTreeSet<NetnsCookie> = self.all().map(|space| space.netns).collect();
        let mut stale = tables.proxies()?;
        stale.retain(|netns| !open.contains(netns));
        stale
            .into_iter()
            .try_for_each(|netns| tables.set_proxy(netns, None))
    }

    /// Removes all proxy ports from the kernel's table. New flows that need the proxy are denied with a
    /// reason instead of failing on a closed port. Running flows continue until drained.
    pub fn withdraw(&self, tables: &mut Tables) -> anyhow::Result<()> {
        self.all()
            .try_for_each(|space| tables.set_proxy(space.netns, None))
    }

    /// The listening sockets of every namespace.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.all()
            .flat_map(|space| space.serving.listeners())
            .collect()
    }

    /// Waits until the drain has stopped the listeners, and closes them.
    pub async fn close(&mut self) {
        self.own.serving.close().await;
        for space in self.open.values_mut() {
            space.serving.close().await;
        }
    }

    /// Waits until the drain has ended all connections.
    pub async fn drained(&mut self) {
        self.own.serving.drained().await;
        for space in self.open.values_mut() {
            space.serving.drained().await;
        }
    }
}
