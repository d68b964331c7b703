//! Asks name servers for the queries that wait, and answers these queries.
//!
//! Owns how long a query waits, and that the leases of an answer are in the kernel before the answer leaves.

use super::cache::Asked;
use super::observe::QueryResult;
use super::server::{Learned, Server};
use super::under_way::UnderWay;
use super::upstream::{LIMIT, To};
use super::waiting::{Others, Waiting};
use crate::lock::lock;
use egress_core::dns::aliases::Seen;
use egress_core::dns::answer::{Filtered, Target, filter_held, filter_message};
use egress_core::dns::content::Content;
use egress_core::dns::judge::{Forward, Reason};
use egress_core::dns::listing::Directory;
use egress_core::dns::stale::stale;
use egress_core::policy::leases::Lease;
use hickory_resolver::proto::op::ResponseCode;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A client gets the addresses that are still leased if name servers need longer (RFC 8767 §5).
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long the next agent may need to take over from this one, which puts no lease in force any more.
const TAKES_OVER: Duration = Duration::from_secs(1);
/// If as many queries wait, replies are sent together.
const MANY: usize = 8;

/// An answer for clients.
struct Answered {
    content: Arc<Content>,
    /// Why addresses of it are left out.
    denied: Vec<Reason>,
    /// Whether all are.
    nothing_left: bool,
}

impl Server {
    /// Lets a query wait for a name server, which is asked unless it is already.
    pub(super) fn wait(
        self: &Arc<Self>,
        key: Asked,
        forward: Forward,
        to: To,
        directory: Arc<Directory>,
        waiting: Waiting,
    ) {
        let mut under_way = lock(&self.under_way);
        if let Some(others) = under_way.get_mut(&key) {
            if others.late
                && let Some(content) = self.last_resort(&key, &forward)
            {
                drop(under_way);
                self.reply_all(vec![waiting], &content, QueryResult::Stale);
                return;
            }
            others.waiting.push(waiting);
            return;
        }
        under_way.insert(key.clone(), Others::new(waiting));
        drop(under_way);
        let server = Arc::clone(self);
        tokio::spawn(async move { server.resolve(key, forward, to, directory).await });
    }

    /// Asks a name server and answers all queries that wait for it.
    async fn resolve(
        self: Arc<Self>,
        asked: Asked,
        forward: Forward,
        to: To,
        directory: Arc<Directory>,
    ) {
        let under_way = UnderWay {
            server: &self,
            asked: &asked,
        };
        let mut answering = pin!(self.answer(&asked, &forward, to, &directory));
        let mut answered = timeout(PATIENCE, answering.as_mut()).await;
        if answered.is_err() {
            // The name servers are asked up to the limit in any case, so that leases and cache have the answer.
            let late = self.late.take(asked.share);
            if let Some(content) = self.last_resort(&asked, &forward) {
                let waiting = under_way.become_late();
                self.reply_all(waiting, &content, QueryResult::Stale);
                if late.is_none() {
                    return;
                }
            }
            answered = timeout(LIMIT.saturating_sub(PATIENCE), answering).await;
        }
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let waiting = under_way.end();
        match answered {
            Ok(answered) => {
                let Answered {
                    content,
                    denied,
                    nothing_left,
                } = answered;
                for (waiting, reason) in waiting
                    .iter()
                    .flat_map(|w| denied.iter().map(move |r| (w, r)))
                {
                    self.deny(&waiting.asker, &asked.question, reason, false);
                }
                let result = if nothing_left {
                    QueryResult::Denied
                } else {
                    QueryResult::Forwarded
                };
                self.reply_all(waiting, &content, result);
            }
            Err(why) => {
                tracing::debug!(name = %asked.question.name, kind = %asked.question.kind, why, "DNS query of a workload failed");
                let (content, result) = match self.last_resort(&asked, &forward) {
                    Some(content) => (content, QueryResult::Stale),
                    None => (Content::empty(ResponseCode::ServFail), QueryResult::Failed),
                };
                self.reply_all(waiting, &content, result);
            }
        }
    }

