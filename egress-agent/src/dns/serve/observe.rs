//! What the DNS server reports: the result of each query, and each denial.

use super::asker::Asker;
use egress_core::dns::judge::Reason;
use egress_core::dns::query::Question;

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryResult {
    /// A name server was asked.
    Forwarded,
    /// The answer was kept.
    Cached,
    /// The agent knows the answer.
    Local,
    /// The query was denied.
    Denied,
    /// No name server had a usable answer in time: the client got the addresses that are leased.
    Stale,
    /// No name server had a usable answer.
    Failed,
    /// The message is malformed or is not a query.
    Malformed,
    /// Too many queries of the workload wait, or the owner of the query is not known.
    Dropped,
}

/// A query that the policy does not list.
#[derive(Clone, Debug)]
pub struct DeniedQuery<'a> {
    /// Who asked.
    pub asker: &'a Asker,
    /// What.
    pub question: &'a Question,
    /// Why it is denied.
    pub reason: &'a Reason,
    /// It was forwarded, because the policy audits.
    pub audit: bool,
}

/// Counts and records queries. A slow observer would delay all queries.
pub trait Queries: Send + Sync {
    /// A query has ended.
    fn ended(&self, result: QueryResult);
    /// A query is denied, or would be.
    fn denied_query(&self, denied: &DeniedQuery<'_>);
    /// A lease is in force.
    fn leased(&self);
}
