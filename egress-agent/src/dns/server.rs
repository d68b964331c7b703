//! One name server. It is asked over UDP if only the server can answer, and otherwise over TCP.
//!
//! Owns that choice. [`super::question`] decides which datagram is an answer.

use super::transport::Transport;
use crate::sockets::SocketFactory;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RecordType};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// How long one server has for one question, including a repetition over TCP.
const TIMEOUT: Duration = Duration::from_secs(2);

type Client = hickory_resolver::Resolver<Transport>;

/// See the module.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    udp: Client,
    tcp: Client,
    /// Whether every question goes over TCP.
    only_tcp: Arc<AtomicBool>,
}

impl Server {
    /// A server that is asked from this network namespace, at most `concurrent` questions at a time.
    pub(super) fn new(
        address: SocketAddr,
        sockets: &Arc<SocketFactory>,
        netns: NetnsCookie,
        concurrent: usize,
    ) -> anyhow::Result<Self> {
        let only_tcp = Arc::new(AtomicBool::new(address.ip().is_loopback()));
        let client = |connection| {
            let transport =
                Transport::new(Arc::clone(sockets), netns, Arc::clone(&only_tcp), TIMEOUT);
            client(address, connection, transport, concurrent)
        };
        Ok(Self {
            address,
            udp: client(ConnectionConfig::udp())?,
            tcp: client(ConnectionConfig::tcp())?,
            only_tcp,
        })
    }

    /// The server's records of `kind` for `name`. hickory follows aliases.
    pub(super) async fn lookup(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        timeout(TIMEOUT, self.ask(name, kind))
            .await
            .unwrap_or(Err(NetError::Timeout))
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        if !self.only_tcp.load(Ordering::Relaxed) {
            // Other errors lead to TCP: the answer is truncated or doubtful, or the question was not
            // sent. hickory does not tell these apart.
            let outcome = self.udp.lookup(name.clone(), kind).await;
            if let Ok(_) | Err(NetError::Dns(_) | NetError::Timeout) = outcome {
                return outcome;
            }
        }
        self.tcp.lookup(name.clone(), kind).await
    }
}

fn client(
    server: SocketAddr,
    mut connection: ConnectionConfig,
    transport: Transport,
    concurrent: usize,
) -> anyhow::Result<Client> {
    connection.port = server.port();
    let config = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![config]);
    let mut builder = hickory_resolver::Resolver::builder_with_config(config, transport);
    let options = builder.options_mut();
    options.ndots = 0;
    options.timeout = TIMEOUT;
    options.attempts = 0;
    options.cache_size = 0;
    options.case_randomization = true;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = 2 * concurrent;
    Ok(builder.build()?)
}
