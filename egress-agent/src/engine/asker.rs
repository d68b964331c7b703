//! One DNS question of the agent, and its result.

use crate::dns::Resolver;
use crate::observe::counters::Counters;
use crate::observe::families::Own;
use crate::observe::histogram::Timing;
use egress_core::policy::leases::{Answer, Failure};
use std::sync::Arc;
use std::time::Instant;

/// What a question leads to.
pub(super) type Answered = Result<Answer, Failure>;

/// The result of a question.
pub(super) struct Reply {
    pub(super) name: Arc<str>,
    pub(super) result: Answered,
}

/// Asks one question at a time, and counts it.
#[derive(Clone)]
pub(super) struct Asker {
    resolver: Resolver,
    counters: Counters,
}

impl Asker {
    pub(super) fn new(resolver: Resolver, counters: Counters) -> Self {
        Self { resolver, counters }
    }

    pub(super) async fn ask(&self, name: &str) -> Answered {
        let begin = Instant::now();
        let result = self.resolver.resolve(name).await;
        let timings = self.counters.timings();
        timings.observe(Timing::DnsQuestion, begin.elapsed());
        self.counters.add(counter_of(&result), 1);
        result
    }
}

fn counter_of(result: &Answered) -> Own {
    match result {
        Ok(_) => Own::DnsAnswered,
        Err(Failure::NoSuchName) => Own::DnsNoSuchName,
        Err(Failure::NoAddress | Failure::NotPublic(_)) => Own::DnsNoAddress,
        Err(Failure::Failed(_)) => Own::DnsFailed,
    }
}
