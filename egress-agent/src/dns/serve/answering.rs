//! From a message to its reply: what is answered at once, and what waits for a name server.

use super::asker::Asker;
use super::cache::Asked;
use super::observe::{DeniedQuery, QueryResult};
use super::server::{Learned, Server};
use super::under_way::{Others, UnderWay};
use super::upstream::{LIMIT, To};
use super::waiting::{Waiting, Way};
use egress_core::dns::aliases::Seen;
use egress_core::dns::answer::{Filtered, Target, filter_message};
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::judge::{
    Decision, Denial, Endpoints, Forward, Reach, Reason, Upstream, judge_after,
};
use egress_core::dns::listing::{Directory, Listing};
use egress_core::dns::query::{Query, Question, read};
use egress_core::dns::stale::stale;
use egress_core::policy::leases::Lease;
use egress_core::policy::state::Unlisted;
use hickory_resolver::proto::op::ResponseCode;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A client gets the addresses that are still leased if name servers need longer (RFC 8767 §5).
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long the next agent may need to take over from this one, which puts no lease in force any more.
const TAKES_OVER: Duration = Duration::from_secs(1);
/// If as many queries wait, replies are sent together.
const MANY: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Takes one query. Appends the reply to `at_once`, or sends it by `way` when a name server has answered. Returns
    /// whether the message was a query.
    pub(super) fn take(
        self: &Arc<Self>,
        message: &[u8],
        asker: &Arc<Asker>,
        transport: Transport,
        way: impl FnOnce() -> Way,
        at_once: &mut Vec<u8>,
    ) -> bool {
        let Query { client, question } = match read(message) {
            Ok(query) => query,
            Err(bad) => {
                self.queries.ended(QueryResult::Malformed);
                let reply = bad.reply();
                let readable = reply.is_some();
                at_once.extend(reply.unwrap_or_default());
                return readable;
            }
        };
        let mut reply = |result, content: &Content, age| {
            self.queries.ended(result);
            content.write(&client, transport, age, at_once);
        };
        let directory = self.directory.load();
        let listing = directory.of_workload(&asker.owners);
        let in_force = self.in_force.load();
        let now = Instant::now();
        if listing.unlisted() == Unlisted::Denied {
            let (share, by) = (asker.share, (directory.version, listing.policy));
            let kept = lock(&self.cache).judged(now, share, by, &question, &in_force);
            if let Some((content, age)) = kept {
                reply(QueryResult::Cached, &content, age);
                return true;
            }
        }
        let alias_of = |name: &str| {
            let aliases = lock(&self.aliases);
            aliases.names_of(Instant::now(), listing.policy, name)
        };
        let forward = match judge_after(listing, &question, alias_of) {
            Decision::Endpoints(endpoints) => {
                let (result, content) = self.of_endpoints(&endpoints, &question);
                reply(result, &content, Duration::ZERO);
                return true;
            }
            Decision::Local(local) => {
                let content = Content::local(&question, &local);
                reply(QueryResult::Local, &content, Duration::ZERO);
                return true;
            }
            Decision::Deny(denial) => {
                self.deny(asker, &question, &denial.reason, false);
                let content = Content::empty(denial.code);
                reply(QueryResult::Denied, &content, Duration::ZERO);
                return true;
            }
            Decision::Forward(forward) => forward,
        };
        let to = self.server_for(&directory, listing, asker, &forward);
        let key = Asked {
            share: asker.share,
            policy: listing.policy,
            server: match to {
                To::Configured => None,
                To::Server(netns, at) => Some((netns, at)),
            },
            leased: forward.reach == Reach::Leased,
            alias_of: forward
                .alias_of
                .iter()
                .map(|n| Arc::clone(&n.name))
                .collect(),
            question,
        };
        let kept =
            lock(&self.cache).get(now, &key, directory.version, &forward.services, &in_force);
        if let Some((content, age)) = kept {
            reply(QueryResult::Cached, &content, age);
            return true;
        }
        if let Some(denial) = self.exceeds(now, &directory, &forward, &key) {
            self.deny(asker, &key.question, &denial.reason, false);
            reply(
                QueryResult::Denied,
                &Content::empty(denial.code),
                Duration::ZERO,
            );
            return true;
        }
        if let Some(reason) = &forward.recorded {
            self.deny(asker, &key.question, reason, true);
        }
        let Some(place) = self.waiting.take(asker.share) else {
            self.queries.ended(QueryResult::Dropped);
            return true;
        };
        let waiting = Waiting {
            client,
            asker: Arc::clone(asker),
            way: way(),
            _place: place,
        };
        self.wait(key, forward, to, Arc::clone(&directory), waiting);
        true
    }

    /// The server to ask. A client's own server is asked only if the client may reach it. One of the agent's own is asked
    /// from the agent's network namespace, where no workload can answer in its place.
    fn server_for(
        &self,
        directory: &Directory,
        listing: Listing<'_>,
        asker: &Asker,
        forward: &Forward,
    ) -> To {
        let (denies, at) = (listing.unlisted() == Unlisted::Denied, asker.server.ip());
        match forward.upstream {
            Upstream::Asked if self.upstreams.is_own(at) => To::Configured,
            Upstream::Asked if !denies || is_inside(directory, at) => {
                To::Server(asker.netns, asker.server)
            }
            Upstream::Asked | Upstream::Trusted => To::Configured,
        }
    }

    /// Lets a query wait for a name server, which is asked unless it is already.
    fn wait(
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

    /// The answer for a host from the addresses of its endpoints that are in the kernel.
    fn of_endpoints(&self, endpoints: &Endpoints, question: &Question) -> (QueryResult, Content) {
        let known = endpoints.answer(question.kind, &self.in_force.load());
        known.map_or_else(
            || (QueryResult::Failed, Content::empty(ResponseCode::ServFail)),
            |local| (QueryResult::Local, Content::local(question, &local)),
        )
    }

    fn deny(&self, asker: &Asker, question: &Question, reason: &Reason, audit: bool) {
        self.queries.denied_query(&DeniedQuery {
            asker,
            question,
            reason,
            audit,
        });
    }

    /// Whether the workload asks for too many names below a wildcard.
    fn exceeds(
        &self,
        now: Instant,
        directory: &Directory,
        forward: &Forward,
        asked: &Asked,
    ) -> Option<Denial> {
        let wildcard = forward.wildcard().filter(|_| asked.leased)?;
        let below = directory.settings.below;
        let name = &asked.question.name;
        let allowed = lock(&self.below).allows(now, asked.share, wildcard, name, below);
        (!allowed).then(|| Denial {
            reason: Reason::TooMany {
                host: Arc::clone(wildcard),
                burst: below.burst,
                per_minute: below.per_minute,
            },
            code: directory.settings.denied.into(),
        })
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
            Ok(content) => self.reply_all(waiting, &content, QueryResult::Forwarded),
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
    ) -> Result<Arc<Content>, String> {
        let message = self.upstreams.ask(&asked.question, to).await?;
        let listing = directory.listing(asked.policy);
        let accepted = self.accepted.load();
        let filtered = filter_message(listing, &accepted, &asked.question, forward, &message);
        let Filtered {
            content,
            leases,
            keep,
            not_public,
            left_out,
            targets,
        } = filtered.map_err(|e| e.to_string())?;
        let shortest = accepted.min_ttl;
        drop(accepted);
        if let Some(not_public) = not_public {
            tracing::warn!(name = %asked.question.name, "DNS answer contains an address that is not public; leaving it out: {not_public}");
        }
        if left_out > 0 {
            tracing::warn!(name = %asked.question.name, left_out, "DNS answer contains more addresses than a name may have; leaving out the rest");
        }
        // Any other server, also one in a network that every workload may reach, could be a workload's own and answer
        // anything.
        let trusted = to == To::Configured;
        let mut leases = if trusted { leases } else { Vec::new() };
        for lease in &mut leases {
            lease.workload = Some(asked.share);
            self.put_in_force(lease).await?;
        }
        if trusted {
            self.note_targets(asked, forward, targets, shortest);
        }
        let content = Arc::new(content);
        if !keep.is_zero() {
            let grounds = (forward.services.clone(), leases);
            let kept = Arc::clone(&content);
            lock(&self.cache).put(Instant::now(), asked, kept, grounds, keep);
        }
        Ok(content)
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

/// Whether an address is in a network that every workload may reach.
fn is_inside(directory: &Directory, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    directory
        .settings
        .internal
        .iter()
        .any(|net| net.contains(&ip))
}
