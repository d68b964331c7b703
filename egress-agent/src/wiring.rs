//! Adapters between rooms that must not know each other: the kernel's origins and the one socket
//! factory as the proxy wants them.

use crate::kernel::Origins;
use crate::proxy::{BoxFuture, Dialer, Origin, OriginLookup};
use crate::sockets::{NetnsId, SocketFactory};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tokio::net::TcpStream;

impl OriginLookup for Origins {
    fn origin(&self, accepted: BorrowedFd<'_>) -> Option<Origin> {
        let flow = self.get(accepted)?;
        Some(Origin {
            destination: SocketAddr::new(IpAddr::from(flow.addr), flow.port),
            policy: flow.policy,
            cgroup: flow.cgroup,
            owners: Vec::new(),
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
const UPSTREAM_CONNECT: std::time::Duration = std::time::Duration::from_secs(30);