    /// The addresses that are still leased.
    fn last_resort(&self, asked: &Asked, forward: &Forward) -> Option<Content> {
        stale(&self.in_force.load(), &asked.question, &forward.services)
    }

    fn reply_all(&self, waiting: Vec<Waiting>, content: &Content, result: QueryResult) {
        let many = self.waiting.in_use() >= MANY;
        for waiting in waiting {
            self.queries.ended(result);
            waiting.reply(content, many);
        }
    }

    /// The answer to a question, with its leases in force.
    async fn answer(
        &self,
        asked: &Asked,
        forward: &Forward,
        to: To,
        directory: &Directory,
    ) -> Result<Answered, String> {
        let message = self.upstreams.ask(&asked.question, to).await?;
        let listing = directory.listing(asked.policy);
        let accepted = self.accepted.load();
        let question = &asked.question;
        let filtered = filter_message(listing, &accepted, question, forward, &message);
        let mut filtered = filtered.map_err(|e| e.to_string())?;
        let shortest = accepted.min_ttl;
        drop(accepted);
        // Any other server, also one in a network that every workload may reach, could be a workload's own and answer
        // anything.
        let trusted = to == To::Configured;
        let mut leases = std::mem::take(&mut filtered.leases);
        if !trusted {
            leases.clear();
        }
        for lease in &mut leases {
            lease.workload = Some(asked.share);
            self.put_in_force(lease).await?;
        }
        let held = self.in_force.load();
        let has_room = |lease: &Lease| {
            let mut addresses = lease.answer.addresses.iter();
            addresses.all(|ip| held.has(&lease.name, *ip))
        };
        if !leases.iter().all(has_room) {
            let accepted = self.accepted.load();
            let held = filter_held(listing, &accepted, question, forward, &message, &held);
            filtered = held.map_err(|e| e.to_string())?;
            // The next one may have room.
            filtered.keep = Duration::ZERO;
        }
        let Filtered {
            content,
            keep,
            denied,
            nothing_left,
            targets,
            ..
        } = filtered;
        if trusted {
            self.note_targets(asked, forward, targets, shortest);
        }
        let content = Arc::new(content);
        if !keep.is_zero() {
            let grounds = (forward.services.clone(), leases);
            let kept = Arc::clone(&content);
            lock(&self.cache).put(Instant::now(), asked, kept, grounds, keep);
        }
        Ok(Answered {
            content,
            denied,
            nothing_left,
        })
    }

    /// Remembers where the aliases of an answer lead to, because some clients ask for the targets themselves.
    fn note_targets(
        &self,
        asked: &Asked,
        forward: &Forward,
        targets: Vec<Target>,
        shortest: Duration,
    ) {
        if targets.is_empty() {
            return;
        }
        let names = forward.listed_names(&asked.question.name);
        let (mut aliases, now) = (lock(&self.aliases), Instant::now());
        for (target, ttl) in targets {
            for listed in &names {
                let Some(host) = listed.hosts.first() else {
                    continue;
                };
                let seen = Seen {
                    policy: asked.policy,
                    host: Arc::clone(host),
                    name: Arc::clone(&listed.name),
                    target: Arc::clone(&target),
                };
                aliases.note(now, &seen, ttl.max(shortest));
            }
        }
    }

    /// Returns when the leases of an answer are in the kernel.
    async fn put_in_force(&self, lease: &Lease) -> Result<(), String> {
        if self.in_force.load().covers(Instant::now(), lease) {
            return Ok(());
        }
        let (done, in_force) = oneshot::channel();
        let learned = Learned {
            lease: lease.clone(),
            done,
        };
        if self.learned.send(learned).await.is_err() || in_force.await.is_err() {
            // A client that is told so asks again at once.
            sleep(TAKES_OVER).await;
            return Err("the agent is stopping".to_owned());
        }
        self.queries.leased();
        Ok(())
    }
}
