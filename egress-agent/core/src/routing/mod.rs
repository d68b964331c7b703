//! The proxy's immutable snapshot: it decides a redirected flow whose name is known.
//!
//! `registry` and `policy` build it; the proxy queries it. It knows no socket.

mod by_address;
mod by_name;
mod decide;
#[cfg(test)]
mod decide_tests;
mod denial;
mod entries;
mod head;
pub mod inside;
mod matching;
mod mirrors;
mod pick;
mod present;
mod reading;
mod reason;
mod sniff;
mod table;
mod turns;
mod unlisted;

pub use by_address::{ByAddress, ByNetwork};
pub use by_name::{ByName, Named, Rank};
pub use decide::{Act, HttpDecision, Target, TcpDecision, TlsDecision};
pub use denial::HttpDenial;
pub use entries::{Cluster, HttpRoute, Mirror, Share, Split, TcpRoute, TlsRoute, VirtualHost};
pub use head::RequestHead;
pub use matching::{Fit, HttpMatch};
pub use pick::candidates;
pub use reading::{Patience, Reading, Step, only_host};
pub use reason::DenialReason;
pub use sniff::{Sniffed, sniff};
pub use table::{PolicyRoutes, PortKind, PortRoutes, RouteTable};
pub use turns::{Turn, Turns};
