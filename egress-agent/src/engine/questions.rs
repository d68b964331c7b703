//! Sends the questions of the state machine and returns their results to it. The state machine
//! decides which name is due and what an answer means.

use super::ahead::Ahead;
use super::asker::{Asker, Reply};
use crate::dns::Resolver;
use crate::observe::counters::Counters;
use egress_core::istio::Object;
use egress_core::policy::state::{Query, State};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// The most replies that are one input, so that their consequences are carried out once. Other inputs wait
/// for at most one such batch.
const AT_ONCE: usize = 256;
/// The most questions that wait in the resolver, each in a task. The resolver asks fewer at a time, so it
/// has work while the engine is busy.
const UNDER_WAY: usize = 1024;

/// The questions under way, at most one for each name.
pub(super) struct Questions {
    asker: Asker,
    /// Those of a plan that was being made, until the state machine has asked them all.
    ahead: Option<Ahead>,
    replies: mpsc::UnboundedSender<Reply>,
    inbox: mpsc::UnboundedReceiver<Reply>,
    under_way: usize,
}

impl Questions {
    /// None under way.
    pub(super) fn new(resolver: Resolver, counters: Counters) -> Self {
        let (replies, inbox) = mpsc::unbounded_channel();
        Self {
            asker: Asker::new(resolver, counters),
            ahead: None,
            replies,
            inbox,
            under_way: 0,
        }
    }

    /// Asks for the names of rules until the next call of [`Self::ask`]. Few are planned at once.
    pub(super) fn ask_ahead(&mut self, objects: &[Arc<Object>]) {
        if objects.len() > UNDER_WAY {
            let ahead = Ahead::begin(objects, &self.asker, self.replies.clone());
            self.ahead = Some(ahead);
        }
    }

    /// Asks questions that are due, up to [`UNDER_WAY`]. A call after the next replies asks the rest.
    pub(super) fn ask(&mut self, state: &mut State) {
        if let Some(ahead) = &self.ahead {
            ahead.stop();
        }
        while self.under_way < UNDER_WAY {
            let Some(Query { name }) = state.poll_query() else {
                self.ahead = None;
                return;
            };
            self.under_way += 1;
            if self.ahead.as_ref().is_some_and(|ahead| ahead.want(&name)) {
                continue;
            }
            let (asker, replies) = (self.asker.clone(), self.replies.clone());
            tokio::spawn(async move {
                let result = asker.ask(&name).await;
                // The receiver is gone only when the agent ends.
                let _ = replies.send(Reply { name, result });
            });
        }
    }

    /// Waits for results, at least one. Dropping the future loses none.
    pub(super) async fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        // It returns without a reply only once every sender is gone, and `self` keeps one.
        self.inbox.recv_many(&mut replies, AT_ONCE).await;
        self.under_way = self.under_way.saturating_sub(replies.len());
        replies
    }
}

/// The effect of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Some were answers.
    pub(super) answered: bool,
    /// Some names have other addresses.
    pub(super) changed: bool,
}

/// Gives replies to the state machine. Logs names that fail or work again, and ignored addresses.
pub(super) fn give(replies: Vec<Reply>, now: Instant, state: &mut State) -> Taken {
    let answered = replies.iter().any(|reply| reply.result.is_ok());
    let names: Vec<_> = replies
        .iter()
        .map(|reply| Arc::clone(&reply.name))
        .collect();
    let results = replies.into_iter().map(|reply| (reply.name, reply.result));
    let outcomes = state.handle_answers(now, results.collect());
    let mut taken = Taken {
        answered,
        changed: false,
    };
    // A name server that fails does so for many names at a time.
    let (mut failed, mut recovered) = (BTreeMap::<String, Vec<_>>::new(), Vec::new());
    for (name, outcome) in names.iter().zip(outcomes) {
        taken.changed |= outcome.changed;
        if let Some(failure) = outcome.failed {
            failed.entry(failure.to_string()).or_default().push(name);
        }
        if outcome.recovered {
            recovered.push(name);
        }
        if !outcome.not_public.is_empty() {
            let addresses = join(&outcome.not_public);
            tracing::warn!(%name, addresses, "DNS answer contains addresses that are not public; ignoring them (allowPrivateAnswers or privateAnswers accepts them)");
        }
        if outcome.left_out > 0 {
            tracing::warn!(%name, left_out = outcome.left_out, "DNS answer contains more addresses than a name may have; ignoring the rest");
        }
    }
    for (failure, names) in &failed {
        if let [name, more @ ..] = &names[..] {
            let more = more.len();
            tracing::warn!(%name, more, failure, "DNS lookup failed; keeping the last known addresses");
        }
    }
    if let [name, more @ ..] = &recovered[..] {
        tracing::info!(%name, more = more.len(), "DNS lookup works again");
    }
    taken
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
