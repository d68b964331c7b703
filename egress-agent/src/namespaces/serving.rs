//! The agent's services in one network namespace: the proxy's pair of listeners on loopback.
//!
//! To add another service, add its listener in `serve`. `spaces` knows the namespaces.

use crate::failure::Failure;
use crate::kernel::Tables;
use crate::proxy::{self, DrainSignal, Shared};
use crate::sockets::{LoopbackListeners, SocketFactory};
use anyhow::Context as _;
use egress_ebpf::ids::NetnsCookie;
use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long to wait for a stopping agent to free the proxy's port.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries.
const PORT_AGAIN: Duration = Duration::from_millis(20);

/// The services, the same in every namespace.
pub struct Services {
    /// The state that the proxy's connections share.
    pub shared: Arc<Shared>,
    /// Tells listeners and connections when to end.
    pub drain: DrainSignal,
    /// The port that the proxy listens on. In a workload's namespace where it is taken, the proxy
    /// listens on another one.
    pub port: u16,
    /// True once connections may be accepted. Until then they wait in the listeners' queues.
    pub accepts: watch::Receiver<bool>,
}

/// The services of one namespace. Dropping this closes the listeners and every connection that they
/// accepted.
pub struct Serving {
    /// The proxy's port in this namespace.
    pub port: u16,
    listeners: Vec<Arc<TcpListener>>,
    /// Closed when the last task that accepts connections has ended.
    accepting: mpsc::Receiver<Infallible>,
    tasks: JoinSet<()>,
}

/// A listener of a task that accepts connections.
struct Accepting {
    listener: Arc<TcpListener>,
    _accepting: mpsc::Sender<Infallible>,
}

impl Deref for Accepting {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.listener
    }
}

impl Serving {
    /// The listening sockets, until [`Self::close`].
    pub fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.as_fd())
    }

    /// Waits until the drain has stopped the tasks that accept, and closes the listeners. Connections
    /// that wait in a queue are served by another process that has the listener; without one they are
    /// reset.
    pub async fn close(&mut self) {
        self.accepting.recv().await;
        self.listeners.clear();
    }

    /// Waits until the drain has ended all connections.
    pub async fn drained(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Services {
    /// Starts the services in the agent's own namespace, on the configured port. Uses the listeners that
    /// a previous agent handed over; without them, waits for a stopping agent to free the port.
    ///
    /// # Errors
    /// The port is still taken: exit code [`crate::failure::USAGE`].
    pub async fn start_own(
        &self,
        sockets: &SocketFactory,
        tables: &mut Tables,
    ) -> anyhow::Result<Serving> {
        let (own, port) = (sockets.own_netns(), self.port);
        if let Some(listeners) = sockets.take_inherited(own, |taken| taken == port)? {
            return self.serve(tables, listeners);
        }
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

    /// Starts the services in a workload's namespace: on the configured port, or on another one if a
    /// service of the workload has it.
    pub async fn start(
        &self,
        sockets: &SocketFactory,
        tables: &mut Tables,
        netns: NetnsCookie,
    ) -> anyhow::Result<Serving> {
        if let Some(listeners) = sockets.take_inherited(netns, |_| true)? {
            return self.serve(tables, listeners);
        }
        let listeners = match sockets.listen_loopback(netns, self.port).await {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                sockets.listen_loopback(netns, 0).await
            }
            listeners => listeners,
        };
        self.serve(tables, listeners.context("listening in it")?)
    }

    /// Admits the listeners in the kernel, which redirects to admitted ones only, and starts the tasks
    /// that accept.
    fn serve(&self, tables: &mut Tables, listeners: LoopbackListeners) -> anyhow::Result<Serving> {
        let LoopbackListeners { v4, v6, port } = listeners;
        let mut tasks = JoinSet::new();
        let (open, accepting) = mpsc::channel(1);
        let mut listeners = Vec::new();
        for listener in [Some(v4), v6].into_iter().flatten() {
            tables
                .admit(&listener)
                .context("admitting a listener of the proxy")?;
            let listener = Arc::new(listener);
            listeners.push(Arc::clone(&listener));
            let listener = Accepting {
                listener,
                _accepting: open.clone(),
            };
            let (shared, drain) = (Arc::clone(&self.shared), self.drain.clone());
            let mut accepts = self.accepts.clone();
            tasks.spawn(async move {
                if accepts.wait_for(|accepts| *accepts).await.is_ok() {
                    proxy::serve(listener, shared, drain).await;
                }
            });
        }
        Ok(Serving {
            port,
            listeners,
            accepting,
            tasks,
        })
    }
}
