//! Gives the DNS server of the workloads its parts of the kernel side, of the engine and of the proxy.

use crate::config::{Config, Intercept};
use crate::dns::{self, Asker, Learned, NameServers, Server};
use crate::engine::Engine;
use crate::kernel::{DnsClients, Kernel};
use crate::observe::flows::FlowLog;
use crate::proxy::{BoxFuture, DnsStreams, Origin};
use crate::workloads::Sharers;
use egress_ebpf::abi::{DNS_PORT, DnsClientKey};
use egress_ebpf::ids::NetnsCookie;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Looks up the owner of a datagram in the kernel and adds the workload that the agent knows.
struct DatagramOwners {
    kernel: DnsClients,
    sharers: Sharers,
}

impl dns::Owners for DatagramOwners {
    fn asker(&self, netns: NetnsCookie, peer: SocketAddr, local: u16, mark: u32) -> Option<Asker> {
        let key = DnsClientKey {
            netns,
            addr: peer.ip().into(),
            port: peer.port(),
            local,
            reserved: 0,
        };
        let client = self.kernel.get(&key, mark)?;
        let owners = self.kernel.owners(client.cgroup);
        // As for connections: the workload of such a query is not known.
        if owners.is_empty() && client.cgroup.0 != 0 {
            return None;
        }
        Some(Asker {
            share: self.sharers.of(&owners),
            cgroup: client.cgroup,
            owners,
            pid: client.pid,
            netns,
            server: SocketAddr::new(client.server.into(), DNS_PORT),
            peer,
            tcp: false,
        })
    }
}

/// Passes connections of the proxy's listeners to the DNS server.
pub(super) struct DnsConnections(pub Arc<Server>);

impl DnsStreams for DnsConnections {
    fn serve(&self, origin: Arc<Origin>, peer: SocketAddr, stream: TcpStream) -> BoxFuture<'_, ()> {
        let asker = Asker {
            cgroup: origin.cgroup,
            owners: origin.owners.clone(),
            share: origin.sharer,
            pid: origin.pid,
            netns: origin.netns,
            server: origin.destination,
            peer,
            tcp: true,
        };
        Box::pin(dns::stream(Arc::clone(&self.0), stream, asker))
    }
}

/// Leases that wait for the engine.
pub(super) const LEASES: usize = 1024;

/// The DNS server of the workloads, if the config wants one. It sends its leases to `learned`.
pub(super) fn dns_server(
    config: &Config,
    kernel: &Kernel,
    engine: &Engine,
    servers: &NameServers,
    flows: &Arc<FlowLog>,
    learned: mpsc::Sender<Learned>,
) -> anyhow::Result<Option<Arc<Server>>> {
    if config.dns.intercept == Intercept::Off {
        return Ok(None);
    }
    let published = engine.published();
    let made = Server::new(dns::Parts {
        servers: servers.clone(),
        sockets: Arc::clone(servers.sockets()),
        directory: published.directory,
        accepted: published.answers,
        in_force: published.in_force,
        owners: Arc::new(DatagramOwners {
            kernel: DnsClients::open(&kernel.pins)?,
            sharers: engine.sharers(),
        }),
        queries: Arc::clone(flows) as Arc<dyn dns::Queries>,
        learned,
    });
    Ok(Some(made))
}
