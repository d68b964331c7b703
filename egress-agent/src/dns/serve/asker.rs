//! Who asks: the owner of a query's socket, and the server that it was sent to.

use egress_ebpf::ids::{CgroupId, NetnsCookie};
use std::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The cgroup of the socket's owner.
    pub cgroup: CgroupId,
    /// That cgroup and those above it below the enforced root, deepest first; empty if the kernel does not know them.
    pub owners: Vec<CgroupId>,
    /// The cgroup among them whose share of the server the query takes.
    pub share: CgroupId,
    /// The process.
    pub pid: u32,
    /// The network namespace of the client.
    pub netns: NetnsCookie,
    /// The server that the client asked.
    pub server: SocketAddr,
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether the query came over TCP.
    pub tcp: bool,
}

/// Finds who sent a redirected datagram.
pub trait Owners: Send + Sync {
    /// The sender of a datagram with this mark that came from `peer` to the port `local`, in the namespace of the socket.
    /// `None` if the gate did not redirect it.
    fn asker(&self, netns: NetnsCookie, peer: SocketAddr, local: u16, mark: u32) -> Option<Asker>;
}
