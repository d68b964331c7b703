//! The engine's part with name servers: sends the questions that the state machine wants asked and
//! takes what came of them. Which name is due, and what an answer means, does not stand here.

use super::Engine;
use crate::dns::Resolver;
use egress_core::policy::leases::{Answer, Failure};
use egress_core::policy::state::Query;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

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

    fn ask(&self, Query { name }: Query) {
        let (resolver, replies) = (self.resolver.clone(), self.replies.clone());
        tokio::spawn(async move {
            let result = resolver.resolve(&name).await;
            // The receiver is gone only when the agent ends.
            let _ = replies.send(Reply { name, result });
        });
    }

    /// The next one that came back; never `None`. Dropping the future loses none.
    pub(super) async fn reply(&mut self) -> Option<Reply> {
        self.inbox.recv().await
    }
}

impl Engine {
    /// Asks what is due.
    pub(super) fn ask(&mut self) {
        while let Some(query) = self.state.poll_query() {
            self.questions.ask(query);
        }
    }

    /// Takes what came of a question.
    pub(super) fn answer(&mut self, Reply { name, result }: Reply) {
        let now = Instant::now();
        let good = result.is_ok();
        if let Err(failure) = &result {
            tracing::warn!(%name, %failure, "DNS lookup failed; keeping the last known addresses");
        }
        let outcome = self.state.handle_answer(now, &name, result);
        if good {
            self.lease_file.answered(now, outcome.changed);
        }
        if !outcome.refused.is_empty() {
            let addresses = join(&outcome.refused);
            tracing::warn!(%name, addresses, "answer with addresses that are not public: left out (--allow-private-answers takes them)");
        }
        if outcome.left_out > 0 {
            tracing::warn!(%name, left_out = outcome.left_out, "more addresses than one name may hold");
        }
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
