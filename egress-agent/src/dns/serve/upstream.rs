//! Asks for the answer to a workload's query: the agent's configured servers, or the one that the client asked, from the
//! client's network namespace.
//!
//! The questions have everything that protects the agent's own ([`Server`]), and no byte of the client's message.

use crate::dns::in_turn::ask_in_turn;
use crate::dns::name_servers::NameServers;
use crate::dns::server::Server;
use crate::sockets::SocketFactory;
use egress_core::dns::query::Question;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::proto::op::Message;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Servers of clients that are remembered. A further one takes the place of the one that was asked the longest ago.
const REMEMBERED: usize = 256;

/// Which servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The agent's own.
    Configured,
    /// This one, from this network namespace.
    Server(NetnsCookie, SocketAddr),
}

/// A client's server, and when it was asked last.
type Other = (Arc<Server>, Instant);

/// See the module.
pub(super) struct Upstreams {
    sockets: Arc<SocketFactory>,
    configured: Vec<Arc<Server>>,
    others: Mutex<HashMap<(NetnsCookie, SocketAddr), Other>>,
}

impl Upstreams {
    pub(super) fn new(servers: &NameServers, sockets: &Arc<SocketFactory>) -> Self {
        Self {
            sockets: Arc::clone(sockets),
            configured: servers.make(),
            others: Mutex::default(),
        }
    }

    /// Whether one of the agent's own servers has this address.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let mut own = self.configured.iter();
        own.any(|server| server.address.ip().to_canonical() == ip)
    }

    /// The server of a client.
    fn other(&self, netns: NetnsCookie, at: SocketAddr) -> Arc<Server> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((server, asked)) = others.get_mut(&(netns, at)) {
            *asked = now;
            return Arc::clone(server);
        }
        if others.len() >= REMEMBERED
            && let Some(oldest) = others.iter().min_by_key(|(_, (_, asked))| *asked)
        {
            let oldest = *oldest.0;
            others.remove(&oldest);
        }
        let server = Arc::new(Server::new(at, &self.sockets, netns));
        others.insert((netns, at), (Arc::clone(&server), now));
        server
    }

    /// The message that answers a question; the reasons if no server has one.
    pub(super) async fn ask(&self, question: &Question, to: To) -> Result<Message, String> {
        match to {
            To::Configured => ask_in_turn(&self.configured, question).await,
            To::Server(netns, at) => ask_in_turn(&[self.other(netns, at)], question).await,
        }
    }
}

/// The longest that [`Upstreams::ask`] may take for one question.
pub(super) const LIMIT: Duration = Duration::from_secs(6);
