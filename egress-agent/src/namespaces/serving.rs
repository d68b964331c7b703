//! The agent's services in one network namespace: the proxy's pair of listeners on loopback, and the sockets of the DNS
//! server.
//!
//! To add another service, add its listener in `serve`. `spaces` knows the namespaces.

use crate::dns::{self, Server};
use crate::failure::Failure;
use crate::kernel::Tables;
use crate::proxy::{self, DrainSignal, Shared};
use crate::sockets::{LoopbackListeners, SocketFactory};
use anyhow::Context as _;
use egress_ebpf::abi::ProxyPort;
use egress_ebpf::ids::NetnsCookie;
use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
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
    /// The DNS server; `None` if queries are not redirected.
    pub dns: Option<Arc<Server>>,
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
    /// The ports in this namespace.
    pub ports: ProxyPort,
    listeners: Vec<Arc<TcpListener>>,
    datagrams: Vec<Arc<UdpSocket>>,
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
        let listeners = self.listeners.iter().map(|listener| listener.as_fd());
        listeners.chain(self.datagrams.iter().map(|socket| socket.as_fd()))
    }

    /// Waits until the drain has stopped the tasks that accept, and closes the listeners. Connections
    /// that wait in a queue are served by another process that has the listener; without one they are
    /// reset.
    pub async fn close(&mut self) {
        self.accepting.recv().await;
        self.listeners.clear();
        self.datagrams.clear();
    }

    /// Waits until the drain has ended all connections.
    pub async fn drained(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Services {
    /// The proxy on this port, and the DNS server if there is one.
    pub fn new(
        port: u16,
        (shared, dns): (Arc<Shared>, Option<Arc<Server>>),
        drain: DrainSignal,
        accepts: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared,
            dns,
            drain,
            port,
            accepts,
        }
    }

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
            return self.serve(sockets, tables, own, listeners).await;
        }
        let end = Instant::now() + PORT_PATIENCE;
        loop {
            match sockets.listen_loopback(own, port).await {
                Ok(listeners) => return self.serve(sockets, tables, own, listeners).await,
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
            return self.serve(sockets, tables, netns, listeners).await;
        }
        let listeners = match sockets.listen_loopback(netns, self.port).await {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                sockets.listen_loopback(netns, 0).await
            }
            listeners => listeners,
        };
        let listeners = listeners.context("listening in it")?;
        self.serve(sockets, tables, netns, listeners).await
    }

    /// Admits the listeners in the kernel, which redirects to admitted ones only, and starts the tasks
    /// that accept.
    async fn serve(
        &self,
        sockets: &SocketFactory,
        tables: &mut Tables,
        netns: NetnsCookie,
        listeners: LoopbackListeners,
    ) -> anyhow::Result<Serving> {
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
        let mut ports = ProxyPort {
            port,
            ..ProxyPort::default()
        };
        let mut datagrams = Vec::new();
        if let Some(server) = &self.dns {
            // Clients that are connected to the ports of a previous agent go on.
            let before = tables.ports(netns).unwrap_or_default().dns;
            let made = sockets.dns_sockets(netns, before).await;
            let made = made.context("making the sockets of the DNS server")?;
            ports.dns = made.ports;
            for socket in made.sockets {
                tables
                    .admit(&socket)
                    .context("admitting a socket of the DNS server")?;
                let socket = Arc::new(socket);
                datagrams.push(Arc::clone(&socket));
                let (server, mut drain) = (Arc::clone(server), self.drain.clone());
                let (open, mut accepts) = (open.clone(), self.accepts.clone());
                tasks.spawn(async move {
                    if accepts.wait_for(|accepts| *accepts).await.is_ok() {
                        let stop = async move {
                            drain.started().await;
                            drop(open);
                        };
                        dns::datagrams(socket, netns, server, stop).await;
                    }
                });
            }
        }
        Ok(Serving {
            ports,
            listeners,
            datagrams,
            accepting,
            tasks,
        })
    }
}
