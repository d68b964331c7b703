//! Asks the agent's DNS questions, and answers those of the workloads (`serve`). The pure state machine decides which
//! names are asked when, and how long an answer is valid.

mod exchange;
mod resolver;
mod serve;
mod server;
mod transport;

pub use resolver::Resolver;
pub use serve::{
    Asker, DeniedQuery, DnsUse, Learned, Owners, Parts, Queries, QueryResult, Server, datagrams,
    stream,
};
