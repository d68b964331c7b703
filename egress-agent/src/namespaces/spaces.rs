//! The proxy in other network namespaces: one pair of listeners in each that a workload's process
//! is in, however many workloads share it, and nothing left of it when the last one has gone.
//!
//! The kernel is told of the listeners after they listen and before they close, so a redirected
//! connect meets either a listener or a refusal.

use super::processes::{self, NsInode};
use crate::kernel::Tables;
use crate::proxy::{self, DrainSignal, Shared};
use crate::sockets::{LoopbackListeners, NetnsId, SocketFactory};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Makes and ends the proxy's part in a namespace.
pub struct Spaces {
    sockets: Arc<SocketFactory>,
    shared: Arc<Shared>,
    drain: DrainSignal,
    /// The port to listen on where it is free.
    port: u16,
    open: BTreeMap<NsInode, Space>,
}

/// A namespace with listeners.
struct Space {
    netns: NetnsId,
    port: u16,
    /// Ends the listeners and every connection that came by them.
    serving: JoinSet<()>,
}

impl Spaces {
    /// None open. `port` is the one to listen on; a namespace where it is taken gets another.
    pub fn new(
        sockets: Arc<SocketFactory>,
        shared: Arc<Shared>,
        drain: DrainSignal,
        port: u16,
    ) -> Self {
        Self {
            sockets,
            shared,
            drain,
            port,
            open: BTreeMap::new(),
        }
    }

    /// Whether the proxy listens in this namespace.
    pub fn is_open(&self, namespace: NsInode) -> bool {
        self.open.contains_key(&namespace)
    }

    /// Namespace cookies and ports of all that are open.
    pub fn ports(&self) -> impl Iterator<Item = (NetnsId, u16)> {
        self.open.values().map(|space| (space.netns, space.port))
    }

    /// Listens in the namespace of a process, and tells the kernel. Does nothing where that is
    /// done already.
    pub async fn open(
        &mut self,
        tables: &mut Tables,
        namespace: NsInode,
        pid: u32,
    ) -> anyhow::Result<()> {
        if self.is_open(namespace) {
            return Ok(());
        }
        let held = processes::hold(pid, namespace)
            .with_context(|| format!("holding the network namespace of process {pid}"))?;
        let netns = self.sockets.admit(held).await.context("entering it")?;
        let opened = self.listen(tables, netns).await;
        match opened {
            Ok(space) => {
                tracing::debug!(netns = netns.0, pid, port = space.port, "proxy listens");
                self.open.insert(namespace, space);
                Ok(())
            }
            Err(error) => {
                self.sockets.forget(netns);
                Err(error)
            }
        }
    }

    async fn listen(&self, tables: &mut Tables, netns: NetnsId) -> anyhow::Result<Space> {
        let LoopbackListeners { v4, v6, port } =
            match self.sockets.listen_loopback(netns, self.port).await {
                // The workload's own service may have the port.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    self.sockets.listen_loopback(netns, 0).await
                }
                listening => listening,
            }
            .context("listening in it")?;
        let mut serving = JoinSet::new();
        for listener in [Some(v4), v6].into_iter().flatten() {
            tables.admit(&listener).context("admitting a listener")?;
            let shared = Arc::clone(&self.shared);
            serving.spawn(proxy::serve(listener, shared, self.drain.clone()));
        }
        tables.set_proxy(netns.0, Some(port))?;
        Ok(Space {
            netns,
            port,
            serving,
        })
    }

    /// Closes every namespace but those that `keep` names.
    pub fn close_but(
        &mut self,
        tables: &mut Tables,
        keep: impl Fn(NsInode) -> bool,
    ) -> anyhow::Result<()> {
        let gone: Vec<NsInode> = self.open.keys().copied().filter(|ns| !keep(*ns)).collect();
        for namespace in gone {
            if let Some(space) = self.open.remove(&namespace) {
                tables.set_proxy(space.netns.0, None)?;
                self.sockets.forget(space.netns);
                tracing::debug!(netns = space.netns.0, "proxy left");
            }
        }
        Ok(())
    }

    /// Tells the kernel that no proxy listens anywhere any more: what is still to come is refused
    /// with a reason instead of running into a closed port.
    pub fn withdraw(&self, tables: &mut Tables) -> anyhow::Result<()> {
        self.ports()
            .try_for_each(|(netns, _)| tables.set_proxy(netns.0, None))
    }

    /// Waits until all connections have ended, which the drain makes sure of.
    pub async fn drained(&mut self) {
        for space in self.open.values_mut() {
            while space.serving.join_next().await.is_some() {}
        }
    }
}
