//! DNS: the agent's own questions. Which names are asked, when, and how long an answer lives is
//! the business of the pure state machine.

mod chain;
mod question;
mod resolver;
mod server;
mod transport;

pub use resolver::Resolver;
