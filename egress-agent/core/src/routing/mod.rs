//! The proxy's immutable snapshot: what is done with a redirected flow whose name is known.
//!
//! `registry` and `policy` build it; the proxy queries it. It knows no socket.

mod decide;
#[cfg(test)]
mod decide_tests;
mod denial;
mod find;
mod head;
mod index;
pub mod inside;
mod matching;
mod pick;
mod reading;
mod reason;
mod sniff;
mod table;
mod turns;

pub use decide::{HttpDecision, TcpDecision, TlsDecision};
pub use denial::HttpDenial;
pub use head::RequestHead;
pub use index::PortIndex;
pub use matching::{Fit, HttpMatch};
pub use pick::candidates;
pub use reading::{Patience, Reading, Step, only_host};
pub use reason::DenialReason;
pub use sniff::{Sniffed, sniff};
pub use table::{
    Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, RouteTable, Split, TcpRoute, TlsRoute,
    VirtualHost,
};
pub use turns::{Turn, Turns};
