//! The proxy's immutable snapshot: what happens to a redirected flow once its name is known.
//!
//! `registry` and `policy` build it; the proxy only asks. It knows no socket.

mod decide;
mod index;
mod pick;
mod table;

pub use decide::{HttpDecision, RequestHead, TlsDecision};
pub use index::PortIndex;
pub use pick::candidates;
pub use table::{
    Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, RouteTable, TlsRoute, VirtualHost,
};
