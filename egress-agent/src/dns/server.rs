//! One name server. It is asked over UDP if only the server can answer, and otherwise over TCP. A server over TLS is asked
//! over TLS only. Its messages are used as they are, whichever way they came.
//!
//! Owns that choice, and how often a question is asked. [`super::exchange`] decides which datagram is an answer,
//! [`super::in_turn`] which server is asked.

use super::exchange::Exchange;
use super::link::Link;
use super::shared::NoAnswer;
use super::silence::{SILENT, Silence};
use crate::sockets::SocketFactory;
use egress_core::dns::chain::unfinished;
use egress_core::dns::query::Question;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long one server has for one question, including a repetition over TCP.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A question is asked over UDP once more if there is no answer after this time: a datagram may be lost.
const REPEAT: Duration = SILENT;

/// How many targets of aliases are asked for, if a server answers with an alias alone.
const TARGETS: usize = 8;

/// See the module.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) silence: Silence,
    udp: Exchange,
    link: Arc<Link>,
    /// Whether every question goes over the link.
    only_tcp: AtomicBool,
}

impl Server {
    /// A server that is asked from this network namespace.
    pub(super) fn new(
        address: SocketAddr,
        sockets: &Arc<SocketFactory>,
        netns: NetnsCookie,
    ) -> Self {
        let link = Link::over_tcp(address, sockets, netns);
        Self {
            address,
            silence: Silence::new(Instant::now()),
            udp: Exchange::new(sockets, netns, address),
            link: Arc::new(link),
            only_tcp: AtomicBool::new(address.ip().is_loopback()),
        }
    }

    /// The server of a link, asked over the link only.
    pub(super) fn over_tls(link: &Arc<Link>, sockets: &Arc<SocketFactory>) -> Self {
        let address = link.server();
        Self {
            address,
            silence: Silence::new(Instant::now()),
            udp: Exchange::new(sockets, sockets.own_netns(), address),
            link: Arc::clone(link),
            only_tcp: AtomicBool::new(true),
        }
    }

    /// Whether it is asked over TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.link.is_encrypted()
    }

    pub(super) async fn ask(&self, question: &Question) -> Result<Message, String> {
        let asked = Instant::now();
        let message = timeout(TIMEOUT, self.whole(question)).await;
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

    /// The message about a question. If its aliases lead to nothing, the records of their target too.
    async fn whole(&self, question: &Question) -> Result<Message, String> {
        let mut message = self.message(question).await?;
        for _ in 0..TARGETS {
            let Some(target) = unfinished(question, &message) else {
                break;
            };
            let more = self.message(&target).await?;
            message.metadata.response_code = more.metadata.response_code;
            message.answers.extend(more.answers);
            message.authorities = more.authorities;
        }
        Ok(message)
    }

    async fn message(&self, question: &Question) -> Result<Message, String> {
        if !self.only_tcp.load(Ordering::Relaxed)
            && let Some(message) = self.over_udp(question).await
        {
            return Ok(message);
        }
        self.over_link(question).await
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
                message.filter(|message| !message.metadata.truncation)
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

    async fn over_link(&self, question: &Question) -> Result<Message, String> {
        let name = question.fqdn().ok_or("the name cannot be asked for")?;
        let asked = Query::query(name, question.kind);
        let request = DnsRequest::from_query(asked.clone(), DnsRequestOptions::default());
        let response = self.link.ask(request).await.map_err(|e| e.to_string())?;
        let message = response.into_message();
        // Over UDP, the exchange compares them.
        let same = matches!(&*message.queries, [own] if *own == asked);
        if message.metadata.truncation {
            return Err("truncated answer".to_owned());
        }
        // A server that cannot read a question may not repeat it.
        let failed = message.metadata.response_code != ResponseCode::NoError;
        let usable = same || failed && message.queries.is_empty();
        usable
            .then_some(message)
            .ok_or_else(|| "answer to another question".to_owned())
    }
}
