//! Asks the agent's DNS questions, and answers those of the workloads (`serve`). The pure state machine decides which
//! names are asked when, and how long an answer is valid.

mod exchange;
mod failing;
mod in_turn;
mod link;
mod name_servers;
mod resolver;
mod serve;
mod server;
mod shared;
mod silence;
mod transport;
mod trust;

pub use name_servers::{NameServers, ServerState, check_trust};
pub use resolver::Resolver;
pub use serve::{
    Asker, DeniedQuery, DnsUse, Learned, Owners, Parts, Queries, QueryResult, Server, datagrams,
    stream,
};
