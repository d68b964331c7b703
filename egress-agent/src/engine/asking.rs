//! The engine's part with name servers: sends the questions that the state machine wants asked and
//! takes what came of them. Which name is due, and what an answer means, does not stand here.

use super::{Engine, FIRST_ANSWERS, FIRST_ANSWERS_ALONE};
use crate::dns::Resolver;
use crate::observe::readiness::Part;
use egress_core::policy::leases::{Answer, Failure};
use egress_core::policy::state::Query;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Names that are waited for and shown.
const NAMES_SHOWN: usize = 5;

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
    /// Waits for the first answers, as long as [`Engine::begin`] says, and answers `status`
    /// meanwhile.
    pub(super) async fn first_answers(&mut self) {
        let begin = Instant::now();
        self.answers_until = Some(begin + FIRST_ANSWERS);
        let patience = if self.state.lists_nothing() {
            FIRST_ANSWERS_ALONE
        } else {
            FIRST_ANSWERS
        };
        let deadline = tokio::time::Instant::from_std(begin + patience);
        self.tell_of_answers();
        while self.answers_until.is_some() {
            tokio::select! {
                Some(reply) = self.questions.reply() => {
                    self.answer(reply);
                    self.tell_of_answers();
                }
                Some(ask) = self.news.asks.recv() => self.reply(ask),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        if self
            .answers_until
            .is_some_and(|until| until <= Instant::now())
        {
            self.stop_waiting();
        }
    }

    /// Says which names are waited for, while the first answers are.
    pub(super) fn tell_of_answers(&mut self) {
        if self.answers_until.is_none() {
            return;
        }
        let names = self.state.unresolved();
        if names.is_empty() {
            self.answers_until = None;
        }
        let why = (!names.is_empty()).then(|| {
            let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
            format!(
                "waiting for the first DNS answers: {} names, {shown}",
                names.len()
            )
        });
        self.news.board.set(Part::Answers, why);
    }

    /// Goes on without the first answers that did not come.
    pub(super) fn stop_waiting(&mut self) {
        self.answers_until = None;
        self.news.board.set(Part::Answers, None);
        let denied = self.state.addressless().join(", ");
        tracing::warn!(
            denied,
            "some names have no DNS answer yet; they are denied until they have one"
        );
    }

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
        if !outcome.not_public.is_empty() {
            let addresses = join(&outcome.not_public);
            tracing::warn!(%name, addresses, "DNS answer contains addresses that are not public; ignoring them (allowPrivateAnswers or privateAnswers accepts them)");
        }
        if outcome.left_out > 0 {
            tracing::warn!(%name, left_out = outcome.left_out, "DNS answer contains more addresses than a name may have; ignoring the rest");
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
