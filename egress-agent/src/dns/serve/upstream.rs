//! Asks for the answer to a workload's query: the agent's configured servers, or the one that the client asked, from the
//! client's network namespace.
//!
//! The questions have everything that protects the agent's own ([`Server`]), and no byte of the client's message.

use crate::dns::server::Server;
use crate::sockets::SocketFactory;
use egress_core::dns::query::Question;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::Record;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many times to try the list of servers.
const ROUNDS: usize = 2;
/// Questions to one server at a time.
const CONCURRENT: usize = 1024;
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
    pub(super) fn new(
        servers: &[SocketAddr],
        sockets: &Arc<SocketFactory>,
    ) -> anyhow::Result<Self> {
        let own = sockets.own_netns();
        let server = |at: &SocketAddr| Server::new(*at, sockets, own, CONCURRENT).map(Arc::new);
        Ok(Self {
            sockets: Arc::clone(sockets),
            configured: servers.iter().map(server).collect::<anyhow::Result<_>>()?,
            others: Mutex::default(),
        })
    }

    /// The server of a client.
    fn other(&self, netns: NetnsCookie, at: SocketAddr) -> anyhow::Result<Arc<Server>> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((server, asked)) = others.get_mut(&(netns, at)) {
            *asked = now;
            return Ok(Arc::clone(server));
        }
        if others.len() >= REMEMBERED
            && let Some(oldest) = others.iter().min_by_key(|(_, (_, asked))| *asked)
        {
            let oldest = *oldest.0;
            others.remove(&oldest);
        }
        let server = Arc::new(Server::new(at, &self.sockets, netns, CONCURRENT)?);
        others.insert((netns, at), (Arc::clone(&server), now));
        Ok(server)
    }

    /// The message that answers a question; the reasons if no server has one.
    pub(super) async fn ask(&self, question: &Question, to: To) -> Result<Message, String> {
        let servers = match to {
            To::Configured => self.configured.clone(),
            To::Server(netns, at) => vec![self.other(netns, at).map_err(|e| e.to_string())?],
        };
        let Some(name) = question.fqdn() else {
            return Err("the name cannot be asked for".to_owned());
        };
        let mut failures = Vec::new();
        for _ in 0..ROUNDS {
            for server in &servers {
                match server.lookup(&name, question.kind).await {
                    Ok(lookup) => {
                        let (answers, authorities) = (lookup.answers(), lookup.authorities());
                        let code = ResponseCode::NoError;
                        return Ok(message(question, code, answers, authorities));
                    }
                    Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                        if is_final(none.response_code) =>
                    {
                        let soa = none
                            .soa
                            .as_deref()
                            .map(|soa| soa.clone().into_record_of_rdata());
                        let code = none.response_code;
                        return Ok(message(question, code, &[], soa.as_slice()));
                    }
                    Err(e) => {
                        let failure = format!("{}: {e}", server.address);
                        if !failures.contains(&failure) {
                            failures.push(failure);
                        }
                    }
                }
            }
        }
        Err(failures.join(", "))
    }
}

/// Whether the answer is the name's own, and not a server's failure.
fn is_final(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn message(
    question: &Question,
    code: ResponseCode,
    answers: &[Record],
    authorities: &[Record],
) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    if let Some(name) = question.fqdn() {
        message.add_query(Query::query(name, question.kind));
    }
    message.answers = answers.to_vec();
    message.authorities = authorities.to_vec();
    message
}

/// The longest that [`Upstreams::ask`] may take for one question.
pub(super) const LIMIT: Duration = Duration::from_secs(6);
