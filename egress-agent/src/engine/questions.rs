//! Sends the questions of the state machine and returns their results to it. The state machine
//! decides which name is due and what an answer means.

use crate::dns::Resolver;
use egress_core::policy::leases::{Answer, Failure};
use egress_core::policy::state::{Query, State};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Replies that are taken together: what follows from them is carried out once.
const AT_ONCE: usize = 256;

/// A question that came back.
pub(super) struct Reply {
    name: Arc<str>,
    result: Result<Answer, Failure>,
}

/// Questions that are under way: one for a name at a time, so there are never more than names.
pub(super) struct Questions {
    resolver: Resolver,
    replies: mpsc::UnboundedSender<Reply>,
    inbox: mpsc::UnboundedReceiver<Reply>,
}

impl Questions {
    /// None under way.
    pub(super) fn new(resolver: Resolver) -> Self {
        let (replies, inbox) = mpsc::unbounded_channel();
        Self {
            resolver,
            replies,
            inbox,
        }
    }

    /// Asks what is due.
    pub(super) fn ask(&self, state: &mut State) {
        while let Some(Query { name }) = state.poll_query() {
            let (resolver, replies) = (self.resolver.clone(), self.replies.clone());
            tokio::spawn(async move {
                let result = resolver.resolve(&name).await;
                // The receiver is gone only when the agent ends.
                let _ = replies.send(Reply { name, result });
            });
        }
    }

    /// Those that came back, at least one. Dropping the future loses none.
    pub(super) async fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        // None come only where no sender is left, and one is kept here.
        self.inbox.recv_many(&mut replies, AT_ONCE).await;
        replies
    }
}

impl Reply {
    /// Whether it is an answer.
    pub(super) fn is_good(&self) -> bool {
        self.result.is_ok()
    }

    /// Gives it to the state machine, and logs what is wrong with it. Returns whether the name has
    /// other addresses.
    pub(super) fn give(self, now: Instant, state: &mut State) -> bool {
        let Self { name, result } = self;
        if let Err(failure) = &result {
            tracing::warn!(%name, %failure, "DNS lookup failed; keeping the last known addresses");
        }
        let outcome = state.handle_answer(now, &name, result);
        if !outcome.not_public.is_empty() {
            let addresses = join(&outcome.not_public);
            tracing::warn!(%name, addresses, "DNS answer contains addresses that are not public; ignoring them (allowPrivateAnswers or privateAnswers accepts them)");
        }
        if outcome.left_out > 0 {
            tracing::warn!(%name, left_out = outcome.left_out, "DNS answer contains more addresses than a name may have; ignoring the rest");
        }
        outcome.changed
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
