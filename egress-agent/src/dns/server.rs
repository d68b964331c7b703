//! One name server. It is asked over UDP if only the server can answer, and otherwise over TCP. A server over TLS is asked
//! over TLS only.
//!
//! Owns that choice, and how often a question is asked. [`super::exchange`] decides which datagram is an answer,
//! [`super::in_turn`] which server is asked.

use super::exchange::Exchange;
use super::shared::NoAnswer;
use super::silence::{SILENT, Silence};
use super::tls::{Link, OverTls};
use super::transport::Transport;
use crate::sockets::SocketFactory;
use egress_core::dns::query::Question;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::ConnectionProvider;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Record, RecordType};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long one server has for one question, including a repetition over TCP.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A question is asked over UDP once more if there is no answer after this time: a datagram may be lost.
const REPEAT: Duration = SILENT;

type Client = hickory_resolver::Resolver<Transport>;

/// See the module.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) silence: Silence,
    udp: Exchange,
    stream: Stream,
    /// Whether every question goes over the stream.
    only_tcp: AtomicBool,
}

/// What carries questions that do not go over UDP.
enum Stream {
    Tcp(Client),
    Tls(hickory_resolver::Resolver<OverTls>),
}

impl Server {
    /// A server that is asked from this network namespace, at most `concurrent` questions at a time over TCP.
    pub(super) fn new(
        address: SocketAddr,
        sockets: &Arc<SocketFactory>,
        netns: NetnsCookie,
        concurrent: usize,
    ) -> anyhow::Result<Self> {
        let transport = Transport::new(Arc::clone(sockets), netns, TIMEOUT);
        Ok(Self {
            address,
            silence: Silence::new(Instant::now()),
            udp: Exchange::new(sockets, netns, address),
            stream: Stream::Tcp(client(address, transport, concurrent)?),
            only_tcp: AtomicBool::new(address.ip().is_loopback()),
        })
    }

    /// The server of a link, asked over the link only.
    pub(super) fn over_tls(
        link: &Arc<Link>,
        sockets: &Arc<SocketFactory>,
        concurrent: usize,
    ) -> anyhow::Result<Self> {
        let address = link.server();
        Ok(Self {
            address,
            silence: Silence::new(Instant::now()),
            udp: Exchange::new(sockets, sockets.own_netns(), address),
            stream: Stream::Tls(client(address, link.provider(), concurrent)?),
            only_tcp: AtomicBool::new(true),
        })
    }

    /// Whether it is asked over TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    pub(super) async fn ask(&self, question: &Question) -> Result<Message, String> {
        let asked = Instant::now();
        let message = timeout(TIMEOUT, self.message(question)).await;
        let message = message.unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")));
        let now = Instant::now();
        match &message {
            Ok(_) => self.silence.answered(asked, now),
            Err(_) => self.silence.unanswered(asked, now),
        }
        let message = message?;
        let code = message.metadata.response_code;
        let is_final = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        // Any other code is a failure of the server.
        is_final.then_some(message).ok_or_else(|| code.to_string())
    }

    async fn message(&self, question: &Question) -> Result<Message, String> {
        let tcp = match &self.stream {
            // This way only.
            Stream::Tls(tls) => return over_stream(tls, question).await,
            Stream::Tcp(tcp) => tcp,
        };
        if !self.only_tcp.load(Ordering::Relaxed)
            && let Some(message) = self.over_udp(question).await
        {
            return Ok(message);
        }
        over_stream(tcp, question).await
    }

    /// `None` if the question has to be asked over TCP.
    async fn over_udp(&self, question: &Question) -> Option<Message> {
        let first = timeout(REPEAT, self.udp.ask(question)).await;
        let answer = match first {
            Ok(answer) => answer,
            Err(_) => self.udp.ask(question).await,
        };
        let server = self.address;
        match answer {
            Ok(bytes) => {
                let message = Message::from_vec(&bytes).ok();
                message.filter(|message| is_whole(message, question))
            }
            Err(why @ NoAnswer::CaseLost) => {
                if !self.only_tcp.swap(true, Ordering::Relaxed) {
                    tracing::info!(%server, "asking this DNS server over TCP from now on: {why}");
                }
                None
            }
            Err(NoAnswer::OnThisNode | NoAnswer::WrongAnswers | NoAnswer::Socket(_)) => None,
        }
    }
}

/// Asks hickory, which follows aliases.
async fn over_stream<P: ConnectionProvider>(
    client: &hickory_resolver::Resolver<P>,
    question: &Question,
) -> Result<Message, String> {
    let name = question.fqdn().ok_or("the name cannot be asked for")?;
    let kind = question.kind;
    match client.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let (answers, authorities) = (lookup.answers(), lookup.authorities());
            let code = ResponseCode::NoError;
            Ok(message(
                Query::query(name, kind),
                code,
                answers,
                authorities,
            ))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let soa = none.soa.as_deref();
            let soa = soa.map(|soa| soa.clone().into_record_of_rdata());
            let code = none.response_code;
            Ok(message(Query::query(name, kind), code, &[], soa.as_slice()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Whether a message has the whole answer: it is not truncated, and an alias in it leads to records or to the word that
/// there are none.
fn is_whole(message: &Message, question: &Question) -> bool {
    let of = |kind| move |record: &Record| record.record_type() == kind;
    let ends = question.kind == RecordType::CNAME
        || message.answers.is_empty()
        || message.answers.iter().any(of(question.kind))
        || message.authorities.iter().any(of(RecordType::SOA));
    !message.metadata.truncation && ends
}

fn message(
    question: Query,
    code: ResponseCode,
    answers: &[Record],
    authorities: &[Record],
) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    message.add_query(question);
    message.answers = answers.to_vec();
    message.authorities = authorities.to_vec();
    message
}

/// A client over a stream of this provider.
fn client<P: ConnectionProvider>(
    server: SocketAddr,
    provider: P,
    concurrent: usize,
) -> anyhow::Result<hickory_resolver::Resolver<P>> {
    // hickory is built without TLS: a link takes care of it.
    let mut connection = ConnectionConfig::tcp();
    connection.port = server.port();
    let config = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![config]);
    let mut builder = hickory_resolver::Resolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.ndots = 0;
    options.timeout = TIMEOUT;
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = 2 * concurrent;
    Ok(builder.build()?)
}
