//! The agent's services in one network namespace: the proxy's pair of listeners on loopback.
//!
//! A further service adds its listener to [`Services::start`] only. `spaces` knows the namespaces.

use crate::failure::Failure;
use crate::kernel::Tables;
use crate::proxy::{self, DrainSignal, Shared};
use crate::sockets::{LoopbackListeners, SocketFactory};
use anyhow::Context as _;
use egress_ebpf::ids::NetnsCookie;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long the proxy's port may be taken by an agent that is leaving.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries.
const PORT_AGAIN: Duration = Duration::from_millis(20);

/// What is served, the same in every namespace.
pub struct Services {
    /// What the proxy's connections share.
    pub shared: Arc<Shared>,
    /// Tells listeners and connections when to end.
    pub drain: DrainSignal,
    /// The port that the proxy listens on; a workload's namespace where it is taken gets another.
    pub port: u16,
}

/// The services of one namespace. Dropping it ends the listeners and every connection that came by
/// them.
pub struct Serving {
    /// The proxy's port in this namespace.
    pub port: u16,
    tasks: JoinSet<()>,
}

impl Serving {
    /// Waits until all connections have ended, which the drain makes sure of.
    pub async fn drained(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Services {
    /// Starts them in the agent's own namespace, where the port is the configured one. Waits for a
    /// leaving agent to free it.
    ///
    /// # Errors
    /// The port is taken: exit code [`crate::failure::USAGE`].
    pub async fn start_own(
        &self,
        sockets: &SocketFactory,
        tables: &mut Tables,
    ) -> anyhow::Result<Serving> {
        let (own, port) = (sockets.own_netns(), self.port);
        let end = Instant::now() + PORT_PATIENCE;
        loop {
            match sockets.listen_loopback(own, port).await {
                Ok(listeners) => return self.serve(tables, listeners),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    tokio::time::sleep(PORT_AGAIN).await;
                }
                Err(e) => {
                    let why = format_args!(
                        "proxy port {port}: {e}; the gate stays closed; stop what listens there, or choose another with --proxy-port"
                    );
                    return Err(Failure::usage(why).into());
                }
            }
        }
    }

    /// Starts them in a workload's namespace, on another port where its own service has the
    /// configured one.
    pub async fn start(
        &self,
        sockets: &SocketFactory,
        tables: &mut Tables,
        netns: NetnsCookie,
    ) -> anyhow::Result<Serving> {
        let listeners = match sockets.listen_loopback(netns, self.port).await {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                sockets.listen_loopback(netns, 0).await
            }
            listeners => listeners,
        };
        self.serve(tables, listeners.context("listening in it")?)
    }

    /// The kernel redirects to listeners that it admitted only.
    fn serve(&self, tables: &mut Tables, listeners: LoopbackListeners) -> anyhow::Result<Serving> {
        let LoopbackListeners { v4, v6, port } = listeners;
        let mut tasks = JoinSet::new();
        for listener in [Some(v4), v6].into_iter().flatten() {
            tables
                .admit(&listener)
                .context("admitting a listener of the proxy")?;
            let shared = Arc::clone(&self.shared);
            tasks.spawn(proxy::serve(listener, shared, self.drain.clone()));
        }
        Ok(Serving { port, tasks })
    }
}
