//! Asks the agent's DNS questions. The pure state machine decides which names are asked when, and how long an
//! answer is valid.

mod question;
mod resolver;
mod server;
mod transport;

pub use resolver::Resolver;
