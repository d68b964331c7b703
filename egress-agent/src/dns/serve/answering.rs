//! From a message to its reply, or to `resolving` if a name server has to be asked.

use super::asker::Asker;
use super::cache::Asked;
use super::observe::{DeniedQuery, QueryResult};
use super::server::Server;
use super::upstream::To;
use super::waiting::{Waiting, Way};
use crate::lock::lock;
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::judge::{
    Decision, Denial, Endpoints, Forward, Reach, Reason, Upstream, judge_after,
};
use egress_core::dns::listing::{Directory, Listing};
use egress_core::dns::query::{Query, Question, read};
use egress_core::policy::state::Unlisted;
use hickory_resolver::proto::op::ResponseCode;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// The answer for a host from the addresses of its endpoints that are in the kernel.
    fn of_endpoints(&self, endpoints: &Endpoints, question: &Question) -> (QueryResult, Content) {
        let known = endpoints.answer(question.kind, &self.in_force.load());
        known.map_or_else(
            || (QueryResult::Failed, Content::empty(ResponseCode::ServFail)),
            |local| (QueryResult::Local, Content::local(question, &local)),
        )
    }

    pub(super) fn deny(&self, asker: &Asker, question: &Question, reason: &Reason, audit: bool) {
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
