//! Adapters between rooms that must not know each other: what the proxy is given of the kernel, the
//! engine and the socket factory.

use crate::config::{Config, OnRemoval};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::kernel::Origins;
use crate::observe::flows::FlowLog;
use crate::privilege;
use crate::proxy::{BoxFuture, Dialer, Origin, OriginLookup, Shared};
use crate::sockets::{NetnsId, SocketFactory};
use crate::workloads::Sharers;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The kernel's origins, with what the agent knows of the workloads.
struct FlowOrigins {
    kernel: Origins,
    sharers: Sharers,
}

impl OriginLookup for FlowOrigins {
    fn origin(&self, accepted: BorrowedFd<'_>) -> Option<Origin> {
        let flow = self.kernel.get(accepted)?;
        let owners = self.kernel.owners(&flow);
        Some(Origin {
            destination: SocketAddr::new(IpAddr::from(flow.addr), flow.port),
            policy: flow.policy,
            cgroup: flow.cgroup,
            sharer: self.sharers.of(&owners),
            owners,
            pid: flow.pid,
            comm: crate::observe::deny::comm(&flow.comm),
            netns: flow.netns,
        })
    }
}

/// The socket factory as a dialer.
pub struct FactoryDialer(pub Arc<SocketFactory>);

impl Dialer for FactoryDialer {
    fn connect(&self, netns: u64, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(self.0.connect(NetnsId(netns), to, UPSTREAM_CONNECT))
    }
}

/// Upper bound of one connect; the proxy's own limit ends it earlier.
const UPSTREAM_CONNECT: Duration = Duration::from_secs(30);

/// How long the proxy's port may be taken by an agent that is leaving.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries.
const PORT_AGAIN: Duration = Duration::from_millis(20);

/// What the proxy's connections share.
pub fn shared(
    config: &Config,
    engine: &Engine,
    origins: Origins,
    sockets: &Arc<SocketFactory>,
    flows: &Arc<FlowLog>,
    proof: &Arc<str>,
) -> Arc<Shared> {
    let origins = Arc::new(FlowOrigins {
        kernel: origins,
        sharers: engine.sharers(),
    });
    let dialer = Arc::new(FactoryDialer(Arc::clone(sockets)));
    let limits = privilege::proxy_limits();
    let (routes, observer) = (engine.routes(), Arc::clone(flows));
    let shared =
        Shared::new(routes, origins, dialer, observer, limits).proven_by(Arc::clone(proof));
    Arc::new(match config.on_removal {
        OnRemoval::Close => shared.ending_removed(engine.changes()),
        OnRemoval::Keep => shared,
    })
}

/// The proxy's listeners in the agent's own network namespace.
pub async fn listen(config: &Config, sockets: &SocketFactory) -> anyhow::Result<Vec<TcpListener>> {
    let (own, port) = (sockets.own_netns(), config.proxy_port);
    let end = Instant::now() + PORT_PATIENCE;
    loop {
        match sockets.listen_loopback(own, port).await {
            Ok(pair) => return Ok([Some(pair.v4), pair.v6].into_iter().flatten().collect()),
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
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

/// Words that no other process knows: what the proxy answers the agent's own canaries.
pub fn proof() -> io::Result<String> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(
        "egress-agent {:032x}\n",
        u128::from_ne_bytes(random)
    ))
}
